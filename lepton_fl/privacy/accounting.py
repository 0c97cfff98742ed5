"""How much privacy a run costs: noise calibrated up front, epsilon after every round, and over a history of runs.

The accountant composes the privacy loss distribution (PLD) of the whole declared schedule with Google's
dp-accounting; a Renyi (RDP) accountant checks it. Epsilon is a function of the steps already paid since
the run began, never of an object that a new round would start afresh.

Assumptions: Poisson sampling at the declared rate in every step, Gaussian noise of the stated multiplier
on a sum whose L2 sensitivity is the clipping norm, the schedule fixed before the run. Neighbours differ by
adding or removing one record.

Steps with Skellam noise (`skellam_bounds`) are accounted by Renyi divergences alone; no PLD is claimed for them, nor
for a history that holds any.

Source: Koskela et al. 2020, "Computing Tight Differential Privacy Guarantees Using FFT" (PLD); Mironov
2017, "Renyi Differential Privacy"; Doroshenko et al. 2022, "Connect the Dots" (pessimistic discretisation).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lepton_fl.errors import BudgetSpent, ConfigError, LeptonError

_NOISE_TOLERANCE = 1e-3
_LARGEST_NOISE = 1e4
_LEAST_DIVERGENCE = 1e-12
_MOST_INTERVALS = 2e5  # in the largest epsilon; the grid has a few times as many points

GAUSSIAN, SKELLAM = LAWS = ("gaussian", "skellam")
# What a step with Skellam noise takes from delta: 2^-52 where rounding lengthens a contribution, and, up to this
# epsilon, (1 + e^epsilon) * 2^-109 for each number drawn from a table, which no table draws exactly. Those that count
# are the honest institutions' that the noise is calibrated to, in each coordinate; more noise only hides more.
STEP_FAILURE = 2.0**-46
MOST_SKELLAM_EPSILON = 20.0
MOST_SKELLAM_PARAMETERS = 1 << 24
MOST_SKELLAM_SHARES = 1 << 10


class AccountantsDisagree(LeptonError):
    """Two accountants that must agree do not; no epsilon can be trusted."""

    exit_code = 3


@dataclass(frozen=True)
class Schedule:
    """What an institution releases in one run, declared before the first record is read."""

    sampling_rate: float  # chance of each record to enter a step, in (0, 1]
    steps: int  # over all rounds

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(f"training.sampling_rate must lie in (0, 1], got {self.sampling_rate}")
        if self.steps < 1:
            raise ConfigError(f"a run needs at least one step, got {self.steps}")


@dataclass(frozen=True)
class Segment:
    """So many steps of one mechanism, as they were or may be paid."""

    noise_multiplier: float  # standard deviation of the noise over the clipping norm
    sampling_rate: float  # chance of each unit to enter a step, in (0, 1]
    steps: int
    law: str = GAUSSIAN  # of the noise; for Skellam noise the multiplier is that of `skellam_bounds.multiplier`


@lru_cache(maxsize=64)
def calibrate(epsilon: float, delta: float, schedule: Schedule) -> float:
    """The least noise multiplier under which the whole schedule costs at most (epsilon, delta).

    Returns:
        Standard deviation of the noise over the clipping norm; within 0.001 of the least possible.

    Raises:
        BudgetSpent: if no reasonable amount of noise keeps the promise.
    """
    # RDP needs little memory whatever is asked, so it finds the region in which PLD then looks.
    at_most = 1.01 * _least_noise(epsilon, delta, schedule, _rdp_accountant, (0.0, 1.0))
    if at_most > _LARGEST_NOISE:
        raise BudgetSpent(_unreachable(epsilon, delta, schedule))
    interval = _interval(schedule.sampling_rate, at_most)
    noise_multiplier = _least_noise(epsilon, delta, schedule, lambda: _pld_accountant(interval), (at_most / 2, at_most))
    # The search stops within its tolerance on either side; a promise must not be missed by a hair.
    while epsilon_spent(noise_multiplier, delta, schedule.sampling_rate, schedule.steps) > epsilon:
        noise_multiplier += _NOISE_TOLERANCE
    return noise_multiplier


@lru_cache(maxsize=64)
def calibrate_skellam(epsilon: float, delta: float, schedule: Schedule) -> float:
    """The least multiplier, as `skellam_bounds.multiplier` gives it, that keeps the schedule within (epsilon, delta).

    Raises:
        BudgetSpent: if no reasonable amount of noise keeps the promise, or epsilon is beyond what is accounted for it.
    """
    if epsilon > MOST_SKELLAM_EPSILON:
        raise BudgetSpent(
            f"no epsilon above {MOST_SKELLAM_EPSILON:g} is accounted for shared noise, and privacy.epsilon is "
            f"{epsilon:g}; nothing was released; lower it, or let each institution add noise of its own"
        )
    whole = [order for order in renyi_orders() if order.is_integer()]
    noise_multiplier = _least_noise(epsilon, delta, schedule, lambda: _rdp_accountant(whole), (0.0, 1.0))
    if noise_multiplier > _LARGEST_NOISE:
        raise BudgetSpent(_unreachable(epsilon, delta, schedule))
    while _schedule_of_skellam(noise_multiplier, delta, schedule) > epsilon:
        noise_multiplier += _NOISE_TOLERANCE
    return noise_multiplier


def _schedule_of_skellam(noise_multiplier: float, delta: float, schedule: Schedule) -> float:
    return epsilon_by_renyi((Segment(noise_multiplier, schedule.sampling_rate, schedule.steps, SKELLAM),), delta)


def _least_noise(
    epsilon: float, delta: float, schedule: Schedule, accountant: Callable[[], Any], bracket: tuple[float, float]
) -> float:
    from dp_accounting import LowerEndpointAndGuess, calibrate_dp_mechanism
    from dp_accounting.mechanism_calibration import NoBracketIntervalFoundError

    try:
        return float(
            calibrate_dp_mechanism(
                accountant,
                lambda noise_multiplier: _event(noise_multiplier, schedule.sampling_rate, schedule.steps),
                epsilon,
                delta,
                LowerEndpointAndGuess(*bracket),
                tol=_NOISE_TOLERANCE,
            )
        )
    except NoBracketIntervalFoundError as error:
        raise BudgetSpent(_unreachable(epsilon, delta, schedule)) from error


@lru_cache(maxsize=4096)
def epsilon_spent(noise_multiplier: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Epsilon after `steps` steps since the run began, by PLD, checked by RDP.

    Raises:
        AccountantsDisagree: if PLD exceeds RDP, a looser upper bound, by more than discretisation explains.
    """
    return epsilon_of_history((Segment(noise_multiplier, sampling_rate, steps),), delta)


