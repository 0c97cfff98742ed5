"""Shared noise: one step in whole numbers, whose sum over the institutions carries the noise of one trusted curator.

An institution draws, clips and adds up as under noise of its own, rounds its sum to a grid, and adds its share of
Skellam noise. What it hands over is for a masked vector alone: only the sum over the institutions is protected by the
whole noise, and by itself a share is protected by the share's noise. The server takes the step that each institution
would otherwise have taken, from the sum.

As with noise of its own, nothing computed from the records shapes a step but through the noisy sum: the divisor is the
declared expected batch of the whole cohort, and an empty draw hands over noise alone.

Source: Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation" (clip, round, add noise, mask); Agarwal, Kairouz and Liu 2021, "The Skellam Mechanism".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.accounting import (
    MOST_SKELLAM_PARAMETERS,
    MOST_SKELLAM_SHARES,
    SKELLAM,
    Schedule,
    Segment,
    calibrate_skellam,
    epsilon_of_history,
)
from lepton_fl.privacy.noise import FLOAT32_MARGIN
from lepton_fl.privacy.randomness import Stream
from lepton_fl.privacy.skellam import MOST_VARIANCE, table
from lepton_fl.privacy.skellam_bounds import multiplier, rounded_norm, variance_for
from lepton_fl.privacy.units import Budgeted
from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.examples import Examples
from lepton_fl.training.flat import set_gradients, size
from lepton_fl.training.private import clipped_sum
from lepton_fl.training.settings import SGD, Training

_LEAST_STDDEV = 4096.0  # of one share, in units of the grid: there Skellam noise is Gaussian noise but for 1e-7
_MOST_ROUNDING = 1.02  # what rounding may add to a contribution's norm, while a finer grid still has a table
_FRACTION_BITS = 32
_WIRE_BITS = (24, 32)
_SPARE = 2.0  # times an even share of the clipped records, all pulling at one coordinate


@dataclass(frozen=True)
class SharedMechanism:
    """One step of a run with shared noise, as the accountant was told of it; the same at every institution."""

    clipping_norm: float  # L2, of what one record, or one subject, adds to the sum
    noise_multiplier: float  # of the sum over the fewest honest institutions, as `skellam_bounds.multiplier` gives it
    honest: int  # institutions whose noise is surely in an unmasked sum, and unknown to the operator
    sampling_rate: float  # chance of each record, or subject, to be drawn
    expected_batch: float  # declared, of the whole cohort: what the sum is divided by; never counted
    grid: float  # spacing of the whole numbers, a power of two, in the units of the parameters
    variance: int  # of one institution's noise, in squared units of the grid
    bound: int  # of each coordinate of an institution's rounded sum; beyond it, it is cut off
    wire_bits: int  # 24 or 32: what the sum over the cohort is sure to fit, but for noise beyond any chance
    parameters: int  # d
    records_per_subject: int | None  # subjects are drawn, with so many records at most; None: records are

    def __post_init__(self) -> None:
        if multiplier(self.honest * self.variance, self.sensitivity) < self.noise_multiplier:
            raise ValueError("the shares' noise does not add up to the noise multiplier")

    @property
    def sensitivity(self) -> float:
        """L2 of what one contribution changes in the whole numbers handed over, but for a chance of 2^-52.

        Taking a sum to 32 bits behind the point moves a coordinate of its change by up to 2^-32.
        """
        norm = self.clipping_norm / self.grid + 2.0**-_FRACTION_BITS * math.sqrt(self.parameters)
        return rounded_norm(norm, self.parameters)

    @property
    def own_multiplier(self) -> float:
        """The noise multiplier of one institution's own share, for whoever sees that alone."""
        return multiplier(self.variance, self.sensitivity)

    @property
    def target(self) -> float:
        """The norm to clip each contribution to; what is left of the clipping norm is for float32's rounding."""
        return self.clipping_norm * (1.0 - FLOAT32_MARGIN)

    @property
    def stddev(self) -> float:
        """Of one share's noise, in the units of the sum."""
        return math.sqrt(self.variance) * self.grid

    @property
    def most(self) -> int:
        """What no coordinate handed over exceeds in size, noise included."""
        return self.bound + table(self.variance).radius


@dataclass(frozen=True)
class Cohort:
    """The institutions of a run with shared noise."""

    institutions: int
    honest: int  # in every unmasked sum, at least: the threshold less the assumed colluders
    expected_batch: float  # declared, of all together


