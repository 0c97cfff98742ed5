"""Sections 5 to 7: how good the model is, for whom, and what it looks at."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_fl.evidence import assessed
from lepton_fl.evidence.assessed import FILE
from lepton_fl.evidence.blocks import Block, Chart, Fact, Facts, Prose, Row, Section, Table
from lepton_fl.evidence.chapters_model import human
from lepton_fl.evidence.shown import Origin, Plain, Shown, absent, metric, number, said
from lepton_fl.evidence.sources import Sources

_UNRESOLVED = "A difference whose interval contains zero, or a ratio whose interval contains one, is not resolved."
_BY_INSTITUTION = ("records", "accuracy", "AUC", "recall")
_OF_GROUPS = ("accuracy", "recall", "selection rate", "false positive rate", "AUC")


def performance(sources: Sources, *, with_names: bool) -> Section:
    """Section 5."""
    blocks: list[Block] = [_how(sources), _overall(sources), _history(sources)]
    if with_names:
        blocks.append(_by_institution(sources))
    blocks += _spread(sources)
    return Section("5", "Performance", "How good is the model on people it never saw?", tuple(blocks))


def _how(sources: Sources) -> Facts:
    found = sources.evaluation
    if found is None:
        is_counted = bool(sources.result.get("metrics"))
        how = said(sources.result.get("evaluation"), "result.json") if is_counted else assessed.NO_EVALUATION
        return Facts("How it was measured", (Fact("performance.how", "evaluation", how),))
    where, noise = Origin(FILE), found.get("noise_stddev") or {}
    kind = "counts with noise, summed" if found.get("evaluation") == "private" else "exact counts, not private"
    return Facts("How it was measured", (
        Fact("performance.how", "evaluation", said(kind, FILE)),
        Fact("performance.confidence", "confidence of each interval", number(found.get("confidence"), where, 3)),
        Fact("performance.releases", "releases", number(found.get("releases"), where, 0)),
        Fact("performance.round", "round of the final release", number(found.get("round"), where, 0)),
        *(Fact(f"performance.noise_{name}", f"noise of a cell, {name}", number(value, where, 2))
          for name, value in noise.items() if value),
    ))  # fmt: skip


def _overall(sources: Sources) -> Table:
    if sources.evaluation is None:
        names = ["records", "accuracy", "AUC", "log loss"]
        is_counted = bool(sources.result.get("metrics"))
        note = "Exact counts of the last round: without interval, and no epsilon covers them." if is_counted else ""
    else:
        names = assessed.names([sources.evaluation["assessment"]["overall"]])
        note = "Each interval counts the chance of the draw and the noise that was added."
    rows = tuple(Row((name,), (assessed.overall(sources, name),)) for name in names)
    return Table("overall", "The whole hold-out", ("figure",), ("value",), rows, note)


def _history(sources: Sources) -> Table:
    """The released rounds, or those with exact counts where nothing was released."""
    heads, form = ("round",), Chart("curve", ("accuracy",))
    if sources.evaluation is not None:
        rows = []
        for point in sources.evaluation.get("history", ()):
            where = Origin(
                FILE, assessed.origin(sources).epsilon_spent, sources.logged("release", round=point["round"])
            )
            rows.append(Row((str(point["round"]),), (metric(point.get("accuracy"), where),)))
        note = "One release each; all of them are paid for by the epsilon of the evaluation."
        return Table("history", "Accuracy by round", heads, ("accuracy",), tuple(rows), note, form)
    rows = [
        Row((str(line["round"]),), (number(line["metrics"].get("accuracy"), Origin("rounds.jsonl"), 3),))
        for line in sources.rounds
        if line.get("metrics")
    ]
    note = "Exact counts, without interval." if rows else "Not measured: no counts of a hold-out left an institution."
    return Table("history", "Accuracy by round", heads, ("accuracy",), tuple(rows), note, form)


def _by_institution(sources: Sources) -> Table:
    found = assessed.institutions(sources)
    where = assessed.origin(sources)
    rows = tuple(
        Row((name, model), tuple(assessed.of(one["overall"], metric_name, where) for metric_name in _BY_INSTITUTION))
        for name, model, one in found
    )
    note = (
        "Each institution's own hold-out. Local: trained there alone. Personal: begun from the federated model."
        if rows
        else "Not measured: no institution released counts of its own; set evaluation.by_institution=true."
    )
    heads, drawn = ("institution", "model"), Chart("forest", ("accuracy", "AUC"))
    return Table("institutions", "Was joining worth it?", heads, _BY_INSTITUTION, rows, note, drawn)


def _spread(sources: Sources) -> list[Block]:
    """How far institutions are apart, where the run released that; it names none of them."""
    found = (sources.evaluation or {}).get("spread") or ()
    where = assessed.origin(sources)
    rows = tuple(Row((one["metric"],), (metric(one, where),)) for one in found)
    return [Table("spread", "How far institutions are apart", ("figure",), ("value",), rows)] if rows else []


def fairness(sources: Sources, *, with_names: bool) -> Section:
    """Section 6."""
    blocks: list[Block] = [
        Facts("What was agreed", human(sources, "fairness_criterion", "fairness_reason")),
        *_groups(sources),
        _gaps(sources),
        Facts("In comparison", (
            Fact("fairness.before", "the same gaps without fair training", absent(
                "one run has one way of training; run again with fairness=none and compare")),
            Fact("fairness.excess", "gap that privacy adds", absent(
                "that needs a reference trained without noise, and this run made none")),
        )),
    ]  # fmt: skip
    if with_names:
        blocks += _groups_by_institution(sources)
    blocks.append(Prose("How to read it", (
        "suppressed: the group is so small that its figures would be mostly noise. It is a property of this "
        "measurement, not of the group.",
        "not resolved: the interval of a gap contains zero. There may be a gap of any size within the interval; "
        "nothing here says that there is none.",
    )))  # fmt: skip
    return Section("6", "Groups", "Does the model work as well for everybody?", tuple(blocks))


def _groups(sources: Sources) -> list[Block]:
    """What is compared most in one table, with pictures; the rest in another, as both must fit on paper."""
    found = [] if sources.evaluation is None else sources.evaluation["assessment"]["groups"]
    present = assessed.names([one["figures"] for one in found])
    first = [name for name in ("records", *_OF_GROUPS) if name in present]
    rest = [name for name in present if name not in first]
    drawn = Chart("forest", tuple(name for name in _OF_GROUPS if name in first))
    note = "" if found else f"Not measured: {_why_no_groups(sources)}."
    heads, where = ("attribute", "group"), assessed.origin(sources)
    blocks: list[Block] = [
        Table("groups", "Each group", heads, tuple(first), _by_group(found, first, where), note, drawn)
    ]
    if rest:
        title = "Each group, further figures"
        blocks.append(Table("groups-further", title, heads, tuple(rest), _by_group(found, rest, where)))
    return blocks


def _by_group(found: Sequence[Plain], columns: Sequence[str], where: Origin) -> tuple[Row, ...]:
    return tuple(
        Row((one["attribute"], one["group"]), tuple(assessed.of(one["figures"], name, where) for name in columns))
        for one in found
    )


def _why_no_groups(sources: Sources) -> str:
    if sources.evaluation is None:
        return assessed.NO_EVALUATION.why
    return "the task declares no sensitive attribute"


def _gaps(sources: Sources) -> Table:
    rows = tuple(
        Row(
            (gap["attribute"], gap["figure"]["metric"], " and ".join(gap.get("between") or ())),
            (shown,),
        )
        for gap, shown in assessed.gaps(sources)
    )
    note = _UNRESOLVED if rows else f"Not measured: {_why_no_groups(sources)}."
    heads = ("attribute", "gap", "between")
    return Table("gaps", "Gaps between groups", heads, ("gap",), rows, note, Chart("gaps", ("gap",)))


def _groups_by_institution(sources: Sources) -> list[Block]:
    """Recall by group at each institution and of each model, where those counts were released."""
    where, found = assessed.origin(sources), assessed.institutions(sources)
    models = [*dict.fromkeys(model for _, model, _ in found)]
    groups: dict[tuple[str, ...], dict[str, Shown]] = {}
    for name, model, one in found:
        for group in one["groups"]:
            labels = (name, group["attribute"], group["group"])
            groups.setdefault(labels, {})[model] = assessed.of(group["figures"], "recall", where)
    missing = absent("this institution released no counts of this model", FILE)
    rows = tuple(Row(labels, tuple(by.get(model, missing) for model in models)) for labels, by in groups.items())
    if not rows:
        return []
    heads = ("institution", "attribute", "group")
    return [Table("institution-groups", "Recall of groups at each institution", heads, tuple(models), rows)]


def explanation(sources: Sources) -> Section:
    """Section 7."""
    found = sources.explanation
    if found is None:
        why = "this run released no attributions; a single answer is explained at the site with lepton-client explain"
        missing = Fact("explanation.global", "what the model looks at", absent(why, "explanation.json"))
        return Section("7", "Explanation", "What does the model look at?", (Facts("Overall", (missing,)),))
    where = Origin("explanation.json", None, sources.logged("release", what="explanation"))
    features = found.get("features", ())
    rows = tuple(Row((str(one["feature"]),), (_attribution(one, where),)) for one in features)
    proxies = ", ".join(map(str, found.get("proxies", ()))) or "none among the first"
    blocks: tuple[Block, ...] = (
        Facts("Overall", (Fact("explanation.proxies", "sensitive attributes among the first", said(
            proxies, "explanation.json")),)),
        Table("attributions", "Mean weight of each column", ("column",), ("weight",), rows,
              "Integrated gradients of the hold-out, clipped, summed with noise.", Chart("forest", ("weight",))),
    )  # fmt: skip
    return Section("7", "Explanation", "What does the model look at?", blocks)


def _attribution(one: dict[str, object], where: Origin) -> Shown:
    return metric(
        {"metric": "weight", "status": "shown", "why": "", "value": None, "low": None, "high": None, **one}, where
    )
