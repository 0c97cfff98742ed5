"""Sections 4 and 8: what was promised to the people in the data, and how the rounds went."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lepton_fl.evidence import assessed
from lepton_fl.evidence.blocks import Block, Fact, Facts, Prose, Row, Section, Table
from lepton_fl.evidence.shown import Origin, Plain, Shown, absent, epsilon, number, said
from lepton_fl.evidence.sources import Sources

_ALONE = "without privacy there is nothing to account for"


def trained(sources: Sources) -> Shown:
    """Epsilon of training, or why there is none."""
    if sources.epsilon is None:
        why = sources.result.get("not_private_because") or "the run was not private"
        return absent(f"the model is not private: {why}", "result.json")
    spent = epsilon(sources.epsilon, Origin("result.json"))
    shown = epsilon(sources.epsilon, Origin("result.json", spent.value, sources.logged("run-ended")))
    return _of(shown, sources.result)


def evaluated(sources: Sources) -> Shown:
    """Epsilon of the figures, for the people who are held out; or why there is none."""
    found = sources.evaluation
    if found is None:
        return assessed.NO_EVALUATION
    if found.get("epsilon") is None:
        return absent("the counts were exact: no epsilon covers the people who are held out", assessed.FILE)
    return _of(epsilon(float(found["epsilon"]), assessed.origin(sources)), found)


def _of(shown: Shown, promise: Plain) -> Shown:
    """An epsilon with whose it is, and its delta: without them it says nothing."""
    return replace(shown, unit=f"per {promise.get('unit')}", why=f"delta {_plain_number(promise.get('delta'))}")


def privacy(sources: Sources) -> Section:
    """Section 4."""
    blocks: tuple[Block, ...] = (_promise(sources), _mechanism(sources), _releases(sources), _assumptions(sources))
    return Section("4", "Privacy", "What can anyone learn of one person, whatever else they know?", blocks)


def _promise(sources: Sources) -> Facts:
    result = sources.result
    facts = (
        Fact("privacy.unit", "hides the presence of one", said(result.get("unit"), "result.json")),
        Fact("privacy.relation", "compared with", said(result.get("neighbouring_relation"), "result.json")),
        Fact("privacy.epsilon", "epsilon of training", trained(sources)),
        Fact("privacy.epsilon_evaluation", "epsilon of the evaluation", evaluated(sources)),
        Fact("privacy.delta", "delta", said(_plain_number(result.get("delta")), "result.json")),
        Fact("privacy.budget", "budget of the run", number(result.get("epsilon_budget"), sources.from_run(), 4)),
        Fact("privacy.trust", "whom to trust", said(_trust(result), "result.json")),
        Fact("privacy.accountant", "accountant", said(_accountant(result), "result.json")),
        Fact("privacy.per_institution", "epsilon at each institution", absent(
            "what all runs on a data set cost together stands in each institution's own ledger", "ledger")),
        Fact("privacy.attack", "attack bound", absent(
            "no canaries were planted in this run; lepton-sim audit measures one on data that may be used for it")),
        Fact("privacy.tuning", "trials before this run", absent(
            "the operator's trials are not in this folder; each institution's ledger has those it took part in")),
    )  # fmt: skip
    return Facts("The promise", facts)


def _trust(result: Plain) -> str:
    if result.get("noise") == "shared":
        return (
            f"at least {result.get('honest')} institutions, who add the noise together, not to side with the operator; "
            "the operator, to run the protocol without more of them"
        )
    seen = "sums over all institutions alone" if result.get("secure_aggregation") else "each institution's update"
    if result.get("unit") == "institution":
        return f"the operator, who adds the noise and sees {seen}"
    if result.get("noise_multiplier") is None:
        return f"the operator, who sees {seen}, without noise"
    return f"the person's own institution alone; the operator sees {seen}, after the noise"


def _accountant(result: Plain) -> str:
    if result.get("noise_multiplier") is None:
        return _ALONE
    if result.get("noise") == "shared":
        return "Rényi divergences of the sampled Skellam mechanism, at whole orders"
    return "privacy loss distributions of the sampled Gaussian mechanism (dp-accounting)"


def _mechanism(sources: Sources) -> Facts:
    result, where = sources.result, sources.from_run()
    names = (
        ("noise_multiplier", "noise multiplier", 4),
        ("clipping_norm", "clipping norm (L2)", 4),
        ("sampling_rate", "sampling rate of a step", 6),
        ("steps", "noisy steps at one institution", 0),
    )
    return Facts("The mechanism", tuple(
        Fact(f"privacy.{name}", what, absent(_ALONE, "result.json") if result.get(name) is None
             else number(float(result[name]), where, places))
        for name, what, places in names
    ))  # fmt: skip


def _plain_number(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _releases(sources: Sources) -> Table:
    rows = [Row(("training", f"{sources.result.get('rounds')} rounds", "people trained on"), (trained(sources),))]
    found = sources.evaluation
    if found is not None:
        count = f"{found.get('releases', 1)} releases of counts"
        rows.append(Row(("evaluation", count, "people held out"), (evaluated(sources),)))
    explained = sources.explanation
    if explained is not None:
        paid = explained.get("epsilon")
        shown = absent("no epsilon covers it", "explanation.json")
        if paid is not None:
            where = Origin("explanation.json", None, sources.logged("release", what="explanation"))
            shown = epsilon(float(paid), where)
        rows.append(Row(("explanation", "one release", "people held out"), (shown,)))
    note = (
        "Nobody is both trained on and held out, so a person pays one of these lines, or those that name the same "
        "people added up."
    )
    heads = ("of", "how often", "who pays")
    return Table("releases", "Everything that was released", heads, ("epsilon",), tuple(rows), note)


def _assumptions(sources: Sources) -> Prose:
    items = [
        "The promise covers one " + str(sources.result.get("unit") or "record") + " at one institution. Somebody whose "
        "records are at several is protected by the sum of their epsilons.",
        "It covers what leaves an institution, not what its own staff can read.",
        "It says nothing of what the data tells about everybody: that smoking harms is learned with and without you.",
    ]
    return Prose("What it does not cover", tuple(items))


def rounds(sources: Sources, *, with_names: bool) -> Section:
    """Section 8."""
    lines, where = sources.rounds, Origin("rounds.jsonl")
    asked = Counter(name for line in lines for name in line.get("cohort", ()))
    replied = Counter(name for line in lines for name in line.get("replied", ()))
    refused = Counter(name for line in lines for name in line.get("refused", {}))
    dropped = {name: asked[name] - replied[name] - refused[name] for name in asked}
    blocks: list[Block] = [Facts("All rounds", (
        Fact("rounds.made", "rounds that changed the model", number(
            sum(1 for line in lines if line.get("skipped") is None), where, 0)),
        Fact("rounds.skipped", "rounds that were skipped", number(
            sum(1 for line in lines if line.get("skipped") is not None), where, 0)),
        Fact("rounds.refused", "updates that were left out", number(sum(refused.values()), where, 0)),
        Fact("rounds.dropped", "times an institution did not answer", number(sum(dropped.values()), where, 0)),
        Fact("rounds.revoked", "institutions revoked", _events(sources, "revoked")),
        Fact("rounds.renewed", "certificates renewed", _events(sources, "renewed")),
    ))]  # fmt: skip
    if with_names:
        counts = (asked, replied, refused, dropped)
        rows = tuple(Row((str(name),), tuple(number(one[name], where, 0) for one in counts)) for name in sorted(asked))
        heads = ("asked", "in the model", "left out", "did not answer")
        blocks.append(Table("participation", "By institution", ("institution",), heads, rows))
        blocks += _reasons(sources)
    return Section("8", "Rounds", "Who took part, what was refused, who dropped out?", tuple(blocks))


def _events(sources: Sources, kind: str) -> Shown:
    if sources.log is None:
        return absent("there is no log beside this run", "log.json")
    found = sources.log.of(kind)
    return number(len(found), Origin("log.json", None, found[-1][0] if found else None), 0)


def _reasons(sources: Sources) -> list[Block]:
    why: Counter[tuple[str, str]] = Counter()
    for line in sources.rounds:
        why.update((str(name), str(reason)) for name, reason in line.get("refused", {}).items())
        why.update((str(name), f"not evaluated: {reason}") for name, reason in line.get("not_evaluated", {}).items())
    if not why:
        return []
    rows = tuple(Row(names, (number(count, Origin("rounds.jsonl"), 0),)) for names, count in sorted(why.items()))
    return [Table("reasons", "Why updates were left out", ("institution", "reason"), ("rounds",), rows)]
