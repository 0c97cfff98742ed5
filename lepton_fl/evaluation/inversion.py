"""How large something can be whose absolute values, or squares, are all that was seen: by simulated draws.

Sampling and noise only make such a sum larger, so neither a gradient nor resampling tells an interval. What can be
asked is at which size the sum that was seen would be a surprise.

Source: Casella and Berger 2002, "Statistical Inference", section 9.2.1 (inverting a test).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lepton_fl.evaluation.intervals import Numbers

_DRAWS, _SEED, _HALVINGS = 1000, 20, 24


def scale_of(pattern: Numbers, deviations: Numbers, power: int, chance: float, seen: float) -> float:
    """The scale s under which sums of |s * pattern + error|^power up to the one seen have this chance; at least 0.

    Args:
        pattern: float64 [n], of what is sought.
        deviations: float64 [n], standard, of the independent normal errors.
        power: 1 or 2.
        chance: say 0.975 for a lower bound.
        seen: the sum.
    """
    drawn = _normals(len(pattern)) * deviations

    def is_below(scale: float) -> bool:
        return bool(np.quantile((np.abs(scale * pattern + drawn) ** power).sum(axis=1), chance) < seen)

    if not pattern.any() or not is_below(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while is_below(high):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return low


@lru_cache(maxsize=8)
def _normals(count: int) -> Numbers:
    """Always the same: what is made of released counts must not differ from one look to the next."""
    return np.random.default_rng(_SEED).standard_normal((_DRAWS, count))
