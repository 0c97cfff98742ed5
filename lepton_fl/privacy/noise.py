"""Where noise is added: the Gaussian mechanism on a grid.

Floating-point noise has gaps: which sums are possible can betray the value underneath (Mironov 2012,
"On Significance of the Least Significant Bits for Differential Privacy"). So the clipped sum is rounded
to a grid first, and the noisy sum to the same grid: what is released is a rounded Gaussian centred on a
grid point, a post-processing of the ideal mechanism. Rounding moves a sum by at most half a grid step
per coordinate, which `clip_target` takes off the clipping norm beforehand.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.gaussian import CHUNK
from lepton_fl.privacy.kernels import OnGrid, Scales
from lepton_fl.privacy.randomness import Stream

_GRID_BITS = 20
# A record's float32 gradient can round otherwise when another is missing, and so does the float32 sum of up to 512
# records (training.bookkeeping.portions). A neighbour was seen to move a sum by 1 + 7e-5 times the norm, where
# 512 * 2^-24 is 3e-5; the margin is more than 30 times that: measured (bench/float32_sums.py), not proven.
FLOAT32_MARGIN = 2.0**-8


def grid_step(stddev: float) -> float:
    """The grid's spacing: the largest power of two at most stddev / 2^20, so rounding is exact."""
    return float(2.0 ** math.floor(math.log2(stddev) - _GRID_BITS))


def clip_target(clipping_norm: float, stddev: float, parameters: int) -> float:
    """The norm to clip each record to, so that the rounded sum moves by at most `clipping_norm`.

    Adding or removing one record moves the exact sum by the target, and rounding two sums of d
    coordinates moves their difference by at most grid * sqrt(d).

    Raises:
        ConfigError: if so many parameters share so much noise that no room is left.
    """
    target = clipping_norm * (1.0 - FLOAT32_MARGIN)
    if stddev > 0:
        target -= grid_step(stddev) * math.sqrt(parameters)
    if target <= 0:
        raise ConfigError(
            f"noise of standard deviation {stddev:.3g} on {parameters} parameters leaves no room under the "
            f"clipping norm {clipping_norm:.3g}; raise privacy.epsilon or choose a smaller model"
        )
    return target


def add_noise(clipped_sum: Tensor, stddev: float, stream: Stream) -> None:
    """Turn a clipped sum, in place, into the release: sum plus Gaussian noise, on the grid.

    Args:
        clipped_sum: float64, one flat vector of d parameters; afterwards the noisy sum.
        stddev: noise multiplier times clipping norm, in the units of the sum, > 0.
        stream: cryptographic randomness, see `randomness`.

    Source: Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", section 3.5.2.
    """
    release(clipped_sum, stddev, stream, 1.0, clipped_sum)


class _Memory(threading.local):
    """A chunk's noise, of each thread."""

    def __init__(self) -> None:
        self.noise = torch.empty(CHUNK, dtype=torch.float64)


_memory = _Memory()


@dataclass(frozen=True)
class Onto:
    """What a release is added to, in the same pass over memory."""

    values: Tensor  # [d]; they depend on earlier releases alone
    share: float  # of them that stays


def release(
    clipped_sum: Tensor, stddev: float, stream: Stream, gain: float, out: Tensor, onto: Onto | None = None
) -> None:
    """out = gain * (the sum on the grid + Gaussian noise, on the grid), see `add_noise`, plus a share of `onto`.

    Args:
        clipped_sum: float64 or float32 [d], on any device; `out` may be the same, or the values of `onto`.
        gain: a number that depends on no record; the product is taken in float64.
    """
    step = grid_step(stddev)
    scales = Scales(1 / step, stddev / step, gain * step, 0.0 if onto is None else onto.share)
    if clipped_sum.device.type == "cpu":
        grid = OnGrid(clipped_sum, out, None if onto is None else onto.values, scales)
        for place, noise in _drawn(len(clipped_sum), stream):
            grid.part(place.start, noise)
        return
    for place, noise in _drawn(len(clipped_sum), stream):
        numbers = clipped_sum[place].to(torch.float64, copy=True).mul_(scales.per_step).round_()
        numbers.add_(noise.to(numbers.device), alpha=scales.stddev).round_().mul_(scales.gain)
        out[place].copy_(numbers if onto is None else numbers.add_(onto.values[place], alpha=onto.share))


def _drawn(count: int, stream: Stream) -> Iterator[tuple[slice, Tensor]]:
    """Standard normal numbers part by part, float64, in memory that the next part is written to."""
    noise = _memory.noise
    for start in range(0, count, CHUNK):
        part = noise if start + CHUNK <= count else noise[: count - start]
        stream.standard_normal(part)
        yield slice(start, start + part.shape[0]), part
