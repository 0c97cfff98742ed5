"""How far the groups of one attribute are apart, each gap with an interval, and never called fair.

A gap whose interval holds no gap is `not resolved`: these counts cannot tell. Groups that are too small are in no gap,
and the gap says so.

Source: Hardt, Price and Srebro 2016, "Equality of Opportunity in Supervised Learning"; Weerts et al. 2023, "Fairlearn:
Assessing and Improving Fairness of AI Systems" (the definitions over more than two groups).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lepton_fl.evaluation import intervals
from lepton_fl.evaluation.figures import NOT_RESOLVED, SHOWN, Figure, not_measured, suppressed
from lepton_fl.evaluation.group import (
    ACCURACY,
    FALSE_POSITIVES,
    RECALL,
    SELECTION,
    TOO_FEW,
    Counts,
    estimator,
    figure,
)
from lepton_fl.evaluation.intervals import Estimator, Interval

_DIFFERENCES = {
    "demographic parity difference": (SELECTION,),
    "equal opportunity difference": (RECALL,),
    "equalised odds difference": (RECALL, FALSE_POSITIVES),
}
_RATIO = "demographic parity ratio"
_WORST = {"worst group accuracy": ACCURACY, "worst group recall": RECALL}
METRICS = (*_DIFFERENCES, _RATIO, *_WORST)

Groups = Mapping[str, Estimator | None]
"""A figure of each group, by its name; None where the group is too small."""

Extreme = Callable[[Sequence[Estimator], float, float], Interval]


@dataclass(frozen=True)
class Gap:
    """One gap between groups of an attribute."""

    attribute: str
    figure: Figure
    between: tuple[str, str] | None  # the higher and the lower group; of a worst group, that one and the best


def gaps_of(attribute: str, groups: Mapping[str, Counts], tail: float) -> Iterator[Gap]:
    """Every gap between the groups of an attribute that are large enough.

    Args:
        groups: by name.
        tail: the chance that an interval leaves on either side.
    """
    labels = {len(counts.decisions) for counts in groups.values()}
    for metric in METRICS:
        if labels != {2} and _WORST.get(metric) != ACCURACY:
            yield Gap(attribute, not_measured(metric, "only two labels have one"), None)
        elif metric in _DIFFERENCES:
            yield difference(attribute, metric, {one: _each(groups, one) for one in _DIFFERENCES[metric]}, tail)
        elif metric == _RATIO:
            yield _ratio(attribute, _each(groups, SELECTION), tail)
        else:
            yield worst(attribute, metric, _each(groups, _WORST[metric]), (tail, intervals.smallest))


def difference(attribute: str, metric: str, figures: Mapping[str, Groups], tail: float) -> Gap:
    """The largest difference between two groups in any of these figures, by name."""
    large = {name: _large(groups) for name, groups in figures.items()}
    hidden = _hidden(*figures.values())
    if min(map(len, large.values())) < 2:
        return Gap(attribute, suppressed(metric, hidden), None)
    pairs = {
        (name, one, other): _minus(groups[one], groups[other])
        for name, groups in large.items()
        for one, other in permutations(groups, 2)
    }
    found = intervals.largest(list(pairs.values()), tail, len(pairs) / 2)
    name, one, other = max(pairs, key=lambda pair: _value(pairs[pair]))
    why = f"in {name}" if len(figures) > 1 else ""
    return Gap(attribute, _gap(metric, found, float(found.low) > 0, why, hidden), (one, other))


def worst(attribute: str, metric: str, groups: Groups, how: tuple[float, Extreme]) -> Gap:
    """The extreme figure of a group; a worst one needs another to be worse than.

    Args:
        how: the chance left on either side, and `intervals.smallest` or `largest`, whichever is worst.
    """
    large, hidden, (tail, extreme) = _large(groups), _hidden(groups), how
    if len(large) < 2:
        return Gap(attribute, suppressed(metric, hidden), None)
    found = extreme(list(large.values()), tail, len(large))
    ordered = sorted(large, key=lambda name: abs(_value(large[name]) - float(found.value)))
    return Gap(attribute, _gap(metric, found, True, hidden), (ordered[0], ordered[-1]))


def _ratio(attribute: str, groups: Groups, tail: float) -> Gap:
    """The lowest share selected over the highest."""
    large, hidden = _large(groups), _hidden(groups)
    if len(large) < 2:
        return Gap(attribute, suppressed(_RATIO, hidden), None)
    ordered = sorted(large, key=lambda name: _value(large[name]))
    if _value(large[ordered[-1]]) == 0:
        return Gap(attribute, not_measured(_RATIO, "nobody is selected"), None)
    pairs = [_over(large[one], large[other]) for one, other in permutations(large, 2) if _value(large[other]) > 0]
    found = intervals.smallest(pairs, tail, len(large) * (len(large) - 1) / 2)
    # More than 1 would be the same gap the other way round.
    found = Interval(found.value, found.low, np.minimum(found.high, 1.0))
    return Gap(attribute, _gap(_RATIO, found, float(found.high) < 1, hidden), (ordered[-1], ordered[0]))


def _gap(metric: str, found: Interval, is_resolved: bool, *why: str) -> Figure:
    return figure(metric, found, SHOWN if is_resolved else NOT_RESOLVED, "; ".join(filter(None, why)))


def _each(groups: Mapping[str, Counts], metric: str) -> Groups:
    return {name: estimator(counts, metric) for name, counts in groups.items()}


def _large(groups: Groups) -> dict[str, Estimator]:
    return {name: one for name, one in groups.items() if one is not None}


def _hidden(*figures: Groups) -> str:
    """Which groups are not in all of a gap, and why."""
    names = dict.fromkeys(name for groups in figures for name, one in groups.items() if one is None)
    return f"without {', '.join(names)}: {TOO_FEW}" if names else ""


def _value(estimate: Estimator) -> float:
    return float(estimate(1.0).value)


def _minus(one: Estimator, other: Estimator) -> Estimator:
    return lambda z: intervals.difference(one(z), other(z))


def _over(one: Estimator, other: Estimator) -> Estimator:
    return lambda z: intervals.ratio(one(z), other(z))
