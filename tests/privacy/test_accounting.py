"""Epsilon, against published figures and independent accountants."""

from __future__ import annotations

import itertools
import math

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy import optimize, stats

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.privacy.accounting import Schedule, Segment, calibrate, epsilon_by_renyi, epsilon_spent

DELTA = 1e-5


def analytic_gaussian(noise_multiplier: float, steps: int, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, for `steps` full-batch Gaussian mechanisms."""
    mu = math.sqrt(steps) / noise_multiplier

    def excess(epsilon: float) -> float:
        return (
            stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu) - delta
        )

    return float(optimize.brentq(excess, 0, 100))


@pytest.mark.parametrize(("noise_multiplier", "steps"), [(17.45, 30), (4.0, 1), (2.0, 10)])
def test_full_batch_epsilon_equals_the_closed_form(noise_multiplier: float, steps: int) -> None:
    exact = analytic_gaussian(noise_multiplier, steps, 1e-4)
    spent = epsilon_spent(noise_multiplier, 1e-4, 1.0, steps)
    assert exact <= spent <= exact * 1.005


@pytest.mark.parametrize(
    ("records", "batch", "epochs", "rdp", "pld"),
    [(5000, 64, 100, 7.78, 7.18), (5000, 256, 100, 18.09, 16.73), (60000, 512, 60, 4.61, 4.23)],
)
def test_sampled_epsilon_equals_known_figures(records: int, batch: int, epochs: int, rdp: float, pld: float) -> None:
    rate, steps = batch / records, epochs * records // batch
    assert epsilon_spent(1.0, DELTA, rate, steps) == pytest.approx(pld, abs=0.02)
    assert epsilon_by_renyi((Segment(1.0, rate, steps),), DELTA) == pytest.approx(
        rdp, abs=0.1
    )  # the orders searched differ


@pytest.mark.parametrize(("noise_multiplier", "rate", "steps"), [(1.0, 0.0128, 780), (2.0, 0.1, 300)])
def test_two_accountants_of_opacus_agree(noise_multiplier: float, rate: float, steps: int) -> None:
    spent = epsilon_spent(noise_multiplier, DELTA, rate, steps)
    prv, rdp = PRVAccountant(), RDPAccountant()
    prv.history = rdp.history = [(noise_multiplier, rate, steps)]
    assert spent == pytest.approx(prv.get_epsilon(DELTA), rel=0.02)
    assert spent <= rdp.get_epsilon(DELTA)


def test_epsilon_grows_from_round_to_round_and_never_starts_afresh() -> None:
    noise_multiplier = calibrate(1.0, 1e-4, Schedule(0.25, 20))
    spent = [epsilon_spent(noise_multiplier, 1e-4, 0.25, 2 * rounds) for rounds in range(11)]
    assert spent[0] == 0
    assert all(after > before for before, after in itertools.pairwise(spent))
    assert 0.99 < spent[-1] <= 1.0


def test_an_accountant_made_anew_each_round_would_report_one_round_for_ever() -> None:
    """The naive way, shown to fail: this is what the function above replaces."""
    naive = []
    for _ in range(3):
        accountant = PRVAccountant()
        accountant.history = [(1.0, 0.0128, 78)]
        naive.append(accountant.get_epsilon(DELTA))
    assert naive[0] == naive[1] == naive[2]
    assert epsilon_spent(1.0, DELTA, 0.0128, 3 * 78) > naive[0] * 1.1


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(0.3, 1.0, 10), (1.0, 0.2, 100), (8.0, 0.01, 1000)])
def test_calibrated_noise_keeps_the_budget_and_wastes_little_of_it(epsilon: float, rate: float, steps: int) -> None:
    noise_multiplier = calibrate(epsilon, DELTA, Schedule(rate, steps))
    assert epsilon_spent(noise_multiplier, DELTA, rate, steps) <= epsilon
    assert epsilon_spent(noise_multiplier - 0.005, DELTA, rate, steps) > epsilon


def test_one_step_more_than_planned_would_break_the_budget() -> None:
    noise_multiplier = calibrate(1.0, 1e-4, Schedule(1.0, 30))
    assert epsilon_spent(noise_multiplier, 1e-4, 1.0, 31) > 1.0


def test_a_rate_accounted_too_low_would_understate_epsilon() -> None:
    """1 / len(loader) for 1,000 records in batches of 64 is 0.0625, not the 0.064 that is drawn."""
    assert epsilon_spent(1.0, DELTA, 0.064, 500) > epsilon_spent(1.0, DELTA, 1 / 16, 500)


def test_a_budget_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(BudgetSpent, match="nothing was released"):
        calibrate(1e-7, 1e-12, Schedule(1.0, 10_000_000))


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 1), (1.1, 1), (-0.1, 1), (0.5, 0)])
def test_a_schedule_out_of_range_is_refused(rate: float, steps: int) -> None:
    with pytest.raises(ConfigError):
        Schedule(rate, steps)
