"""Where noise is added: the Gaussian mechanism on a grid.

Floating-point noise has gaps: which sums are possible can betray the value underneath (Mironov 2012,
"On Significance of the Least Significant Bits for Differential Privacy"). So the clipped sum is rounded
to a grid first, and the noisy sum to the same grid: what is released is a rounded Gaussian centred on a
grid point, a post-processing of the ideal mechanism. Rounding moves a sum by at most half a grid step
per coordinate, which `clip_target` takes off the clipping norm beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.gaussian import PAIRS
from lepton_fl.privacy.randomness import Stream

_GRID_BITS = 20
_PART = 2 * PAIRS
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


def add_noise(clipped_sum: torch.Tensor, stddev: float, stream: Stream) -> None:
    """Turn a clipped sum, in place, into the release: sum plus Gaussian noise, on the grid.

    Args:
        clipped_sum: float64, one flat vector of d parameters; afterwards the noisy sum.
        stddev: noise multiplier times clipping norm, in the units of the sum, > 0.
        stream: cryptographic randomness, see `randomness`.

    Source: Dwork and Roth 2014, "The Algorithmic Foundations of Differential Privacy", section 3.5.2.
    """
    for place, numbers in noised_steps(clipped_sum, stddev, stream):
        clipped_sum[place].copy_(numbers).mul_(grid_step(stddev))


def noised_steps(clipped_sum: torch.Tensor, stddev: float, stream: Stream) -> Iterator[tuple[slice, torch.Tensor]]:
    """What `add_noise` makes of a sum, float64 or float32, part by part, in whole numbers of grid steps.

    Yields:
        A part's place, and its numbers, float64, in memory that the next part is written to; the sum is left alone.
    """
    step = grid_step(stddev)
    count = clipped_sum.shape[0]
    width = min(_PART, count)
    noise = torch.empty(width, dtype=torch.float64)
    numbers = torch.empty(width, dtype=torch.float64, device=clipped_sum.device)
    for start in range(0, count, _PART):
        place = slice(start, start + _PART)
        part = clipped_sum[place]
        own, made = (noise, numbers) if start + width <= count else (noise[: count - start], numbers[: count - start])
        stream.normal_(own)
        made.copy_(part).mul_(1 / step).round_().add_(own.to(part.device), alpha=stddev / step).round_()
        yield place, made
