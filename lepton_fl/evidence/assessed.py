"""Figures of an evaluation, found again by group, gap and institution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lepton_fl.evidence.shown import NOT_RESOLVED, SHOWN, Origin, Plain, Shown, absent, epsilon, metric, number
from lepton_fl.evidence.sources import Sources

FILE = "evaluation.json"
NO_EVALUATION = absent("this run released no counts of people who were held out", FILE)
_MODELS = ("federated", "local", "personal")


def origin(sources: Sources) -> Origin:
    """Of every figure in the final release."""
    found = sources.evaluation or {}
    paid = found.get("epsilon")
    return Origin(
        FILE,
        None if paid is None else epsilon(float(paid), Origin(FILE)).value,
        sources.logged("release", round=found.get("round")),
    )


def overall(sources: Sources, name: str) -> Shown:
    """A figure of the whole hold-out; from the exact counts of the last round where there was no evaluation."""
    if sources.evaluation is not None:
        return of(sources.evaluation["assessment"]["overall"], name, origin(sources))
    counted = (sources.result.get("metrics") or {}).get(_COUNTED.get(name, ""))
    if counted is None:
        return NO_EVALUATION
    return number(float(counted), sources.from_run(), 0 if name == "records" else 3)


_COUNTED = {"records": "records", "accuracy": "accuracy", "AUC": "auc", "log loss": "loss"}


def of(figures: Sequence[Plain], name: str, where: Origin) -> Shown:
    """The figure of this name."""
    return metric(next((figure for figure in figures if figure["metric"] == name), None), where)


def names(figures: Sequence[Sequence[Plain]]) -> list[str]:
    """The metrics of several lists, each once, in their order."""
    return [*dict.fromkeys(figure["metric"] for some in figures for figure in some)]


def gaps(sources: Sources) -> list[tuple[Plain, Shown]]:
    """Every gap between groups, and what is known of it."""
    if sources.evaluation is None:
        return []
    where = origin(sources)
    return [(gap, metric(gap["figure"], where)) for gap in sources.evaluation["assessment"]["gaps"]]


def worst_gap(sources: Sources) -> tuple[str, Shown]:
    """The largest difference between groups that could be told from zero, else the largest there is, else none."""
    found = [(gap, shown) for gap, shown in gaps(sources) if gap["figure"]["metric"].endswith("difference")]
    for status in (SHOWN, NOT_RESOLVED):
        some = [(abs(float(shown.value or 0)), gap, shown) for gap, shown in found if shown.status == status]
        if some:
            _, gap, shown = max(some, key=lambda one: one[0])
            return f"{gap['figure']['metric']}, {gap['attribute']}", shown
    if found:
        gap, shown = found[0]
        return f"{gap['figure']['metric']}, {gap['attribute']}", shown
    if sources.evaluation is None:
        return "", NO_EVALUATION
    return "", absent("no sensitive attribute is declared, or none has groups to compare", FILE)


def institutions(sources: Sources) -> list[tuple[str, str, Plain]]:
    """Each institution's models on its own hold-out: institution, model, assessment."""
    rows: list[tuple[str, str, Plain]] = []
    for one in (sources.evaluation or {}).get("institutions", ()):
        models: dict[str, Any] = one["models"]
        rows += [(one["institution"], name, models[name]) for name in _MODELS if models.get(name)]
    return rows
