"""What noisy counts say, and how surely: estimates with intervals that hold the sampling and the noise.

Every count is a sum of cells with independent noise, and its variance is known. Nothing here sees a true count: what is
computed from noised counts alone needs no further privacy, and what is too small is hidden for being unreadable.

The sampling is that of the hold-out from the people it stands for, so an interval is about them. Values are arrays, so
that one call does many; zero-dimensional ones for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

LEAST_SUBJECTS = 20
_DEVIATIONS = 5.0


@dataclass(frozen=True, eq=False)
class Count:
    """A noisy count and the variance of its noise."""

    value: Numbers
    variance: float

    def __add__(self, other: Count) -> Count:
        return Count(self.value + other.value, self.variance + other.variance)


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate, and the bounds between which its true value lies at some confidence."""

    value: Numbers
    low: Numbers
    high: Numbers


Estimator = Callable[[float], Interval]
"""The interval at so many standard deviations to either side; its value is the same at all of them."""


def deviations(tail: float) -> float:
    """How many standard deviations leave this chance in one tail."""
    return -NormalDist().inv_cdf(tail)


def least(variance: float) -> float:
    """The least noisy count whose share is shown: 20, or five standard deviations of its noise."""
    return max(LEAST_SUBJECTS, _DEVIATIONS * math.sqrt(variance))


def share(inside: Count, outside: Count, z: float) -> Interval:
    """The share r of `inside` in both, by a score interval that knows the noise.

    It holds every r that the counts A and n = A + B do not reject, (A - r n)^2 <= z^2 V(r), where

        V(r) = n r (1 - r) + s_A (1 - r)^2 + s_B r^2

    is n^2 times the squared standard error of r at the candidate itself, s the variances of the noise. At an estimate
    near 0 or 1 the usual interval, with V at the estimate, is far too short. Without noise this is Wilson's.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    total = inside + outside
    square = total.value**2 + z**2 * (total.value - total.variance)
    middle = (inside.value * total.value + z**2 * (total.value / 2 - inside.variance)) / square
    root = np.sqrt(np.maximum(middle**2 - (inside.value**2 - z**2 * inside.variance) / square, 0.0))
    return _within(inside.value / total.value, middle - root, middle + root)


def f1(hits: Count, misses: Count, z: float) -> Interval:
    """F1 = 2 J / (1 + J), rising with J, the share of true positives among all that are positive or guessed so."""
    found = share(hits, misses, z)
    return Interval(*(2 * one / (1 + one) for one in (found.value, found.low, found.high)))


def difference(one: Interval, other: Interval) -> Interval:
    """`one` minus `other`, which are independent: the lengths of their intervals add as squares on either side.

    Source: Newcombe 1998, "Interval Estimation for the Difference between Independent Proportions", method 10; Zou and
    Donner 2008, "Construction of Confidence Limits about Effect Measures: A General Approach".
    """
    value = one.value - other.value
    return Interval(
        value,
        value - np.hypot(one.value - one.low, other.high - other.value),
        value + np.hypot(one.high - one.value, other.value - other.low),
    )


def mean(parts: Sequence[Interval]) -> Interval:
    """The mean of independent estimates, in the same way."""
    value = np.mean([part.value for part in parts], axis=0)
    below = np.sqrt(np.sum([(part.value - part.low) ** 2 for part in parts], axis=0)) / len(parts)
    above = np.sqrt(np.sum([(part.high - part.value) ** 2 for part in parts], axis=0)) / len(parts)
    return Interval(*(np.asarray(one, dtype=np.float64) for one in (value, value - below, value + above)))


def ratio(one: Interval, other: Interval) -> Interval:
    """`one` over `other`, which are independent and not negative; the upper bound may be infinite.

    Source: Donner and Zou 2012, "Closed-Form Confidence Intervals for Functions of the Normal Mean and Standard
    Deviation" (ratios).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        product = one.value * other.value
        below = other.high * (2 * other.value - other.high)
        above = other.low * (2 * other.value - other.low)
        low = (product - np.sqrt(np.maximum(product**2 - one.low * (2 * one.value - one.low) * below, 0))) / below
        high = (product + np.sqrt(np.maximum(product**2 - one.high * (2 * one.value - one.high) * above, 0))) / above
        value = one.value / other.value
    return Interval(value, np.nan_to_num(np.maximum(low, 0.0), nan=0.0), np.nan_to_num(high, nan=np.inf, posinf=np.inf))


