"""What an institution adds to a sum of attributions, and what that costs: whole numbers, bounded for each subject.

A record's absolute attributions by column are clipped to an L2 norm, and a coordinate that counts the record, with the
clipping norm itself, is put beside them. So a record adds a vector of at most sqrt(2) clipping norms. It is rounded
towards zero, which no norm grows by: the bound holds for the integers too, without a chance of failing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import one_of_each
from lepton_fl.explanation.attributions import explain
from lepton_fl.privacy import skellam, skellam_bounds
from lepton_fl.privacy.accounting import SKELLAM, Segment, epsilon_of_history
from lepton_fl.tasks.features import Features
from lepton_fl.training.examples import Examples

UNITS = 1 << 10  # of the grid, that one clipping norm has
SENSITIVITY = math.sqrt(2) * UNITS  # L2, of one subject's whole numbers, its count included
_MOST_MULTIPLIER, _PRECISION = 1e4, 1e-3


@dataclass
class Explanation:
    """`explanation`: values in `conf/sim.yaml`."""

    epsilon: float | None  # of a held-out subject, for this release; null: none is made
    clipping_norm: float  # L2, of a record's attributions by column, in units of the logit
    top: int  # columns at the head of the list in which a sensitive one is pointed out

    def __post_init__(self) -> None:
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ConfigError(f"explanation.epsilon must be null or a positive number, got {self.epsilon}")
        if not 0 < self.clipping_norm < math.inf:
            raise ConfigError(f"explanation.clipping_norm must be a positive number, got {self.clipping_norm}")
        if self.top < 1:
            raise ConfigError(f"explanation.top must be at least 1, got {self.top}")


def clipped(attributions: npt.NDArray[np.float64], features: Features, clipping_norm: float) -> npt.NDArray[np.int64]:
    """What one record adds: its absolute attributions by column within the norm, then its count; whole numbers.

    Args:
        attributions: float64 [inputs]. One that is not finite makes all of them 0; the record still counts.
        clipping_norm: L2, > 0.

    Returns:
        int64 [columns + 1], of an L2 norm of at most `SENSITIVITY`.
    """
    by_column = np.abs(features.summed(attributions[None, :])[0])
    if not np.isfinite(by_column).all():
        by_column = np.zeros_like(by_column)
    norm = math.hypot(*by_column)
    # A little less than it could be, so that float64 rounding cannot lift a norm over the bound.
    scale = UNITS * (1 - 1e-12) / max(norm, clipping_norm)
    return np.append(np.floor(by_column * scale).astype(np.int64), UNITS)


def vector(
    model: nn.Module, examples: Examples, features: Features, clipping_norm: float, *, one_per_subject: bool
) -> npt.NDArray[np.int64]:
    """The sum over records of what each adds, exact: it leaves under noise alone.

    Args:
        one_per_subject: of several records of a subject one counts; else the promise is to records.

    Returns:
        int64 [columns + 1].
    """
    total = np.zeros(len(features.names) + 1, dtype=np.int64)
    chosen = one_of_each(examples) if one_per_subject else torch.arange(len(examples))
    for place in chosen.tolist():
        total += clipped(explain(model, examples.features[place]).attributions, features, clipping_norm)
    return total


def cost(variance: int, shares: int) -> Segment:
    """What the release is for an accountant.

    Args:
        variance: of one institution's noise.
        shares: institutions whose noise is surely in the sum.
    """
    return Segment(skellam_bounds.multiplier(variance * shares, SENSITIVITY), 1.0, 1, SKELLAM)


def variance_for(epsilon: float, delta: float, shares: int) -> int:
    """The least variance of each institution's noise at which the release alone costs at most (epsilon, delta).

    Raises:
        ConfigError: more noise than can be drawn.
    """
    low, high = 1e-3, _MOST_MULTIPLIER
    while high / low > 1 + _PRECISION:
        middle = math.sqrt(low * high)
        is_enough = epsilon_of_history((Segment(middle, 1.0, 1, SKELLAM),), delta) <= epsilon
        low, high = (low, middle) if is_enough else (middle, high)
    variance = math.ceil(skellam_bounds.variance_for(high, SENSITIVITY) / shares)
    if variance > skellam.MOST_VARIANCE:
        raise ConfigError(
            f"explanation.epsilon {epsilon:g} needs more noise than can be drawn; nothing was released; raise it"
        )
    return variance
