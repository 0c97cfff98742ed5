"""The one-run bound, against enumeration, published figures and mechanisms whose epsilon is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from lepton_fl.privacy.audit import (
    LARGEST_BOUND,
    Guesses,
    binomial_tail,
    bound_from_scores,
    chance,
    guesses_from,
    lower_bound,
)


@pytest.mark.parametrize(("trials", "rate"), [(1, 0.5), (20, 0.73), (1024, 0.5), (1024, 0.999), (3, 1.0)])
def test_the_binomial_tail_is_scipys(trials: int, rate: float) -> None:
    expected = stats.binom.sf(np.arange(trials + 1) - 1, trials, rate)
    assert np.allclose(binomial_tail(trials, rate), expected, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_without_delta_the_chance_is_that_of_randomised_response_enumerated(epsilon: float) -> None:
    """Randomised response tells each of 4 coins truly with chance e^epsilon / (1 + e^epsilon), the worst case."""
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    for right in range(5):
        enumerated = sum(
            math.prod(truth if is_right else 1 - truth for is_right in answers)
            for answers in itertools.product([True, False], repeat=4)
            if sum(answers) >= right
        )
        assert chance(Guesses(4, 4, right), epsilon, 0.0) == pytest.approx(enumerated)


def test_delta_buys_right_guesses_and_so_lowers_the_bound() -> None:
    guesses = Guesses(100, 20, 19)
    assert chance(guesses, 1.0, 1e-3) > chance(guesses, 1.0, 0.0)
    assert lower_bound(guesses, 1e-3, 0.05) < lower_bound(guesses, 0.0, 0.05)


def test_the_bound_is_where_the_chance_meets_the_level() -> None:
    guesses = Guesses(50, 20, 18)
    bound = lower_bound(guesses, 0.0, 0.05)
    assert chance(guesses, bound, 0.0) == pytest.approx(0.05, abs=1e-4)
    # Clopper and Pearson 1934: the same bound on a coin's chance, by another route.
    rate = stats.beta.ppf(0.05, 18, 3)
    assert bound == pytest.approx(math.log(rate / (1 - rate)), abs=1e-3)


@pytest.mark.parametrize("right", [0, 10, 12])
def test_guesses_that_luck_explains_bound_nothing(right: int) -> None:
    assert lower_bound(Guesses(20, 20, right), 1e-5, 0.05) == 0.0


def test_so_many_right_guesses_that_no_epsilon_is_refuted_further_stop_at_the_largest_bound() -> None:
    assert lower_bound(Guesses(10**4, 10**4, 10**4), 0.0, 1e-9) < LARGEST_BOUND
    assert lower_bound(Guesses(4, 4, 4), 0.0, 1.1) == LARGEST_BOUND


def test_the_number_of_guesses_is_fixed_before_the_scores_are_seen() -> None:
    was_in = np.array([True, False] * 50)
    made = [guesses.made for guesses in guesses_from(was_in, np.arange(100.0))]
    assert made == [2, 4, 10, 20, 50, 100]


def test_the_highest_scores_are_guessed_in_and_the_lowest_out() -> None:
    was_in = np.array([True, True, False, False])
    assert [guesses.right for guesses in guesses_from(was_in, np.array([4.0, 3.0, 2.0, 1.0]))] == [2, 4]
    assert [guesses.right for guesses in guesses_from(was_in, np.array([1.0, 2.0, 3.0, 4.0]))] == [0, 0]


def gaussian_delta(stddev: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8, at sensitivity 1."""
    inside, outside = 0.5 / stddev - epsilon * stddev, -0.5 / stddev - epsilon * stddev
    return float(stats.norm.cdf(inside) - math.exp(epsilon) * stats.norm.cdf(outside))


@pytest.mark.parametrize(("epsilon", "sound", "halved"), [(1.0, 0.43, 1.12), (3.0, 1.53, 3.09), (8.0, 3.47, 5.66)])
def test_a_gaussian_release_of_many_canaries_gives_the_published_bounds(
    epsilon: float, sound: float, halved: float
) -> None:
    """10,000 canaries, delta 1e-5, level 0.05: medians of 20 releases from a separate implementation."""
    noise_multiplier = optimize.brentq(lambda stddev: gaussian_delta(stddev, epsilon) - 1e-5, 0.1, 30)
    found: dict[float, list[float]] = {1.0: [], 0.5: []}
    for seed in range(7):
        draw = np.random.default_rng(seed)
        was_in = draw.random(10_000) < 0.5
        for factor, bounds in found.items():
            scores = was_in + factor * noise_multiplier * draw.standard_normal(10_000)
            bounds.append(bound_from_scores(was_in, scores, 1e-5, 0.05))
    assert np.median(found[1.0]) == pytest.approx(sound, abs=0.3)
    assert np.median(found[0.5]) == pytest.approx(halved, abs=0.6)


def test_the_bound_is_above_the_truth_no_more_often_than_the_level_says() -> None:
    """Randomised response with epsilon 1: at level 0.2, at most a fifth of 200 bounds may be too high."""
    truth = math.exp(1) / (1 + math.exp(1))
    draw, too_high = np.random.default_rng(0), 0
    for _ in range(200):
        was_in = draw.random(60) < 0.5
        told = np.where(draw.random(60) < truth, was_in, ~was_in)
        too_high += bound_from_scores(was_in, told + 0.0, 0.0, 0.2) > 1.0
    assert too_high <= 60
