"""The figures of one group of people, or of everybody, from its noisy counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.evaluation import intervals
from lepton_fl.evaluation.calibration import MOST_BINS, calibration_error
from lepton_fl.evaluation.figures import SHOWN, Figure, not_measured, suppressed
from lepton_fl.evaluation.intervals import Count, Estimator, Interval, Numbers
from lepton_fl.evaluation.metrics import LEAST_BINS, losses

Cells = npt.NDArray[np.bool_]

ACCURACY, RECALL, SELECTION, FALSE_POSITIVES = "accuracy", "recall", "selection rate", "false positive rate"
_OF_SCORES = ("AUC", "log loss", "calibration error")
_TWO_LABELS = "only two labels have one"
TOO_FEW = "too few subjects by the noisy count"


@dataclass(frozen=True, eq=False)
class Counts:
    """What is known of a group: float64 counts, label by guess, and label by score bin, with the noise in each cell."""

    decisions: Numbers
    noise: float  # variance in each cell of the decisions
    scores: Numbers | None  # of two labels, at least `LEAST_BINS` bins, or nothing
    score_noise: float

    def count(self, cells: Cells) -> Count:
        """The sum of these cells of the decisions."""
        return Count(np.asarray(self.decisions[cells].sum()), self.noise * int(cells.sum()))


def figures_of(counts: Counts, tail: float) -> tuple[Figure, ...]:
    """Every metric, the number of records first, each with its interval or the reason why it has none.

    Args:
        tail: the chance that an interval leaves on either side, say 0.025.
    """
    counted = records(counts.count(np.ones(counts.decisions.shape, dtype=np.bool_)), tail)
    if counts.decisions.shape[0] > 2:
        return (counted, *_of_many_labels(counts, tail))
    recall, correct = estimator(counts, RECALL), _share(counts, [(0, 0)], [(0, 1)])
    shares = {
        ACCURACY: estimator(counts, ACCURACY),
        "balanced accuracy": _mean_of([recall, correct]),
        "precision": _share(counts, [(1, 1)], [(0, 1)]),
        RECALL: recall,
        "F1": _f1(counts),
        SELECTION: estimator(counts, SELECTION),
        FALSE_POSITIVES: estimator(counts, FALSE_POSITIVES),
    }
    return (counted, *(shown(name, one, tail) for name, one in shares.items()), *_of_scores(counts, tail))


def estimator(counts: Counts, metric: str) -> Estimator | None:
    """Of a metric that gaps are made of; None where the counts are too small.

    Raises:
        KeyError: another metric.
    """
    labels = len(counts.decisions)
    if metric == ACCURACY:
        right = np.eye(labels, dtype=np.bool_)
        return _share_of(counts, right, ~right)
    inside, outside = {
        RECALL: ([(1, 1)], [(1, 0)]),
        SELECTION: ([(0, 1), (1, 1)], [(0, 0), (1, 0)]),
        FALSE_POSITIVES: ([(0, 1)], [(0, 0)]),
    }[metric]
    return _share(counts, inside, outside)


def shown(metric: str, estimate: Estimator | None, tail: float) -> Figure:
    """The figure with its interval; suppressed where there is no estimate."""
    if estimate is None:
        return suppressed(metric, TOO_FEW)
    return figure(metric, estimate(intervals.deviations(tail)))


def records(total: Count, tail: float) -> Figure:
    """How many were counted, which the noise alone makes uncertain."""
    if total.value < intervals.least(total.variance):
        return suppressed("records", TOO_FEW)
    reach = intervals.deviations(tail) * math.sqrt(total.variance)
    return figure("records", Interval(total.value, np.maximum(total.value - reach, 0.0), total.value + reach))


def figure(metric: str, found: Interval, status: str = SHOWN, why: str = "") -> Figure:
    """The figure of an interval."""
    return Figure(metric, float(found.value), float(found.low), float(found.high), status, why)


def _share(counts: Counts, inside: list[tuple[int, int]], outside: list[tuple[int, int]]) -> Estimator | None:
    return _share_of(counts, _cells(counts, inside), _cells(counts, outside))


def _share_of(counts: Counts, inside: Cells, outside: Cells) -> Estimator | None:
    one, other = counts.count(inside), counts.count(outside)
    return _if_enough(one + other, lambda z: intervals.share(one, other, z))


def _f1(counts: Counts) -> Estimator | None:
    hits, misses = counts.count(_cells(counts, [(1, 1)])), counts.count(_cells(counts, [(0, 1), (1, 0)]))
    return _if_enough(hits + misses, lambda z: intervals.f1(hits, misses, z))


def _cells(counts: Counts, places: list[tuple[int, int]]) -> Cells:
    chosen = np.zeros(counts.decisions.shape, dtype=np.bool_)
    for place in places:
        chosen[place] = True
    return chosen


def _if_enough(total: Count, estimate: Estimator) -> Estimator | None:
    return estimate if total.value >= intervals.least(total.variance) else None


def _mean_of(parts: list[Estimator | None]) -> Estimator | None:
    """The mean of all of them; None where one is missing."""
    there = [part for part in parts if part is not None]
    return (lambda z: intervals.mean([part(z) for part in there])) if len(there) == len(parts) else None


def _of_many_labels(counts: Counts, tail: float) -> tuple[Figure, ...]:
    """Of each class against all others, and the mean of them; where one class is too small, the mean is hidden."""
    labels = range(len(counts.decisions))
    recall = _mean_of([_share(counts, [(k, k)], [(k, j) for j in labels if j != k]) for k in labels])
    precision = _mean_of([_share(counts, [(k, k)], [(i, k) for i in labels if i != k]) for k in labels])

    def f1(z: float) -> Interval:
        return intervals.macro_f1(counts.decisions, counts.noise, z)

    return (
        shown(ACCURACY, estimator(counts, ACCURACY), tail),
        shown("balanced accuracy", recall, tail),
        shown("precision", precision, tail),
        shown(RECALL, recall, tail),
        shown("F1", f1 if recall is not None and precision is not None else None, tail),
        *(not_measured(metric, _TWO_LABELS) for metric in (SELECTION, FALSE_POSITIVES, *_OF_SCORES)),
    )


def _of_scores(counts: Counts, tail: float) -> tuple[Figure, ...]:
    scores, noise = counts.scores, counts.score_noise
    if scores is None:
        return tuple(not_measured(metric, f"it needs at least {LEAST_BINS} bins of the score") for metric in _OF_SCORES)
    bins, z = scores.shape[1], intervals.deviations(tail)
    each = intervals.least(noise * bins)
    found: dict[str, Callable[[], Interval] | None] = dict.fromkeys(_OF_SCORES)
    if scores.sum(axis=1).min() >= each:
        found["AUC"] = lambda: intervals.area(scores[0], scores[1], noise, z)
    if scores.sum() >= intervals.least(noise * scores.size):
        found["log loss"] = lambda: _not_negative(intervals.average(scores.ravel(), losses(bins).ravel(), noise, z))
        found["calibration error"] = lambda: calibration_error(*_few_bins(scores, noise), tail)
    return tuple(suppressed(metric, TOO_FEW) if one is None else figure(metric, one()) for metric, one in found.items())


def _few_bins(scores: Numbers, noise: float) -> tuple[Numbers, float]:
    """At most `MOST_BINS`, by adding neighbours, where that can be."""
    bins = scores.shape[1]
    width = next((width for width in range(1, bins + 1) if bins % width == 0 and bins // width <= MOST_BINS), 1)
    return scores.reshape(len(scores), bins // width, width).sum(axis=2), noise * width


def _not_negative(found: Interval) -> Interval:
    return Interval(*(np.maximum(one, 0.0) for one in (found.value, found.low, found.high)))