@lru_cache(maxsize=4096)
def epsilon_of_history(history: tuple[Segment, ...], delta: float) -> float:
    """Epsilon of all segments together, by PLD, checked by RDP; their order does not matter, and 0 steps cost 0.

    Where a segment has Skellam noise, by Renyi divergences alone.

    Raises:
        AccountantsDisagree: if PLD exceeds RDP, a looser upper bound, by more than discretisation explains.
    """
    paid = [segment for segment in history if segment.steps > 0]
    if not paid:
        return 0.0
    if any(segment.law == SKELLAM for segment in paid):
        return epsilon_by_renyi(history, delta)
    event = _composed(paid)
    by_rdp = float(_rdp_accountant().compose(event).get_epsilon(delta))
    by_pld = float(_pld_accountant(_finest(paid, by_rdp)).compose(event).get_epsilon(delta))
    if not by_pld <= 1.05 * by_rdp + 0.01:
        steps = sum(segment.steps for segment in paid)
        raise AccountantsDisagree(
            f"after {steps} steps PLD says epsilon {by_pld:.4f} and RDP {by_rdp:.4f}; no "
            "epsilon can be stated; the run stops; report the schedule as a bug"
        )
    return by_pld


@lru_cache(maxsize=64)
def epsilon_of_group(noise_multiplier: float, delta: float, sampling_rate: float, steps: int, records: int) -> float:
    """At most the epsilon of a person with so many records, where each record is drawn and clipped by itself.

    How many of them a step draws is binomial, so its release is dominated by a mixture of Gaussians: one of sensitivity
    i with the chance of i successes. Never below `epsilon_spent`, which it is for one record.

    Source: Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD with Sampling via Mixture of Gaussians
    Mechanisms" (arXiv 2401.10294).
    """
    if steps == 0:
        return 0.0
    if records == 1:
        return epsilon_spent(noise_multiplier, delta, sampling_rate, steps)
    if sampling_rate == 1:
        # All of them are drawn in every step: one record of as many times the clipping norm.
        return epsilon_spent(noise_multiplier / records, delta, 1.0, steps)
    from dp_accounting import SelfComposedDpEvent
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent

    chances = [
        math.comb(records, drawn) * sampling_rate**drawn * (1 - sampling_rate) ** (records - drawn)
        for drawn in range(records + 1)
    ]
    step = MixtureOfGaussiansDpEvent(noise_multiplier, [float(drawn) for drawn in range(records + 1)], chances)
    accountant = _pld_accountant(_interval(sampling_rate, noise_multiplier))
    return float(accountant.compose(SelfComposedDpEvent(step, steps)).get_epsilon(delta))


