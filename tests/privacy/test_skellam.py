"""The Skellam table: its law against independent ones, its tails, its ties, and sums of shares."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from scipy.special import ive

from lepton_fl.privacy.randomness import Randomness, Stream
from lepton_fl.privacy.skellam import MOST_DISTANCE, MOST_VARIANCE, Table, table

DRAWS = 200_000


class Words(Stream):
    """Gives these words, in this order."""

    def __init__(self, words: list[int]) -> None:
        self._left = words

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        given, self._left = self._left[:count], self._left[count:]
        return np.array(given, dtype=np.uint64)


def stream(purpose: str = "noise") -> Stream:
    return Randomness(0).stream(purpose)


def borders(made: Table) -> list[int]:
    return [(int(high) << 64) | int(low) for high, low in zip(made.high, made.low, strict=True)]


def chances(made: Table) -> npt.NDArray[np.float64]:
    """Of -radius..radius, from the table's whole numbers."""
    steps = [0, *borders(made), 1 << 128]
    return np.array([(upper - lower) / 2**128 for lower, upper in pairwise(steps)])


def p_value(seen: npt.NDArray[np.int64], law: npt.NDArray[np.float64], radius: int) -> float:
    """Pearson's test in some fifty bins of about equal chance."""
    below = np.cumsum(law)
    cuts = np.unique(np.searchsorted(below, np.linspace(0, 1, 52)[1:-1])) - radius
    bins = np.searchsorted(cuts, np.arange(-radius, radius + 1), side="left")
    expected = np.bincount(bins, weights=law) * len(seen)
    counted = np.bincount(np.searchsorted(cuts, seen, side="left"), minlength=len(expected))
    return float(stats.chisquare(counted, expected * counted.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("variance", [1, 5, 64, 900])
def test_the_table_is_the_difference_of_two_poisson_numbers(variance: int) -> None:
    made = table(variance)
    values = np.arange(-made.radius, made.radius + 1)
    exact = ive(np.abs(values), variance)
    likely = exact > 1e-30
    assert chances(made)[likely] == pytest.approx(exact[likely], rel=1e-9)
    poisson = stats.poisson(variance / 2).pmf(np.arange(variance + 40 * math.isqrt(variance) + 80))
    assert chances(made)[made.radius] == pytest.approx(float((poisson**2).sum()), rel=1e-9)


@pytest.mark.parametrize("variance", [1, 3, 4096**2, 8191**2])
def test_the_table_misses_the_law_by_less_than_is_charged(variance: int) -> None:
    made = table(variance)
    assert 0 < made.distance < MOST_DISTANCE
    assert (np.diff(made.high.astype(object)) >= 0).all()
    assert borders(made) == sorted(borders(made))
    # The tails that the table leaves out, by Chernoff's bound, which is a few times too large.
    out = made.radius + 1
    assert 2 * math.exp(math.hypot(out, variance) - variance - out * math.asinh(out / variance)) < 2.0**-107


@pytest.mark.parametrize("variance", [1, 2, 100, 4096**2])
def test_draws_have_the_law_by_chi_square(variance: int) -> None:
    made = table(variance)
    seen = made.sample(DRAWS, stream())
    assert p_value(seen, chances(made), made.radius) > 1e-4
    assert seen.var() == pytest.approx(variance, rel=6 * math.sqrt((2 + 1 / variance) / DRAWS))
    assert abs(seen.mean()) < 6 * math.sqrt(variance / DRAWS)


def test_the_chi_square_tells_a_variance_two_percent_off() -> None:
    right, wrong = table(100), table(102)
    assert p_value(wrong.sample(DRAWS, stream()), chances(right), right.radius) < 1e-4


@pytest.mark.parametrize("shares", [2, 7])
def test_shares_add_up_to_the_law_of_one_curator(shares: int) -> None:
    whole, one = table(shares * 50), table(50)
    added = sum(one.sample(DRAWS, stream(f"share {number}")) for number in range(shares))
    assert p_value(np.asarray(added), chances(whole), whole.radius) > 1e-4


def test_the_same_seed_gives_the_same_noise_and_another_gives_another() -> None:
    made = table(4096**2)
    assert (made.sample(1000, stream()) == made.sample(1000, stream())).all()
    assert (made.sample(1000, stream()) != made.sample(1000, stream("other"))).any()


def test_each_draw_counts_the_borders_at_or_below_its_word() -> None:
    made = table(9)
    words = stream().words(5000)
    by_hand = [sum(border <= (int(word) << 64) for border in borders(made)) - made.radius for word in words]
    assert made.sample(5000, Words(words.tolist())).tolist() == by_hand


def test_a_word_upon_a_border_is_settled_by_a_second_one() -> None:
    made = table(9)
    middle = made.radius
    high, low = int(made.high[middle]), int(made.low[middle])
    assert made.sample(1, Words([high, low - 1])).tolist() == [0]
    assert made.sample(1, Words([high, low])).tolist() == [1]
    assert made.sample(1, Words([high + 1])).tolist() == [1]
    assert made.sample(1, Words([high - 1])).tolist() == [0]


def test_the_far_tail_is_reached_by_the_second_word() -> None:
    """Beyond 2^-64 a single word would give one value alone."""
    made = table(9)
    in_first_word = int((made.high == 0).sum())
    assert in_first_word > 3
    seen = {int(made.sample(1, Words([0, low]))[0]) for low in (0, *(int(low) for low in made.low[:in_first_word]))}
    assert seen == set(range(-made.radius, -made.radius + in_first_word + 1))
    last = (1 << 64) - 1
    assert made.sample(1, Words([last, last])).tolist() == [made.radius]


@pytest.mark.parametrize("variance", [0, -1, MOST_VARIANCE + 1])
def test_a_variance_without_a_table_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variances from 1"):
        table(variance)
