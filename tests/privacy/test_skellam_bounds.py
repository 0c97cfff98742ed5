"""Accounting of Skellam noise: each bound against exact numbers in one dimension, and mixed histories."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import comb, ive, logsumexp

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.accounting import (
    MOST_SKELLAM_EPSILON,
    MOST_SKELLAM_PARAMETERS,
    MOST_SKELLAM_SHARES,
    SKELLAM,
    STEP_FAILURE,
    Schedule,
    Segment,
    calibrate,
    calibrate_skellam,
    epsilon_by_renyi,
    epsilon_of_history,
    renyi,
    renyi_orders,
)
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.rdp_filter import Filter, fixed
from lepton_fl.privacy.skellam import MOST_DISTANCE
from lepton_fl.privacy.skellam_bounds import ROUNDING_FAILURE, divergence, multiplier, rounded_norm, variance_for

CASES = [(4.0, 1), (30.0, 2), (100.0, 10), (1000.0, 100), (1e5, 100)]  # variance, shift


def logs(variance: float, shift: int, reach: int) -> npt.NDArray[np.float64]:
    """log P[X + shift = k] for k = -reach..reach, by the ratios I_(k+1) / I_k, which neither under- nor overflow."""
    far = reach + shift + 50
    ratios = np.empty(far)
    last = 0.0
    for k in range(far, 0, -1):
        last = 1 / (2 * k / variance + last)
        ratios[k - 1] = last
    half = math.log(ive(0, variance)) + np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    known: npt.NDArray[np.float64] = half[np.abs(np.arange(-reach, reach + 1) - shift)]
    return known


def diverge(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64], order: float) -> float:
    return float(logsumexp(order * p + (1 - order) * q)) / (order - 1)


def both(variance: float, shift: int, rate: float, order: float) -> tuple[float, float]:
    """Exact divergences of one sampled step in one dimension: with the record from without, and the other way."""
    reach = math.ceil(order * shift + 40 * math.sqrt(variance)) + 40
    without, shifted = logs(variance, 0, reach), logs(variance, shift, reach)
    mixed = np.logaddexp(math.log1p(-rate) + without, math.log(rate) + shifted) if rate < 1 else shifted
    return diverge(mixed, without, order), diverge(without, mixed, order)


@pytest.mark.parametrize(("variance", "shift"), CASES)
@pytest.mark.parametrize("order", [2, 3, 8, 20])
def test_the_divergence_of_a_shift_is_bounded_and_nearly_met(variance: float, shift: int, order: int) -> None:
    exact = both(variance, shift, 1.0, order)[0]
    bound = divergence(variance, float(shift), order)
    assert exact <= bound
    assert bound <= renyi(multiplier(variance, shift), 1.0, float(order)) * (1 + 1e-12)
    if variance == 1e5:
        assert bound <= 1.01 * exact


def test_the_divergence_of_a_long_vector_is_bounded_by_its_two_norm() -> None:
    """Shifts of independent coordinates add up; what is bounded is their sum, by the L2 norm alone."""
    shift, variance = [3, -1, 0, 1, 1], 50.0
    norm = math.sqrt(sum(each**2 for each in shift))
    for order in (2, 5, 12):
        exact = sum(both(variance, abs(each), 1.0, order)[0] for each in shift if each)
        assert exact <= renyi(multiplier(variance, norm), 1.0, order)


@pytest.mark.parametrize(("variance", "shift"), CASES)
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("order", [2, 3, 7, 16])
def test_sampling_is_bounded_by_the_gaussians_formula_in_both_directions(
    variance: float, shift: int, rate: float, order: int
) -> None:
    added, removed = both(variance, shift, rate, order)
    bound = renyi(multiplier(variance, shift), rate, float(order), SKELLAM)
    assert removed <= added * (1 + 1e-9)
    assert added <= bound * (1 + 1e-9)
    if variance == 1e5:
        assert bound <= 1.05 * added


@pytest.mark.parametrize("order", [1.25, 1.5, 2.5, 6.75])
def test_between_whole_orders_the_divergence_is_bounded_too(order: float) -> None:
    for (variance, shift), rate in itertools.product(CASES, (0.05, 0.5, 1.0)):
        bound = renyi(multiplier(variance, shift), rate, order, SKELLAM)
        assert max(both(variance, shift, rate, order)) <= bound * (1 + 1e-9)


def general_bound(noise_multiplier: float, rate: float, order: int) -> float:
    """For any mechanism with the Gaussian's divergences: Zhu and Wang 2019, theorem 5, with its factor 3."""

    def moment(power: int) -> float:
        return math.exp(power * (power - 1) / (2 * noise_multiplier**2))

    total = (1 - rate) ** (order - 1) * (order * rate - rate + 1)
    total += comb(order, 2) * rate**2 * (1 - rate) ** (order - 2) * moment(2)
    total += 3 * sum(
        comb(order, power) * (1 - rate) ** (order - power) * rate**power * moment(power)
        for power in range(3, order + 1)
    )
    return math.log(total) / (order - 1)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("order", [2, 4, 9])
def test_the_bound_lies_below_the_one_for_any_mechanism(rate: float, order: int) -> None:
    assert renyi(1.3, rate, float(order), SKELLAM) <= general_bound(1.3, rate, order) * (1 + 1e-12)


