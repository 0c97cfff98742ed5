"""Sections 9 to 12: energy, what can be deployed, what people decided, and how to check all this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lepton_fl.evidence.blocks import Block, Chart, Fact, Facts, Prose, Row, Section, Table
from lepton_fl.evidence.chapters_model import human
from lepton_fl.evidence.shown import Origin, Plain, Shown, absent, metric, number, said, significant
from lepton_fl.evidence.sources import Sources

ENERGY = "energy.jsonl"
NO_ENERGY = absent("no energy was recorded in this run", ENERGY)
NO_LOG = absent("there is no log beside this run", "log.json")
_JOULES_OF_A_KWH = 3.6e6
_TIERS = ("measured", "modelled", "declared")  # from the surest; a total takes the weakest
_PHASES = ("initialise", "train", "evaluate", "communicate", "aggregate", "idle")  # as they follow one another


def energy_total(sources: Sources) -> Shown:
    """Energy of the run, with the weakest tier of its parts."""
    stated = sources.result.get("energy")
    if stated:
        return Shown(significant(float(stated["kwh"]), 2), Origin("result.json"), unit="kWh", why=str(stated["tier"]))
    if not sources.energy:
        return NO_ENERGY
    joules = sum(map(_joules, sources.energy))
    kwh = significant(joules / _JOULES_OF_A_KWH, 2)
    return Shown(kwh, Origin(ENERGY), unit="kWh", why=weakest(sources.energy))


def weakest(lines: Iterable[Plain]) -> str:
    """The tier of a sum."""
    tiers = {str(line.get("tier")) for line in lines}
    return next((tier for tier in reversed(_TIERS) if tier in tiers), "declared")


def _joules(line: Plain) -> float:
    return sum(float(part["value"]) for part in (line.get("joules") or {}).values() if part)


def energy(sources: Sources, *, with_names: bool) -> Section:
    """Section 9."""
    lines = sources.energy
    total = Fact("energy.kwh", "energy of the run", energy_total(sources))
    if not lines:
        return Section("9", "Energy", "What did it cost to run?", (Facts("Total", (total,)),))
    where = Origin(ENERGY)
    there = {str(line["phase"]) for line in lines}
    phases = [*(phase for phase in _PHASES if phase in there), *sorted(there - {*_PHASES})]
    rows = tuple(
        Row((phase, weakest(some)), _energy_figures(some, where))
        for phase in phases
        for some in [[line for line in lines if line["phase"] == phase]]
    )
    blocks: list[Block] = [
        Facts("Total", (total, Fact("energy.tier", "how it is known", said(weakest(lines), ENERGY)),
                        Fact("energy.carbon", "carbon dioxide", _carbon(sources)),
                        Fact("energy.per_point", "energy of a further point of accuracy", _per_point(sources)))),
        Table("phases", "By phase", ("phase", "tier"), _ENERGY_COLUMNS, rows, _TIER_NOTE, Chart("stack", ("energy",))),
    ]  # fmt: skip
    if with_names:
        names = sorted({str(line["institution"]) for line in lines})
        rows = tuple(
            Row((name, weakest(some)), _energy_figures(some, where))
            for name in names
            for some in [[line for line in lines if line["institution"] == name]]
        )
        heads = ("institution", "tier")
        blocks.append(Table("sites", "By institution", heads, _ENERGY_COLUMNS, rows, chart=Chart("stack", ("energy",))))
    return Section("9", "Energy", "What did it cost to run?", tuple(blocks))


_ENERGY_COLUMNS = ("energy", "wall time", "CPU time", "sent", "received")
_TIER_NOTE = (
    "measured: the machine's own counters. modelled: processor time at a declared power. declared: somebody's meter. "
    "A sum is as sure as its least sure part."
)


def _energy_figures(lines: Sequence[Plain], where: Origin) -> tuple[Shown, ...]:
    def total(name: str, unit: str) -> Shown:
        return Shown(significant(sum(float(line.get(name) or 0) for line in lines), 2), where, unit=unit)

    joules = Shown(significant(sum(map(_joules, lines)), 2), where, unit="J")
    bytes_ = (total("bytes_up", "bytes"), total("bytes_down", "bytes"))
    return (joules, total("wall_s", "s"), total("cpu_s", "s"), *bytes_)


def _carbon(sources: Sources) -> Shown:
    stated = sources.result.get("energy") or {}
    grams, grid = stated.get("g_co2e"), stated.get("grid") or {}
    if grams is None:
        return absent("nobody declared how much carbon dioxide a kWh of this grid stands for", "result.json")
    declared = f"at {grid.get('g_per_kwh')} g per kWh, declared: {grid.get('source')}, {grid.get('year')}"
    return Shown(significant(float(grams), 2), Origin("result.json"), unit="g CO2e", why=declared)


def _per_point(sources: Sources) -> Shown:
    """kWh for each 0.01 of accuracy between the first and the last release that showed it."""
    shown = [
        (int(one["round"]), float(one["accuracy"]["value"]))
        for one in (sources.evaluation or {}).get("history", ())
        if (one.get("accuracy") or {}).get("value") is not None
    ]
    if len(shown) < 2:
        return absent("accuracy was released fewer than twice", "evaluation.json")
    (first, low), (last, high) = shown[0], shown[-1]
    if high <= low:
        return absent(f"accuracy did not grow from round {first} to round {last}", "evaluation.json")
    between = [line for line in sources.energy or () if first < int(line["round"]) <= last]
    pue = float((sources.result.get("energy") or {}).get("pue", 1))
    kwh = pue * sum(map(_joules, between)) / _JOULES_OF_A_KWH / (100 * (high - low))
    why = f"from round {first} to round {last}, {weakest(between)}; the accuracies have intervals"
    return Shown(significant(kwh, 2), Origin(ENERGY), unit="kWh", why=why)


def deployment(sources: Sources) -> Section:
    """Section 10."""
    size = said(None if sources.model is None else len(sources.model), "model.safetensors", "bytes")
    missing = absent("nothing was exported; the model is a file of numbers for the same software", "model.safetensors")
    facts = (
        Fact("deployment.size", "size of the model file", size),
        *human(sources, "licence"),
        Fact("deployment.export", "other formats, latency, parity", missing),
        Fact("deployment.compression", "change by compression, per group", absent("nothing was compressed")),
    )
    return Section("10", "Deployment", "In which form can it be used?", (Facts("The model file", facts),))


def decisions(sources: Sources, *, with_names: bool) -> Section:
    """Section 11; without names it has neither the person who overrode a gate nor the words of feedback."""
    blocks: list[Block] = [_gates(sources), _override(sources, with_names=with_names), _decided(sources)]
    blocks += [_feedback(sources) if with_names else _feedback_counted(sources)]
    blocks.append(Facts("Afterwards", human(sources, "human_oversight", "maintenance")))
    return Section("11", "Decisions", "Who decided what, and what was reported since?", tuple(blocks))


def verdict(sources: Sources) -> Shown:
    """Released, held or overridden."""
    if sources.gates is None:
        return absent("no gate was declared for this run", "gates.json")
    return said(sources.gates.get("verdict"), "gates.json").at(sources.logged("gate"))


def _gates(sources: Sources) -> Table:
    where = Origin("gates.json", None, sources.logged("gate"))
    rows = tuple(
        Row(
            (str(gate["gate"]), "holds" if gate.get("holds") else "does not hold", str(gate.get("why") or "")),
            (metric(gate.get("figure"), where), said(gate.get("limit"), "gates.json")),
        )
        for gate in (sources.gates or {}).get("gates", ())
    )
    note = "" if rows else "Not measured: no gate was declared for this run."
    return Table("gates", "Gates before release", ("gate", "verdict", "why"), ("figure", "limit"), rows, note)


def _override(sources: Sources, *, with_names: bool) -> Facts:
    override, at = (sources.gates or {}).get("override") or {}, sources.logged("override")
    reason = by = absent("nobody overrode a gate", "gates.json")
    if override:
        reason = said(override.get("reason"), "gates.json").at(at)
        by = said(override.get("by") if with_names else "a person whom the consortium knows", "gates.json").at(at)
    return Facts("Release", (
        Fact("decisions.verdict", "verdict", verdict(sources)),
        Fact("decisions.override", "reason of an override", reason),
        Fact("decisions.override_by", "overridden by", by),
    ))  # fmt: skip


def _decided(sources: Sources) -> Table:
    found = [] if sources.log is None else sources.log.of("decision")
    accepted = [index for index, one in found if one.get("accepted")]
    rows: tuple[Row, ...] = ()
    if sources.log is not None:
        refused = [index for index, _ in found if index not in accepted]
        rows = tuple(
            Row((what,), (number(len(some), Origin("log.json", None, some[-1] if some else None), 0),))
            for what, some in (("accepted the contract", accepted), ("refused it", refused))
        )
    note = "" if rows else f"Not measured: {NO_LOG.why}."
    return Table("contract-decisions", "What the institutions decided", ("decision",), ("institutions",), rows, note)


def _feedback(sources: Sources) -> Table:
    rows = tuple(
        Row((str(one.get("id", "")), str(one.get("kind", "")), str(one.get("about", "")),
             "closed" if one.get("closed_at") else "open", str(one.get("resolution") or "")), ())
        for one in sources.feedback or ()
    )  # fmt: skip
    note = "" if rows else "Nothing was reported to the operator."
    heads = ("number", "kind", "about", "state", "resolution")
    return Table("feedback", "What was reported since", heads, (), rows, note)


def _feedback_counted(sources: Sources) -> Table:
    """How many of each kind: what people wrote may say more than they meant for everybody."""
    where = Origin("feedback.json")
    counted = Counter(
        (str(one.get("kind")), "closed" if one.get("closed_at") else "open") for one in sources.feedback or ()
    )
    rows = tuple(Row(labels, (number(count, where, 0),)) for labels, count in sorted(counted.items()))
    note = "" if rows else "Nothing was reported to the operator."
    return Table("feedback", "What was reported since", ("kind", "state"), ("reports",), rows, note)


def checking(sources: Sources) -> Section:
    """Section 12."""
    log = sources.log
    size = NO_LOG if log is None else number(len(log.entries), Origin("log.json"), 0)
    blocks: tuple[Block, ...] = (
        Facts("The log", (
            Fact("log.size", "entries when this was written", size),
            Fact("log.head", "its signed head", head(sources)),
            Fact("log.key", "the key that signs it, and this report", key(sources)),
        )),
        Prose("How to check", (
            "lepton-server verify and lepton-client verify need no network and trust neither side. They recompute the "
            "hash of this report, of the page and of the model, and name the first place that is not as it was signed.",
            "Whoever has no log needs the key from somewhere else than this page: lepton-client verify --report --key.",
            "A log shows that nothing was changed afterwards. It does not show that what was entered was true.",
        )),
    )  # fmt: skip
    return Section("12", "Checking", "How can anyone see that none of this was changed?", blocks)


def head(sources: Sources) -> Shown:
    """The signed head of the log, or why there is none."""
    return NO_LOG if sources.log is None else said(sources.log.head, "log.json")


def key(sources: Sources) -> Shown:
    """The public key that signs heads and reports, and where the log says so."""
    found = [] if sources.log is None else sources.log.of("log-key")
    return NO_LOG if not found else said(found[-1][1].get("key"), "log.json").at(found[-1][0])


def root(sources: Sources) -> Shown:
    """The root hash in that head, base64: its third line (C2SP tlog-checkpoint)."""
    lines = [] if sources.log is None else sources.log.head.split("\n")
    return said(lines[2], "log.json") if len(lines) > 2 else NO_LOG
