"""Epsilon over unlike runs, against published figures, an independent accountant and a direct convolution."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy import optimize, stats

from lepton_fl.privacy.accounting import Segment, epsilon_of_history, epsilon_spent, renyi
from lepton_fl.privacy.rdp_filter import Filter, fixed

DELTA = 1e-5
UNLIKE = (Segment(1.1, 0.0128, 2000), Segment(0.8, 0.0512, 400), Segment(2.0, 0.1, 300))


def loss_of_removing(segment: Segment, grid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Chance of each privacy loss on the grid, when the neighbour lacks one record; losses between are split.

    The loss at outcome x is log(1 - q + q exp((2 x - 1) / (2 s^2))), and x is drawn from the mixture.
    """
    noise, rate = segment.noise_multiplier, segment.sampling_rate
    outcome = np.linspace(-12 * noise, 1 + 12 * noise, 400_001)
    chance = (1 - rate) * stats.norm.pdf(outcome, 0, noise) + rate * stats.norm.pdf(outcome, 1, noise)
    chance *= outcome[1] - outcome[0]
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * outcome - 1) / (2 * noise**2))
    place = (loss - grid[0]) / (grid[1] - grid[0])
    low = np.clip(np.floor(place).astype(int), 0, len(grid) - 2)
    share = np.clip(place - low, 0, 1)
    found = np.bincount(low, chance * (1 - share), len(grid)) + np.bincount(low + 1, chance * share, len(grid))
    return np.asarray(found, dtype=np.float64)


def by_convolution(history: tuple[Segment, ...], delta: float) -> float:
    """Epsilon by the plain FFT of each segment's losses, exact up to the grid."""
    grid = np.arange(-(2**18), 2**18) * 2e-4
    spectrum: npt.NDArray[np.complex128] = np.ones(len(grid) // 2 + 1, dtype=np.complex128)
    for segment in history:
        spectrum *= np.fft.rfft(np.fft.ifftshift(loss_of_removing(segment, grid))) ** segment.steps
    chance = np.fft.fftshift(np.fft.irfft(spectrum, len(grid)))

    def excess(epsilon: float) -> float:
        above = grid > epsilon
        return float(np.sum(chance[above] * -np.expm1(epsilon - grid[above]))) - delta

    return float(optimize.brentq(excess, 0, 50))


def test_three_unlike_runs_cost_the_known_figure_and_far_less_than_their_sum() -> None:
    together = epsilon_of_history(UNLIKE, DELTA)
    assert together == pytest.approx(12.59, abs=0.01)
    apart = sum(epsilon_of_history((part,), DELTA) for part in UNLIKE)
    assert apart == pytest.approx(sum(by_convolution((part,), DELTA) for part in UNLIKE), rel=0.001)
    assert together < 0.7 * apart


def test_three_unlike_runs_cost_what_an_independent_accountant_says() -> None:
    independent = PRVAccountant()
    independent.history = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in UNLIKE]
    assert epsilon_of_history(UNLIKE, DELTA) == pytest.approx(independent.get_epsilon(DELTA), rel=0.01)


def test_three_unlike_runs_cost_what_a_plain_convolution_says() -> None:
    assert epsilon_of_history(UNLIKE, DELTA) == pytest.approx(by_convolution(UNLIKE, DELTA), rel=0.01)


def test_the_best_order_of_all_gives_the_known_figure_for_the_three() -> None:
    best = min(
        Filter(1 + order / 10, DELTA).epsilon(Filter(1 + order / 10, DELTA).divergence(UNLIKE))
        for order in range(1, 99)
    )
    independent = RDPAccountant()
    independent.history = [(part.noise_multiplier, part.sampling_rate, part.steps) for part in UNLIKE]
    assert independent.get_epsilon(DELTA) == pytest.approx(13.87, abs=0.01)
    # Between whole orders ours interpolates, which is looser.
    assert 13.87 <= best <= 13.87 * 1.01


