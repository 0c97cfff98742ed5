"""How far the scores of noisy counts are from the shares of positives, with an interval by simulated draws."""

from __future__ import annotations

import math

import numpy as np

from lepton_fl.evaluation.intervals import Interval, Numbers
from lepton_fl.evaluation.inversion import scale_of
from lepton_fl.evaluation.metrics import centres

MOST_BINS = 20
_SPREAD = 0.3  # of the variance, added to each bin's gap for the upper bound; from simulations, tests hold the coverage


def calibration_error(table: Numbers, variance: float, tail: float) -> Interval:
    """Mean over subjects of the gap between their bin's share of positives and its middle.

    With D_j = positives - middle * subjects of bin j, it is the sum of |D_j| over all subjects. Each D_j is normal
    with a variance that the counts and the noise tell. For errors of a given pattern over the bins the sum of |D_j| is
    simulated, always with the same draws, and the bounds are the errors under which a sum as small, or as large, as
    the one seen has the chance `tail`. The pattern is the one seen, for the upper bound more even: of an error that is
    spread out over the bins, more of it is hidden.

    The value is the plain formula where there is no noise. With noise that would take the noise for an error; then it
    is the error under which a larger sum is as likely as a smaller one.

    Args:
        table: float64 [2, bins], label by score bin.
        variance: of the noise in each cell.
        tail: the chance left on either side, say 0.025.

    Source: Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (the
    error); `inversion` (the interval).
    """
    negatives, positives = table
    middle = centres(table.shape[1])
    subjects, gaps = table.sum(), positives - middle * (negatives + positives)
    squares = np.maximum(positives * (1 - middle) ** 2 + negatives * middle**2, 0.0)
    deviations = np.sqrt(squares + variance * ((1 - middle) ** 2 + middle**2))
    seen, even = np.abs(gaps).sum(), np.hypot(gaps, math.sqrt(_SPREAD) * deviations)

    def error(pattern: Numbers, chance: float) -> float:
        return scale_of(pattern, deviations, 1, chance, seen) * float(np.abs(pattern).sum() / subjects)

    low, high = error(gaps, 1 - tail), error(even, tail)
    value = error(gaps, 0.5) if variance else seen / subjects
    return Interval(*(np.asarray(one, dtype=np.float64) for one in (value, min(low, value), max(high, value))))