def area(negatives: Numbers, positives: Numbers, variance: float, z: float) -> Interval:
    """The area under the ROC curve of binned scores, ties counting half.

    The squared standard error follows from the gradient by each bin's counts c: the sum of gradient^2 c for the
    sampling, which is DeLong's, and of gradient^2 times the variance for the noise. The interval holds every area x
    with (A - x)^2 <= z^2 (x (1 - x) / n + noise), where n is how many subjects' share would be as uncertain by sampling
    as A is: near 1 the sampling shrinks, and the noise does not.

    Args:
        negatives, positives: float64 [..., bins], noisy counts in the order of the score.
        variance: of the noise in each bin of each.

    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated ROC Curves".
    """
    below = (np.cumsum(negatives, axis=-1) - negatives / 2) / _total(negatives)
    above = 1 - (np.cumsum(positives, axis=-1) - positives / 2) / _total(positives)
    value = (positives * below).sum(axis=-1, keepdims=True) / _total(positives)
    gradients = (above - value) / _total(negatives), (below - value) / _total(positives)
    sampling = np.maximum((gradients[0] ** 2 * negatives + gradients[1] ** 2 * positives).sum(axis=-1), 0.0)
    noise = variance * (gradients[0] ** 2 + gradients[1] ** 2).sum(axis=-1)
    fewest, value = np.minimum(_total(negatives), _total(positives))[..., 0], value[..., 0]
    inside = np.clip(value, 1 / (2 * fewest), 1 - 1 / (2 * fewest))
    with np.errstate(divide="ignore"):
        subjects = np.where(sampling > 0, inside * (1 - inside) / sampling, fewest)
    square = 1 + z**2 / subjects
    middle = (value + z**2 / subjects / 2) / square
    root = np.sqrt(np.maximum(middle**2 - (value**2 - z**2 * noise) / square, 0.0))
    return _within(value, middle - root, middle + root)


def average(counts: Numbers, weights: Numbers, variance: float, z: float) -> Interval:
    """The mean of a weight over counted subjects, by the normal law.

    Args:
        counts: float64 [..., cells], noisy.
        weights: float64 [cells].
        variance: of the noise in each cell.
    """
    total = _total(counts)
    value = (counts * weights).sum(axis=-1, keepdims=True) / total
    gradient = (weights - value) / total
    squared = np.maximum((gradient**2 * counts).sum(axis=-1), 0.0) + variance * (gradient**2).sum(axis=-1)
    value = value[..., 0]
    return Interval(value, value - z * np.sqrt(squared), value + z * np.sqrt(squared))


def macro_f1(table: Numbers, variance: float, z: float) -> Interval:
    """The mean over the classes of F1, by its gradient and the normal law.

    Args:
        table: float64 [classes, classes], noisy counts, label by guess.
        variance: of the noise in each cell.
    """
    classes = len(table)
    both = table.sum(axis=1) + table.sum(axis=0)
    each = 2 * np.diag(table) / both
    gradient = (2 * np.diag(1 / both) - (each / both)[:, None] - (each / both)[None, :]) / classes
    squared = max(float((gradient**2 * table).sum()), 0.0) + variance * float((gradient**2).sum())
    value, reach = each.mean(), z * math.sqrt(squared)
    return _within(value, value - reach, value + reach)


def largest(candidates: Sequence[Estimator], tail: float, rivals: float) -> Interval:
    """The largest of several figures, whichever it is.

    The true largest lies below the upper bound of that figure, so each upper bound is taken alone. The lower bound is
    the largest of theirs, and any of them may be too large: each has its part of the tail.

    Args:
        tail: the chance left on either side, say 0.025.
        rivals: how many may be too large at once, one for a difference and its opposite.
    """
    alone = [estimate(deviations(tail)) for estimate in candidates]
    shared = [estimate(deviations(tail / rivals)) for estimate in candidates]
    return Interval(
        _most([one.value for one in alone]), _most([one.low for one in shared]), _most([one.high for one in alone])
    )


def smallest(candidates: Sequence[Estimator], tail: float, rivals: float) -> Interval:
    """The smallest of several figures, whichever it is; see `largest`."""
    opposite = [lambda z, one=one: _negative(one(z)) for one in candidates]
    return _negative(largest(opposite, tail, rivals))


def _within(value: Numbers, low: Numbers, high: Numbers) -> Interval:
    """Of a share: within [0, 1], and the value within the bounds, which noise or rounding may put it out of."""
    value, low, high = (np.clip(one, 0.0, 1.0) for one in (value, low, high))
    return Interval(value, np.minimum(low, value), np.maximum(high, value))


def _negative(one: Interval) -> Interval:
    return Interval(-one.value, -one.high, -one.low)


def _most(values: Sequence[Numbers]) -> Numbers:
    return np.asarray(np.max(np.stack(values), axis=0), dtype=np.float64)


def _total(counts: Numbers) -> Numbers:
    return np.asarray(counts.sum(axis=-1, keepdims=True), dtype=np.float64)