@dataclass(frozen=True)
class SharedDraws:
    """The three cryptographic streams of one institution's round."""

    sampling: Stream
    rounding: Stream
    noise: Stream


@dataclass(frozen=True)
class Epsilons:
    """The two epsilons of a run with shared noise, at the same delta."""

    of_the_sum: float  # against outsiders, other institutions, and an operator with no more colluders than assumed
    of_a_share: float  # against an operator who takes one institution's masks off; infinite above 20


def calibrate_shared(
    privacy: Budgeted, schedule: Schedule, cohort: Cohort, parameters: int, records_per_subject: int | None
) -> SharedMechanism:
    """The mechanism with the least noise that keeps the whole schedule within the promise, against outsiders.

    Raises:
        BudgetSpent: no reasonable noise keeps it.
        ConfigError: the model is too large for the table's guarantee, or its sums for 32 bits.
    """
    if not 1 <= parameters <= MOST_SKELLAM_PARAMETERS:
        raise ConfigError(
            f"shared noise is accounted for models of up to {MOST_SKELLAM_PARAMETERS} parameters, and this one has "
            f"{parameters}; nothing was trained; choose a smaller model or let each institution add noise of its own"
        )
    if not 1 <= cohort.honest <= min(cohort.institutions, MOST_SKELLAM_SHARES):
        raise ValueError(f"the honest institutions are some of the cohort, and at most {MOST_SKELLAM_SHARES}")
    noise_multiplier = calibrate_skellam(privacy.epsilon, privacy.delta, schedule)
    grid, variance = _grid(privacy.clipping_norm, noise_multiplier, cohort.honest, parameters)
    bound, wire_bits = _bound(privacy.clipping_norm / grid, variance, cohort)
    return SharedMechanism(
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=noise_multiplier,
        honest=cohort.honest,
        sampling_rate=schedule.sampling_rate,
        expected_batch=cohort.expected_batch,
        grid=grid,
        variance=variance,
        bound=bound,
        wire_bits=wire_bits,
        parameters=parameters,
        records_per_subject=records_per_subject,
    )


def _grid(clipping_norm: float, noise_multiplier: float, honest: int, parameters: int) -> tuple[float, int]:
    """A grid on which a share's noise has a standard deviation of 4096 or more, and the variance of a share on it.

    Finer by halves while rounding lengthens a contribution by more than 2 % and the table may still grow.
    """
    grid = 2.0 ** math.floor(math.log2(noise_multiplier * clipping_norm / (math.sqrt(honest) * _LEAST_STDDEV)))
    while True:
        norm = clipping_norm / grid + 2.0**-_FRACTION_BITS * math.sqrt(parameters)
        sensitivity = rounded_norm(norm, parameters)
        # A hair more, so that rounding in float64 cannot leave it a hair below.
        variance = math.ceil(variance_for(noise_multiplier, sensitivity) * (1 + 1e-9) / honest)
        is_finest = 4 * variance > MOST_VARIANCE
        if variance <= MOST_VARIANCE and (is_finest or sensitivity <= _MOST_ROUNDING * norm):
            return grid, variance
        if variance > MOST_VARIANCE:
            raise ConfigError(
                f"rounding {parameters} parameters would take more noise than the promise itself; nothing was trained; "
                "choose a smaller model, a larger privacy.epsilon, or let each institution add noise of its own"
            )
        grid /= 2


def _bound(norm: float, variance: int, cohort: Cohort) -> tuple[int, int]:
    """How far a coordinate of one institution's sum may go, and the wire's bits that hold such sums of the cohort.

    Args:
        norm: the clipping norm in units of the grid.
    """
    batch = cohort.expected_batch / cohort.institutions
    wanted = math.ceil(_SPARE * (batch + 6 * math.sqrt(batch)) * norm) + 1
    for wire_bits in _WIRE_BITS:
        bound = (2 ** (wire_bits - 1) - 1) // cohort.institutions - table(variance).radius
        if bound >= wanted:
            return bound, wire_bits
    raise ConfigError(
        f"sums over {cohort.institutions} institutions of about {batch:.0f} clipped records each do not fit 32 bits; "
        "nothing was trained; lower training.sampling_rate or the number of institutions in a round"
    )


def epsilons(mechanism: SharedMechanism, delta: float, steps: int) -> Epsilons:
    """Both epsilons after so many steps since the run began."""
    rate = mechanism.sampling_rate
    return Epsilons(
        epsilon_of_history((Segment(mechanism.noise_multiplier, rate, steps, SKELLAM),), delta),
        epsilon_of_history((Segment(mechanism.own_multiplier, rate, steps, SKELLAM),), delta),
    )


