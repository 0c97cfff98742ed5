"""How much privacy a run costs: noise calibrated up front, epsilon after every round.

The accountant composes the privacy loss distribution (PLD) of the whole declared schedule with Google's
dp-accounting; a Renyi (RDP) accountant checks it. Epsilon is a function of the steps already paid since
the run began, never of an object that a new round would start afresh.

Assumptions: Poisson sampling at the declared rate in every step, Gaussian noise of the stated multiplier
on a sum whose L2 sensitivity is the clipping norm, the schedule fixed before the run. Neighbours differ by
adding or removing one record.

Source: Koskela et al. 2020, "Computing Tight Differential Privacy Guarantees Using FFT" (PLD); Mironov
2017, "Renyi Differential Privacy"; Doroshenko et al. 2022, "Connect the Dots" (pessimistic discretisation).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lepton_fl.errors import BudgetSpent, ConfigError, LeptonError

_NOISE_TOLERANCE = 1e-3
_LARGEST_NOISE = 1e4


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
    if steps == 0:
        return 0.0
    event = _event(noise_multiplier, sampling_rate, steps)
    by_pld = float(_pld_accountant(_interval(sampling_rate, noise_multiplier)).compose(event).get_epsilon(delta))
    by_rdp = epsilon_by_rdp(noise_multiplier, delta, sampling_rate, steps)
    if not by_pld <= 1.05 * by_rdp + 0.01:
        raise AccountantsDisagree(
            f"after {steps} steps PLD says epsilon {by_pld:.4f} and RDP {by_rdp:.4f}; no "
            "epsilon can be stated; the run stops; report the schedule as a bug"
        )
    return by_pld


def epsilon_by_rdp(noise_multiplier: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The same epsilon by Renyi accounting: looser, and another method on the same description of a step."""
    return float(_rdp_accountant().compose(_event(noise_multiplier, sampling_rate, steps)).get_epsilon(delta))


def _event(noise_multiplier: float, sampling_rate: float, steps: int) -> Any:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    step = GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        step = PoissonSampledDpEvent(sampling_rate, step)
    return SelfComposedDpEvent(step, steps)


def _rdp_accountant() -> Any:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    # It logs every order it cannot evaluate; leaving one out only loosens the bound.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)


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