def test_a_history_of_one_is_that_run_and_parts_of_a_run_are_the_run() -> None:
    whole = epsilon_spent(1.1, DELTA, 0.0128, 2000)
    assert epsilon_of_history((Segment(1.1, 0.0128, 2000),), DELTA) == whole
    assert epsilon_of_history((Segment(1.1, 0.0128, 500), Segment(1.1, 0.0128, 1500)), DELTA) == pytest.approx(whole)
    assert epsilon_of_history((), DELTA) == epsilon_of_history((Segment(1.0, 0.1, 0),), DELTA) == 0


def test_the_order_in_which_runs_came_does_not_matter() -> None:
    assert epsilon_of_history(UNLIKE[::-1], DELTA) == pytest.approx(epsilon_of_history(UNLIKE, DELTA), rel=1e-9)


def test_a_history_with_a_tiny_sampling_rate_is_a_bound_and_fits_in_memory() -> None:
    mixed = (*UNLIKE[1:], Segment(1.0, 1e-6, 1000))
    before = epsilon_of_history(UNLIKE[1:], DELTA)
    # Its grid is finer than that of the others alone, which are then bounded a little tighter.
    assert before * 0.999 <= epsilon_of_history(mixed, DELTA) <= before * 1.01


def test_full_batches_diverge_as_the_closed_form_says() -> None:
    """Mironov 2017, table II: order / (2 s^2) for the Gaussian mechanism."""
    assert renyi(2.0, 1.0, 5.0) == pytest.approx(5 / 8)
    filter = Filter(5.0, DELTA)
    assert filter.divergence((Segment(2.0, 1.0, 3), Segment(1.0, 1.0, 1))) == pytest.approx(3 * 5 / 8 + 5 / 2)


def test_a_sampled_step_diverges_as_its_integral_says() -> None:
    """Mironov, Talwar and Zhang 2019, section 3.1: the order's moment of mixture over base."""
    noise, rate, order = 1.1, 0.05, 4.0
    x = np.linspace(-15, 15, 2_000_001)
    ratio = 1 - rate + rate * np.exp((2 * x - 1) / (2 * noise**2))
    moment = float(np.sum(stats.norm.pdf(x, 0, noise) * ratio**order) * (x[1] - x[0]))
    assert renyi(noise, rate, order) == pytest.approx(math.log(moment) / (order - 1), rel=1e-6)


def test_no_step_is_free_however_rarely_a_record_is_drawn() -> None:
    assert renyi(100.0, 1e-12, 2.0) > 0


def test_room_and_epsilon_are_each_others_inverse_and_nothing_costs_nothing() -> None:
    filter = Filter(6.0, DELTA)
    assert filter.epsilon(filter.room(4.0)) == pytest.approx(4.0)
    assert filter.epsilon(0.0) == 0
    # Canonne, Kamath and Steinke 2020, proposition 12, by hand: log(5/6) + (log(1e5) - log 6) / 5 is added.
    assert filter.epsilon(1.0) == pytest.approx(1 - 0.18232 + (11.51293 - 1.79176) / 5, abs=1e-4)


def test_the_fixed_order_allows_most_rounds_of_what_was_declared_first() -> None:
    chosen = fixed(1.1, 0.0128, 8.0, DELTA)
    rounds = {order: Filter(order, DELTA).room(8.0) / renyi(1.1, 0.0128, order) for order in (2.0, 3.0, 5.0, 16.0)}
    assert chosen.room(8.0) / renyi(1.1, 0.0128, chosen.order) >= max(rounds.values())
    assert 2 < chosen.order < 10


@settings(deadline=None, max_examples=12)
@given(st.floats(0.6, 8.0), st.floats(0.001, 1.0), st.integers(1, 200))
def test_the_filter_never_says_less_than_the_exact_epsilon(noise: float, rate: float, steps: int) -> None:
    history = (Segment(noise, rate, steps), Segment(4.0, 0.1, 20))
    filter = fixed(noise, rate, 4.0, DELTA)
    # The exact one, from below: PLD is an upper bound to within a percent.
    assert filter.epsilon(filter.divergence(history)) >= 0.99 * epsilon_of_history(history, DELTA) - 0.01
