"""Reals as integers for a ring: stochastic rounding, without bias.

A nearest rounding would err in the same direction at every institution; here each entry becomes one of its two
neighbouring integers at random, so that the mean over institutions is right on average. The coins come from
AES-256-CTR. All arithmetic is in float64: up to 24 bits, product and sum keep 29 bits below the integer, and the
rounding to float32 that would shift the coins never happens.

Source: Alistarh et al. 2017, "QSGD" (stochastic rounding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS, chunks
from lepton_fl.secure_aggregation.key_stream import KEY_BYTES, key_stream
from lepton_fl.secure_aggregation.source import Source

_COIN_BYTES, _COINS = 2, 1 << 16  # a coin is one of 2^16 equal parts of a step


@dataclass(frozen=True)
class Quantiser:
    """Maps [-bound, bound] onto the integers of so many bits: `largest` stands for `bound`."""

    bound: float  # > 0, in the units of the values
    bits: int  # 2 to 24, the sign included

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(f"a bound is above 0 and finite, not {self.bound}")
        if not 2 <= self.bits <= 24:
            raise ValueError(f"values are quantised to 2 to 24 bits, not {self.bits}")

    @property
    def largest(self) -> int:
        """The largest integer that is used; as many lie below zero, so that negation is exact."""
        return (1 << (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """One integer in the units of the values."""
        return self.bound / self.largest


def quantise(
    values: NDArray[np.float32] | NDArray[np.float64],
    quantiser: Quantiser,
    source: Source,
    factor: float = 1.0,
    out: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int32], int]:
    """Each value times `factor` as an integer, and how many of them the bound cut.

    The expectation of an integer is its value over `quantiser.step` to within 2^-17, the half step of a coin; a value
    on an integer gives that integer; no result is a whole integer away from its value.

    Args:
        values: one dimension.
        quantiser: range and resolution; what lies outside the range goes to its end.
        source: of the key of the coins.
        factor: a weight, finite and >= 0.
        out: where the integers go, if they have a place already; undefined after an error.

    Returns:
        As many integers in [-largest, largest]; and the count of values cut by more than half a step, which is the
        institution's own to know.

    Raises:
        ValueError: if a value is not a number or infinite, or an argument is none of the above.
    """
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise ValueError("what is quantised is a vector of float32 or float64")
    fine = factor * quantiser.largest * _COINS / quantiser.bound  # coins to the unit
    if not (math.isfinite(fine) and fine >= 0):
        raise ValueError(f"a factor of {factor} does not go with a bound of {quantiser.bound}")
    integers, cut = np.empty(len(values), np.int32) if out is None else out, 0
    if integers.shape != values.shape or integers.dtype != np.int32:
        raise ValueError("the integers have no room where they should go")
    coins = _Coins(source)
    buffer = np.empty(CHUNK_WORDS)
    for piece in chunks(0, len(values)):
        part = buffer[: piece.stop - piece.start]
        cut += _scale(values[piece], fine, quantiser.largest * _COINS, part)
        part += coins.draw(len(part))
        part *= 1 / _COINS
        np.floor(part, out=part)
        integers[piece] = part
    return integers, cut


def dequantise(total: NDArray[np.signedinteger], quantiser: Quantiser) -> NDArray[np.float64]:
    """The sum of quantised values in their own units; the width of the integers is the caller's to bound."""
    return total.astype(np.float64) * quantiser.step


def _scale(
    values: NDArray[np.float32] | NDArray[np.float64], fine: float, largest: int, out: NDArray[np.float64]
) -> int:
    """The values in coins, cut to `largest`; returns how many were cut by more than half a step."""
    highest, lowest = float(values.max()), float(values.min())
    if not (math.isfinite(highest) and math.isfinite(lowest)):  # either is not a number as soon as one value is not
        raise ValueError("a value is infinite or not a number")
    np.copyto(out, values)
    with np.errstate(over="ignore"):  # an infinite product is cut like any other beyond the bound
        out *= fine
    if max(highest, -lowest) * fine <= largest:
        return 0
    cut = int(np.count_nonzero(np.abs(out) > largest + _COINS / 2))
    np.clip(out, -largest, largest, out=out)
    return cut


class _Coins:
    """Uniform on the middles of a step's 2^16 parts: on their ends, every value would sink by half a part."""

    def __init__(self, source: Source) -> None:
        self._blocks = key_stream(source(KEY_BYTES))
        self._zeros, self._out = (memoryview(bytearray(CHUNK_WORDS * _COIN_BYTES)) for _ in range(2))
        self._words, self._coins = np.frombuffer(self._out, "<u2"), np.empty(CHUNK_WORDS)

    def draw(self, count: int) -> NDArray[np.float64]:
        """So many coins, at most a chunk of them, good until the next are drawn."""
        self._blocks.update_into(self._zeros[: count * _COIN_BYTES], self._out)
        coins = self._coins[:count]
        np.copyto(coins, self._words[:count])
        coins += 0.5
        return coins