def _event(noise_multiplier: float, sampling_rate: float, steps: int) -> Any:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    step = GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        step = PoissonSampledDpEvent(sampling_rate, step)
    return SelfComposedDpEvent(step, steps)


def _composed(history: list[Segment]) -> Any:
    from dp_accounting import ComposedDpEvent

    return ComposedDpEvent([_event(part.noise_multiplier, part.sampling_rate, part.steps) for part in history])


def _finest(history: list[Segment], epsilon: float) -> float:
    """Fine enough for every segment; coarser, which only loosens the bound, where the grid would not fit in memory."""
    finest = min(_interval(part.sampling_rate, part.noise_multiplier) for part in history)
    return max(finest, min(1e-3, epsilon / _MOST_INTERVALS))


def renyi(noise_multiplier: float, sampling_rate: float, order: float, law: str = GAUSSIAN) -> float:
    """The Renyi divergence of this order that one step can make between neighbours; infinite where none is known.

    For Skellam noise it is known at whole orders. Between two of them it is interpolated, which bounds it from above:
    (order - 1) times the divergence of any two laws is convex in the order, and 0 at order 1.

    Source: Mironov, Talwar, Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism"; van Erven and
    Harremoes 2014, "Renyi Divergence and Kullback-Leibler Divergence", corollary 2 (convexity).
    """
    if law not in LAWS:
        return math.inf
    if law == GAUSSIAN or float(order).is_integer():
        return _renyi(noise_multiplier, sampling_rate, order)
    below = math.floor(order)
    low = (below - 1) * _renyi(noise_multiplier, sampling_rate, float(below)) if below > 1 else 0.0
    high = below * _renyi(noise_multiplier, sampling_rate, float(below + 1))
    return ((below + 1 - order) * low + (order - below) * high) / (order - 1)


@lru_cache(maxsize=4096)
def _renyi(noise_multiplier: float, sampling_rate: float, order: float) -> float:
    accountant = _rdp_accountant([order]).compose(_event(noise_multiplier, sampling_rate, 1))
    divergence = float(accountant.rdp[0])
    # Rounding can swallow what a step with a tiny sampling rate costs; no step is free.
    return max(divergence, _LEAST_DIVERGENCE) if divergence < math.inf else math.inf


def epsilon_by_renyi(history: tuple[Segment, ...], delta: float) -> float:
    """Epsilon of all segments together by Renyi divergences at the best order: looser than PLD, and at once.

    Infinite where Skellam noise is in it and the epsilon is above 20, or delta below what its steps take from it.
    """
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    paid = [segment for segment in history if segment.steps > 0]
    if not paid:
        return 0.0
    failures = STEP_FAILURE * sum(part.steps for part in paid if part.law == SKELLAM)
    if failures >= delta:
        return math.inf
    sums = [
        sum(one.steps * renyi(one.noise_multiplier, one.sampling_rate, order, one.law) for one in paid)
        for order in renyi_orders()
    ]
    epsilon = float(compute_epsilon(renyi_orders(), sums, delta - failures)[0])
    return epsilon if not failures or epsilon <= MOST_SKELLAM_EPSILON else math.inf


def renyi_orders() -> tuple[float, ...]:
    """The orders that a filter may be fixed to."""
    from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

    return tuple(float(order) for order in DEFAULT_RDP_ORDERS)


def _rdp_accountant(orders: list[float] | None = None) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    # It logs every order it cannot evaluate; leaving one out only loosens the bound.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return RdpAccountant(orders=orders, neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)


def _pld_accountant(interval: float) -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant(
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval
    )


def _interval(sampling_rate: float, noise_multiplier: float) -> float:
    """Fine enough for small sampling rates, where one step's loss is far below the usual 1e-3."""
    return min(1e-3, sampling_rate / (5 * noise_multiplier))


def _unreachable(epsilon: float, delta: float, schedule: Schedule) -> str:
    return (
        f"no amount of noise up to {_LARGEST_NOISE:.0f} times the clipping norm keeps {schedule.steps} steps at "
        f"sampling rate {schedule.sampling_rate} within epsilon {epsilon} at delta {delta}; nothing was released; "
        "plan fewer rounds or a larger privacy.epsilon"
    )