def test_an_unknown_law_diverges_without_bound() -> None:
    assert renyi(1.0, 0.1, 2.0, "laplace") == math.inf


@pytest.mark.parametrize(("norm", "parameters"), [(0.0, 4), (1.0, 1), (30.0, 1000), (500.0, 64)])
def test_a_rounded_vector_is_no_longer_than_the_bound(norm: float, parameters: int) -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        vector = draw.normal(size=parameters)
        vector *= norm / np.linalg.norm(vector)
        rounded = np.floor(vector + draw.random(parameters))
        assert np.linalg.norm(rounded) <= rounded_norm(norm, parameters)
    assert rounded_norm(norm, parameters) <= norm + math.sqrt(parameters) + 1e-9


def test_the_variance_for_a_multiplier_is_enough_and_hardly_more() -> None:
    for wanted, sensitivity in itertools.product((0.01, 1.0, 40.0), (1.0, 300.0, 1e4)):
        variance = variance_for(wanted, sensitivity)
        assert wanted * (1 - 1e-12) <= multiplier(variance, sensitivity)
        if variance > 1e4:
            assert multiplier(variance, sensitivity) <= wanted * (1 + 1e-3)


@pytest.mark.parametrize(("epsilon", "delta", "rate", "steps"), [(1.0, 1e-4, 1.0, 30), (3.0, 1e-5, 0.02, 500)])
def test_calibrated_noise_keeps_the_promise_and_a_percent_less_does_not(
    epsilon: float, delta: float, rate: float, steps: int
) -> None:
    noise = calibrate_skellam(epsilon, delta, Schedule(rate, steps))
    assert epsilon_of_history((Segment(noise, rate, steps, SKELLAM),), delta) <= epsilon
    assert epsilon_of_history((Segment(0.99 * noise, rate, steps, SKELLAM),), delta) > epsilon
    # Renyi divergences cost some percent of noise against PLD, never less than it.
    assert 1.0 <= noise / calibrate(epsilon, delta, Schedule(rate, steps)) < 1.13


def test_a_history_with_both_laws_adds_up_and_costs_more_than_either() -> None:
    quiet, shared = Segment(4.0, 0.1, 200), Segment(4.0, 0.1, 100, SKELLAM)
    both_ = epsilon_of_history((quiet, shared), 1e-5)
    assert both_ > max(epsilon_of_history((quiet,), 1e-5), epsilon_of_history((shared,), 1e-5))
    assert both_ == pytest.approx(epsilon_by_renyi((Segment(4.0, 0.1, 300),), 1e-5), rel=0.03)
    assert both_ >= epsilon_of_history((Segment(4.0, 0.1, 300),), 1e-5)


def test_what_steps_take_from_delta_is_counted() -> None:
    few, many = Segment(1e4, 1e-3, 1, SKELLAM), Segment(1e4, 1e-3, 1 << 40, SKELLAM)
    assert epsilon_of_history((few,), 1e-5) < math.inf
    assert STEP_FAILURE * many.steps > 1e-5
    assert epsilon_of_history((many,), 1e-5) == math.inf
    assert Filter(2.0, 1e-5).divergence((many,)) == math.inf


def test_what_a_step_takes_from_delta_covers_rounding_and_every_table() -> None:
    drawn = MOST_SKELLAM_PARAMETERS * MOST_SKELLAM_SHARES
    tables = (1 + math.exp(MOST_SKELLAM_EPSILON)) * MOST_DISTANCE * drawn
    assert ROUNDING_FAILURE + tables <= STEP_FAILURE


def test_no_epsilon_beyond_what_the_table_was_charged_for() -> None:
    assert epsilon_of_history((Segment(0.3, 1.0, 3, SKELLAM),), 1e-5) == math.inf
    with pytest.raises(BudgetSpent, match="no epsilon above 20"):
        calibrate_skellam(24.0, 1e-5, Schedule(0.1, 10))


def test_a_filter_of_any_order_takes_both_laws() -> None:
    history = (Segment(4.0, 0.1, 20), Segment(3.0, 0.1, 10, SKELLAM))
    for order in renyi_orders():
        apart = 20 * renyi(4.0, 0.1, order) + 10 * renyi(3.0, 0.1, order, SKELLAM)
        failures = 2 * 10 * STEP_FAILURE / 1e-5 / (order - 1)
        assert Filter(order, 1e-5).divergence(history) == pytest.approx(apart + failures, rel=1e-12)
    assert fixed(3.0, 0.1, 3.0, 1e-5, SKELLAM).order in renyi_orders()


def test_the_filter_charges_no_less_than_what_delta_loses() -> None:
    steps = 1 << 26
    step = Segment(1e4, 1e-6, steps, SKELLAM)
    filter, lost = Filter(8.0, 1e-5), STEP_FAILURE * steps
    assert lost / 1e-5 > 0.01
    bare = steps * renyi(1e4, 1e-6, 8.0, SKELLAM)
    assert filter.epsilon(filter.divergence((step,))) >= Filter(8.0, 1e-5 - lost).epsilon(bare)


def test_the_source_of_a_seeded_run_is_named_apart() -> None:
    """Rounding and noise never share a stream: equal words would tie the dither to the noise."""
    source = Randomness(0).within("elm", 1)
    assert (source.stream("rounding").words(8) != source.stream("noise").words(8)).all()
