"""Figures of a model that guesses a number: from one noised histogram of its errors, by group and declared bins.

A subject is in one cell, as with labels, so the same plan and noise apply. An error counts as the middle of its bin,
and beyond the declared bounds as the outermost bin's: a figure is exact to half a bin, and no subject can move a mean
further than the bounds allow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation import intervals
from lepton_fl.evaluation.assess import Assessment, GroupFigures
from lepton_fl.evaluation.figures import Figure
from lepton_fl.evaluation.gaps import Gap, difference, worst
from lepton_fl.evaluation.group import records, shown
from lepton_fl.evaluation.intervals import Count, Estimator, Interval, Numbers
from lepton_fl.tasks.groups import Groups

BIAS, ABSOLUTE, SQUARED = "mean error", "mean absolute error", "root mean squared error"
WITHIN = "share within tolerance"


@dataclass(frozen=True)
class Residuals:
    """Which errors are told apart, declared: bins of equal width from `low` to `high`, in the unit of the guess."""

    groups: Groups
    low: float
    high: float
    bins: int

    def __post_init__(self) -> None:
        if not (-np.inf < self.low < 0 < self.high < np.inf and 2 <= self.bins <= 1000):
            raise ConfigError(
                f"errors are binned from below 0 to above it, in 2 to 1000 bins, not in {self.bins} from {self.low:g} "
                f"to {self.high:g}; nothing was counted; declare other bounds"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of the groups, bins."""
        return (self.groups.cells, self.bins)

    @property
    def middles(self) -> Numbers:
        """The error in the middle of each bin, float64 [bins]."""
        return np.asarray(self.low + (np.arange(self.bins) + 0.5) * self.width, dtype=np.float64)

    @property
    def width(self) -> float:
        """Of a bin."""
        return (self.high - self.low) / self.bins


@dataclass(frozen=True, eq=False)
class ResidualHistogram:
    """Counts of held-out subjects by group and error, with the noise that is in them."""

    layout: Residuals
    table: npt.NDArray[np.int64]  # of the layout's shape
    variance: float  # of the noise in each cell; 0: the counts are exact

    def __post_init__(self) -> None:
        if self.table.shape != self.layout.shape:
            raise ValueError(f"a histogram of shape {self.layout.shape} has none of {self.table.shape}")

    def __add__(self, other: ResidualHistogram) -> ResidualHistogram:
        if self.layout != other.layout:
            raise ValueError("histograms of different layouts cannot be added")
        return ResidualHistogram(self.layout, self.table + other.table, self.variance + other.variance)


def count_residuals(
    residuals: npt.NDArray[np.float64], cells: npt.NDArray[np.int64], layout: Residuals
) -> npt.NDArray[np.int64]:
    """Exact counts of the layout's shape; an error that is no number counts as the largest.

    Args:
        residuals: float64 [n], guess minus truth, one of each subject.
        cells: int64 [n], of the layout's groups.
    """
    bounded = np.clip(np.nan_to_num(residuals, nan=layout.high), layout.low, layout.high)
    places = np.floor((bounded - layout.low) / layout.width)
    table = np.zeros(layout.shape, dtype=np.int64)
    np.add.at(table, (cells, np.clip(places, 0, layout.bins - 1).astype(np.int64)), 1)
    return table


def assess_residuals(histogram: ResidualHistogram, tolerance: float, confidence: float) -> Assessment:
    """Bias, mean absolute and squared error and the share within a tolerance: of everybody, each group, between them.

    Args:
        tolerance: an error of at most so much is within; a whole number of bins to either side of zero.

    Raises:
        ConfigError: the tolerance is not at an edge of the bins.
    """
    groups, tail = histogram.layout.groups, (1 - confidence) / 2
    within = _within(histogram.layout, tolerance)
    everyone = _errors(histogram, np.arange(groups.cells), within)
    parts = {
        one.name: {group: _errors(histogram, groups.members(one.name, group), within) for group in one.groups}
        for one in groups.attributes
    }
    return Assessment(
        everyone.figures(tail),
        tuple(
            GroupFigures(name, group, errors.figures(tail))
            for name, each in parts.items()
            for group, errors in each.items()
        ),
        tuple(gap for name, each in parts.items() for gap in _gaps(name, each, tail)),
    )


def _errors(histogram: ResidualHistogram, cells: npt.NDArray[np.int64], within: npt.NDArray[np.bool_]) -> _Errors:
    """Of these cells of the groups together."""
    counts = histogram.table[cells].sum(axis=0).astype(np.float64)
    return _Errors(counts, histogram.variance * len(cells), histogram.layout.middles, within)


def _within(layout: Residuals, tolerance: float) -> npt.NDArray[np.bool_]:
    """Which bins lie within the tolerance."""
    edges = layout.low + np.arange(layout.bins + 1) * layout.width
    for edge in (-tolerance, tolerance):
        if not np.isclose(edges, edge, rtol=0, atol=1e-9 * layout.width).any():
            raise ConfigError(
                f"a tolerance of {tolerance:g} does not end at an edge of the bins of width {layout.width:g} from "
                f"{layout.low:g}; nothing was shown; choose bins that have it as an edge"
            )
    return np.asarray(np.abs(layout.middles) < tolerance, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class _Errors:
    """What is known of the errors of one group."""

    counts: Numbers  # float64 [bins]
    noise: float  # variance in each bin
    middles: Numbers
    within: npt.NDArray[np.bool_]  # the bins within the tolerance

    def estimators(self) -> dict[str, Estimator | None]:
        """Of each metric, None where the counts are too small."""
        if self.counts.sum() < intervals.least(self.noise * len(self.counts)):
            return dict.fromkeys((BIAS, ABSOLUTE, SQUARED, WITHIN))
        inside, outside = (self._count(cells) for cells in (self.within, ~self.within))
        return {
            BIAS: lambda z: self._average(self.middles, z),
            ABSOLUTE: lambda z: _at_least_zero(self._average(np.abs(self.middles), z)),
            SQUARED: lambda z: _root(_at_least_zero(self._average(self.middles**2, z))),
            WITHIN: lambda z: intervals.share(inside, outside, z),
        }

    def figures(self, tail: float) -> tuple[Figure, ...]:
        """The number of records first."""
        total = self._count(np.ones(len(self.counts), dtype=np.bool_))
        return (records(total, tail), *(shown(name, one, tail) for name, one in self.estimators().items()))

    def _count(self, cells: npt.NDArray[np.bool_]) -> Count:
        return Count(np.asarray(self.counts[cells].sum()), self.noise * int(cells.sum()))

    def _average(self, weights: Numbers, z: float) -> Interval:
        return intervals.average(self.counts, weights, self.noise, z)


def _gaps(attribute: str, groups: dict[str, _Errors], tail: float) -> list[Gap]:
    each = {name: errors.estimators() for name, errors in groups.items()}
    of = {metric: {name: found[metric] for name, found in each.items()} for metric in (BIAS, ABSOLUTE, SQUARED, WITHIN)}
    differences = [difference(attribute, f"{metric} difference", {metric: of[metric]}, tail) for metric in of]
    return [
        *differences,
        worst(attribute, f"worst group {ABSOLUTE}", of[ABSOLUTE], (tail, intervals.largest)),
        worst(attribute, f"worst group {WITHIN}", of[WITHIN], (tail, intervals.smallest)),
    ]


def _at_least_zero(found: Interval) -> Interval:
    return Interval(*(np.maximum(one, 0.0) for one in (found.value, found.low, found.high)))


def _root(found: Interval) -> Interval:
    return Interval(*(np.sqrt(one) for one in (found.value, found.low, found.high)))