def refuse_several_steps(training: Training) -> None:
    """Raise `ConfigError` unless a round is one local step of SGD, the only schedule that shared noise is exact for.

    Adam would be exact too and of no use: its first step is the sign of each noisy coordinate, and it has no second.
    """
    if training.optimizer != SGD:
        raise ConfigError(
            f"under shared noise a round is one step, of which training.optimizer={training.optimizer} keeps the signs "
            "alone; nothing was trained; set training.optimizer=sgd, and use a strategy with memory such as fedadam"
        )
    if training.local_steps != 1:
        raise ConfigError(
            f"shared noise protects the sum of one local step, and training.local_steps is {training.local_steps}: "
            "between steps each institution would train on with its own share of the noise alone; nothing was trained; "
            "set training.local_steps to 1 and plan more rounds, or let each institution add noise of its own"
        )


def release(
    model: nn.Module,
    examples: Examples,
    mechanism: SharedMechanism,
    engine: ClippedSum,
    draws: SharedDraws,
    physical_batch: int,
) -> npt.NDArray[np.int64]:
    """One institution's share of one step, whole numbers [d] of size at most `mechanism.most`; only for masking.

    Args:
        examples: all of the institution's training records, `weights.weighted` where the round has weights.
        physical_batch: how many records may be in memory at once.

    Raises:
        ValueError: the model has not the parameters that the mechanism was made for.
        UnsupportedModel: a layer whose records cannot be told apart. The engine is detached either way.
    """
    if size(model) != mechanism.parameters:
        raise ValueError(f"the mechanism was made for {mechanism.parameters} parameters, the model has {size(model)}")
    engine.attach(model)
    try:
        total = clipped_sum(examples, mechanism, engine, draws.sampling, (mechanism.target, model, physical_batch))
    finally:
        engine.detach()
    return noisy(total.cpu().numpy(), mechanism, draws)


def noisy(total: npt.NDArray[np.float64], mechanism: SharedMechanism, draws: SharedDraws) -> npt.NDArray[np.int64]:
    """A clipped sum, float64 [d] in the units of the parameters, on the grid, cut off at the bound, with its noise."""
    rounded = on_grid(total / mechanism.grid, mechanism.bound, draws.rounding)
    return rounded + table(mechanism.variance).sample(len(rounded), draws.noise)


def on_grid(values: npt.NDArray[np.float64], bound: int, rounding: Stream) -> npt.NDArray[np.int64]:
    """Each value cut off at +-bound, then rounded up or down at random, unbiased, by a dither of its own.

    In 64-bit integers with 32 bits behind the point, so that what a contribution changes is exactly a stochastic
    rounding of what it changed in `values`, up to 2^-32: floating point would round x + u once more, depending on x.

    Args:
        bound: below 2^30.
    """
    if not 0 < bound < 1 << 30:
        raise ValueError(f"a bound lies between 1 and 2^30, got {bound}")
    if not np.isfinite(values).all():
        raise ValueError("a clipped sum is finite")
    fixed = np.rint(np.clip(values, -bound, bound) * 2.0**_FRACTION_BITS).astype(np.int64)
    dither = rounding.words((len(values) + 1) // 2).view(np.uint32)[: len(values)]
    return (fixed + dither.astype(np.int64)) >> np.int64(_FRACTION_BITS)


def apply(
    model: nn.Module,
    total: npt.NDArray[np.int64],
    mechanism: SharedMechanism,
    training: Training,
    round: int,
    gain: float = 1.0,
) -> None:
    """Take the round's step in place, from the sum over the institutions: the one local step, taken once for all.

    Momentum has no memory before the first step and the proximal pull is zero there, so this is what every institution
    would have done with the cohort's gradient.

    Args:
        total: int64 [d], the unmasked sum; its divisor is the cohort's declared expected batch, whoever dropped out.
        gain: `weights.gain` of the weights that the institutions were told, which counted over the largest of them.
    """
    refuse_several_steps(training)
    if total.shape != (mechanism.parameters,):
        raise ValueError(f"a sum has {mechanism.parameters} coordinates, got {total.shape}")
    flat = torch.from_numpy(total.astype(np.float64) * (gain * mechanism.grid / mechanism.expected_batch))
    optimizer = training.make_optimizer(model, round)
    set_gradients(model, flat.to(next(model.parameters()).device))
    optimizer.step()
    optimizer.zero_grad()
