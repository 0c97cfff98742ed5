"""Where noise is added: the Gaussian mechanism on a grid.

Floating-point noise has gaps: which sums are possible can betray the value underneath (Mironov 2012,
"On Significance of the Least Significant Bits for Differential Privacy"). So the clipped sum is rounded
to a grid first, and the noisy sum to the same grid: what is released is a rounded Gaussian centred on a
grid point, a post-processing of the ideal mechanism. Rounding moves a sum by at most half a grid step
per coordinate, which `clip_target` takes off the clipping norm beforehand.
"""

from __future__ import annotations

import math

import torch

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.randomness import Stream

_GRID_BITS = 20
# A record's float32 gradient can round otherwise when another is missing; a neighbour was seen to move the float64 sum
# by 1 + 5e-8 times the norm at 4,096 records, the most that training.physical_batch allows (bench/float32_sums.py). The
# margin is a thousand times that: measured, not proven.
FLOAT32_MARGIN = 2.0**-13


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
    step = grid_step(stddev)
    noise = torch.from_numpy(stream.normal(clipped_sum.numel())).to(clipped_sum.device)
    clipped_sum.div_(step).round_().add_(noise, alpha=stddev / step).round_().mul_(step)
