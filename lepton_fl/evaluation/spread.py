"""How evenly a model serves the institutions, from each one's own noised histogram.

A mean over institutions, unlike a figure of all subjects together, counts a small one as much as a large one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lepton_fl.evaluation import intervals
from lepton_fl.evaluation.assess import everyone
from lepton_fl.evaluation.figures import Figure, suppressed
from lepton_fl.evaluation.group import TOO_FEW, estimator, figure
from lepton_fl.evaluation.intervals import Interval, Numbers
from lepton_fl.evaluation.inversion import scale_of

if TYPE_CHECKING:
    from lepton_fl.evaluation.histogram import Histogram  # with torch, for which nobody who looks at figures waits

MEAN, DEVIATION, JAIN, WORST = (
    "mean over institutions",
    "standard deviation over institutions",
    "Jain index over institutions",
    "worst institution",
)


def spread(institutions: Sequence[Histogram], metric: str, confidence: float) -> tuple[Figure, ...]:
    """Mean, standard deviation, Jain's index and the least of one figure over the institutions.

    Which institution is which cannot be told from these. Where the counts are exact the standard deviation is the plain
    one; noised, the plain one would take the noise for a difference, and it is the one under which a larger sum of
    squares is as likely as a smaller one. Jain's index follows from it.

    Args:
        metric: accuracy, or of two labels recall, selection rate or false positive rate.
        confidence: say 0.95.

    Source: Jain, Chiu and Hawe 1984, "A Quantitative Measure of Fairness and Discrimination" (the index,
    (sum x)^2 / (K sum x^2), is 1 / (1 + (deviation / mean)^2)).
    """
    found = [estimator(everyone(one), metric) for one in institutions]
    large = [one for one in found if one is not None]
    hidden = f"without {len(found) - len(large)} of {len(found)}: {TOO_FEW}" if len(large) < len(found) else ""
    if len(large) < 2:
        return tuple(
            suppressed(name, hidden or "one institution has no spread") for name in (MEAN, DEVIATION, JAIN, WORST)
        )
    tail = (1 - confidence) / 2
    mean = intervals.mean([one(intervals.deviations(tail)) for one in large])
    deviation = _deviation([one(1.0) for one in large], any(one.variance for one in institutions), tail)
    jain = Interval(*(1 / (1 + (one / mean.value) ** 2) for one in (deviation.value, deviation.high, deviation.low)))
    least = intervals.smallest(large, tail, len(large))
    of = {MEAN: mean, DEVIATION: deviation, JAIN: jain, WORST: least}
    return tuple(figure(name, one, why=hidden) for name, one in of.items())


def _deviation(each: list[Interval], is_noised: bool, tail: float) -> Interval:
    """The standard deviation of figures with one standard error to either side."""
    values: Numbers = np.array([float(one.value) for one in each])
    errors: Numbers = np.array([float(one.high - one.low) / 2 for one in each])
    apart, count = values - values.mean(), len(each)
    # One degree of freedom goes to the mean.
    errors = errors * math.sqrt((count - 1) / count)
    seen, even = float((apart**2).sum()), np.hypot(apart, errors)

    def deviation(pattern: Numbers, chance: float) -> float:
        return scale_of(pattern, errors, 2, chance, seen) * math.sqrt(float((pattern**2).mean()))

    low, high = deviation(apart, 1 - tail), deviation(even, tail)
    value = deviation(apart, 0.5) if is_noised else math.sqrt(seen / count)
    return Interval(*(np.asarray(one, dtype=np.float64) for one in (value, min(low, value), max(high, value))))
