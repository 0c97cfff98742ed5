"""Integer noise whose sum over institutions has the same law: Skellam, by inversion of an exact table.

A Skellam number of variance mu is the difference of two independent Poisson numbers of mean mu / 2, so the sum of k of
them is one of variance k mu: what m institutions add to a sum is what one curator would have added, whoever the m are.

The table holds the law to 128 bits. A 64-bit table would not do: its error, times the entries, coordinates and rounds
of a run, is a delta that shows. The second word of a draw is read only where the first one falls upon a border.

Source: Agarwal, Kairouz and Liu 2021, "The Skellam Mechanism for Differentially Private Federated Learning"; Olver and
Sookne 1972, "Note on Backward Recurrence Algorithms" (the recurrence of Bessel functions, run backwards).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lepton_fl.privacy.randomness import Stream

MOST_VARIANCE = 1 << 30
MOST_DISTANCE = 2.0**-109  # of a table's law to the Skellam law, in total variation, for each draw
_FRACTION_BITS = 256
_TABLE_BITS = 128
_WORD = (1 << 64) - 1
_TAIL_BITS = 113  # both tails beyond the table weigh less than 2^-113
_GUIDE_BITS = 18
_CHUNK = 1 << 14
_MISS = -1


@dataclass(frozen=True)
class Table:
    """The distribution function of a Skellam law as 128-bit integers, and where to begin looking in it."""

    radius: int  # a draw lies in [-radius, radius]
    high: npt.NDArray[np.uint64]  # [2 radius], of P[X <= k] * 2^128 for k = -radius..radius - 1
    low: npt.NDArray[np.uint64]
    guide: npt.NDArray[np.int32]  # by a word's first bits: the draw's place, or -1 where they do not settle it
    distance: float  # at most, in total variation, between a draw and the Skellam law

    def sample(self, count: int, stream: Stream) -> npt.NDArray[np.int64]:
        """`count` independent numbers of this law."""
        out = np.empty(count, dtype=np.int64)
        for start in range(0, count, _CHUNK):
            part = out[start : start + _CHUNK]
            part[:] = self._places(stream.words(len(part)), stream)
        out -= self.radius
        return out

    def _places(self, words: npt.NDArray[np.uint64], stream: Stream) -> npt.NDArray[np.int64]:
        """How many borders lie at or below each word, the second words drawn where that takes them."""
        places: npt.NDArray[np.int64] = self.guide[words >> np.uint64(64 - _GUIDE_BITS)].astype(np.int64)
        missed = np.flatnonzero(places == _MISS)
        sought = words[missed]
        first, last = np.searchsorted(self.high, sought, side="left"), np.searchsorted(self.high, sought, side="right")
        for tie in np.flatnonzero(first < last):
            second = stream.words(1)
            last[tie] = first[tie] + np.searchsorted(self.low[first[tie] : last[tie]], second, side="right")[0]
        places[missed] = last
        return places


@lru_cache(maxsize=4)
def table(variance: int) -> Table:
    """The table of the Skellam law of this variance, from integers alone.

    Args:
        variance: a whole number, from 1 to 2^30.

    Raises:
        ValueError: any other variance.
    """
    if not 1 <= variance <= MOST_VARIANCE:
        raise ValueError(f"a Skellam table is made for variances from 1 to {MOST_VARIANCE}, got {variance}")
    weights = _weights(variance)
    total = weights[0] + 2 * sum(weights[1:])
    radius, tail = _radius(weights, total)
    borders, below = [], tail
    for value in range(-radius, radius):
        below += weights[abs(value)]
        borders.append((below << _TABLE_BITS) // total)
    high = np.array([border >> 64 for border in borders], dtype=np.uint64)
    low = np.array([border & _WORD for border in borders], dtype=np.uint64)
    # A border is rounded down by less than 2^-128, and the tails are drawn as -radius and radius. The recurrence,
    # rounded at 2^-256 and begun 2^-160 out, adds less than one more rounding.
    distance = 2.0**-_TAIL_BITS + (2 * radius + 1) * 2.0**-_TABLE_BITS
    return Table(radius, high, low, _guide(high), distance)


def _weights(variance: int) -> list[int]:
    """Proportional to P[X = 0], P[X = 1], ... until they are below 2^-160 of all.

    P[X = k] = exp(-mu) I_k(mu) and I_(k-1) = I_(k+1) + (2 k / mu) I_k. Run downwards, every solution turns into this
    one: begun with a false value at `top`, the error at k is P[top]^2 / P[k].
    """
    top = _top(variance)
    weights = [0] * (top + 2)
    weights[top] = 1 << _FRACTION_BITS
    for k in range(top, 0, -1):
        weights[k - 1] = weights[k + 1] + 2 * k * weights[k] // variance
    return weights


def _top(variance: int) -> int:
    """Where the law's tail is below 2^-160: P[X >= x] <= exp(-x asinh(x / mu) + sqrt(x^2 + mu^2) - mu) (Chernoff)."""
    top = math.ceil(15 * math.sqrt(variance))
    while top * math.asinh(top / variance) - math.hypot(top, variance) + variance < 160 * math.log(2):
        top += max(1, top // 16)
    return top


def _radius(weights: list[int], total: int) -> tuple[int, int]:
    """The least radius beyond which both tails weigh less than 2^-113, and the weight of one of them."""
    tail = 0
    for k in range(len(weights) - 1, 0, -1):
        if (2 * (tail + weights[k])) << _TAIL_BITS >= total:
            return k, tail
        tail += weights[k]
    raise ValueError("a law of variance 1 or more has a tail")


def _guide(high: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """For each beginning of a word, the place of all words that begin so, if no border lies among them."""
    shift = np.uint64(64 - _GUIDE_BITS)
    first = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << shift
    last = first | np.uint64((1 << (64 - _GUIDE_BITS)) - 1)
    before, upto = np.searchsorted(high, first, side="left"), np.searchsorted(high, last, side="right")
    return np.where(before == upto, before, _MISS).astype(np.int32)
