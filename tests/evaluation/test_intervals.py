"""Estimates from noisy counts are the plain ones, and their intervals hold the truth 95 times in a hundred."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm
from sklearn.metrics import f1_score

from lepton_fl.evaluation.calibration import calibration_error
from lepton_fl.evaluation.intervals import (
    Count,
    Interval,
    area,
    average,
    deviations,
    difference,
    f1,
    largest,
    least,
    macro_f1,
    mean,
    ratio,
    share,
    smallest,
)

DRAWS = 20_000
Z = deviations(0.025)
Numbers = npt.NDArray[np.float64]


def number(value: float) -> Numbers:
    return np.asarray(value, dtype=np.float64)


def held(found: Interval, truth: float) -> float:
    return float(((found.low <= truth) & (truth <= found.high)).mean())


class Draw:
    """Noisy counts of so many people, again and again."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def noise(self, variance: float, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        return self.rng.poisson(variance / 2, shape) - self.rng.poisson(variance / 2, shape)

    def parts(self, people: int, rate: float, variance: float) -> tuple[Count, Count]:
        inside = self.rng.binomial(people, rate, DRAWS)
        one, other = inside + self.noise(variance, (DRAWS,)), people - inside + self.noise(variance, (DRAWS,))
        return Count(one.astype(np.float64), variance), Count(other.astype(np.float64), variance)

    def share(self, people: int, rate: float, variance: float) -> Interval:
        return share(*self.parts(people, rate, variance), Z)


def test_standard_deviations_are_those_of_the_normal_law() -> None:
    assert deviations(0.025) == pytest.approx(norm.isf(0.025), abs=1e-12)


@pytest.mark.parametrize(("variance", "expected"), [(0, 20), (4 * 4, 20), (28 * 4, 5 * math.sqrt(112))])
def test_a_count_is_shown_from_twenty_or_five_deviations_of_its_noise(variance: float, expected: float) -> None:
    assert least(variance) == pytest.approx(expected)


def test_without_noise_a_share_has_wilsons_interval() -> None:
    # Newcombe 1998 ("Two-sided confidence intervals for the single proportion"), method 3: 15 of 148, and 0 of 20.
    found = share(Count(number(15), 0.0), Count(number(133), 0.0), Z)
    assert (float(found.low), float(found.high)) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    none = share(Count(number(0), 0.0), Count(number(20), 0.0), Z)
    assert (float(none.low), float(none.high)) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_in_the_middle_the_interval_is_the_usual_one_with_the_noise_added() -> None:
    inside, outside = Count(number(5000), 300.0), Count(number(5000), 700.0)
    found = share(inside, outside, Z)
    error = math.sqrt(0.25 / 10_000 + (300 * 0.25 + 700 * 0.25) / 10_000**2)
    assert float(found.high - found.low) / 2 == pytest.approx(Z * error, rel=1e-3)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.6, 0.98])
@pytest.mark.parametrize(("people", "variance"), [(60, 28), (150, 5), (150, 175), (400, 280), (5000, 28)])
def test_a_shares_interval_holds_the_truth_near_zero_and_one_too(rate: float, people: int, variance: float) -> None:
    # Of 20,000 a share of 0.95 deviates by 0.0015.
    assert held(Draw(0).share(people, rate, variance), rate) == pytest.approx(0.95, abs=0.013)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.6, 0.4), (0.9, 0.95), (0.2, 0.1)])
@pytest.mark.parametrize("variance", [5, 28])
def test_differences_ratios_and_means_of_shares_hold_the_truth(rates: tuple[float, float], variance: float) -> None:
    draw = Draw(1)
    one, other = (draw.share(people, rate, variance) for people, rate in zip((150, 400), rates, strict=True))
    assert held(difference(one, other), rates[0] - rates[1]) == pytest.approx(0.95, abs=0.015)
    assert held(ratio(one, other), rates[0] / rates[1]) == pytest.approx(0.95, abs=0.015)
    assert held(mean([one, other]), sum(rates) / 2) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("jaccard", [0.1, 0.5, 0.95])
def test_f1_holds_the_truth(jaccard: float) -> None:
    found = f1(*Draw(2).parts(200, jaccard, 28), Z)
    assert held(found, 2 * jaccard / (1 + jaccard)) == pytest.approx(0.95, abs=0.013)


def scores(bins: int, separation: float) -> Numbers:
    logit = np.log((np.arange(bins) + 0.5) / (bins - 0.5 - np.arange(bins)))
    law = np.exp(-((logit - separation) ** 2) / 3)
    return np.asarray(law / law.sum(), dtype=np.float64)


@pytest.mark.parametrize("separation", [0.0, 0.7, 1.5])
@pytest.mark.parametrize(("people", "variance"), [(120, 0), (160, 10), (400, 28), (2000, 28)])
def test_the_area_under_the_curve_holds_the_truth(separation: float, people: int, variance: float) -> None:
    draw, laws = Draw(3), (scores(20, -separation), scores(20, separation))
    tables = [draw.rng.multinomial(people, law, 4000) + draw.noise(variance, (4000, 20)) for law in laws]
    found = area(*(table.astype(np.float64) for table in tables), variance, Z)
    truth = float((laws[1] * (np.cumsum(laws[0]) - laws[0] / 2)).sum())
    # Of 4,000 a share of 0.95 deviates by 0.0034.
    assert held(found, truth) == pytest.approx(0.95, abs=0.022)


@pytest.mark.parametrize(("people", "variance"), [(150, 0), (300, 28), (3000, 28)])
def test_an_average_holds_the_truth(people: int, variance: float) -> None:
    draw, law, weights = Draw(4), scores(20, 0.5), np.linspace(0.1, 3.0, 20)
    counts = draw.rng.multinomial(people, law, 4000) + draw.noise(variance, (4000, 20))
    assert held(average(counts.astype(np.float64), weights, variance, Z), float(law @ weights)) == pytest.approx(
        0.95, abs=0.015
    )


def test_f1_over_classes_holds_the_truth() -> None:
    law = np.array([[0.3, 0.05, 0.02], [0.06, 0.2, 0.04], [0.03, 0.1, 0.2]])
    rows, columns = np.indices(law.shape)
    truth = f1_score(rows.ravel(), columns.ravel(), sample_weight=law.ravel(), average="macro")
    draw = Draw(5)
    tables = draw.rng.multinomial(500, law.ravel(), 2000).reshape(-1, 3, 3) + draw.noise(14, (2000, 3, 3))
    found = [macro_f1(table.astype(np.float64), 14, Z) for table in tables]
    assert np.mean([one.low <= truth <= one.high for one in found]) == pytest.approx(0.95, abs=0.02)


def whole(one: Interval) -> Callable[[float], Interval]:
    return lambda z: Interval(one.value, one.value - z * one.low, one.value + z * one.high)


def test_the_largest_has_its_own_upper_bound_and_a_lower_one_that_allows_for_the_others() -> None:
    one, other = (whole(Interval(number(value), number(0.1), number(0.1))) for value in (0.5, 0.7))
    found = largest([one, other], 0.025, 2)
    assert float(found.value) == 0.7
    assert float(found.high) == pytest.approx(0.7 + 0.1 * norm.isf(0.025))
    assert float(found.low) == pytest.approx(0.7 - 0.1 * norm.isf(0.0125))
    least_of_both = smallest([one, other], 0.025, 2)
    assert float(least_of_both.value) == 0.5
    assert float(least_of_both.low) == pytest.approx(0.5 - 0.1 * norm.isf(0.025))
    assert float(least_of_both.high) == pytest.approx(0.5 + 0.1 * norm.isf(0.0125))


@pytest.mark.parametrize("rates", [(0.6, 0.6, 0.6), (0.6, 0.75, 0.9)])
def test_the_worst_of_several_groups_is_held_at_least_as_often_as_promised(rates: tuple[float, ...]) -> None:
    draw = Draw(6)
    counts = [draw.parts(200, rate, 28) for rate in rates]
    estimators = [lambda z, one=one: share(*one, z) for one in counts]
    assert 0.945 <= held(smallest(estimators, 0.025, len(rates)), 0.6) <= 0.985


def test_a_table_that_is_calibrated_but_for_noise_is_not_called_uncalibrated() -> None:
    middle = (np.arange(20) + 0.5) / 20
    counts = np.stack([100 * (1 - middle), 100 * middle])
    assert float(calibration_error(counts, 0.0, 0.025).value) == pytest.approx(0.0, abs=1e-12)
    noisy = counts + Draw(7).noise(100, counts.shape)
    plain = np.abs(noisy[1] - middle * noisy.sum(axis=0)).sum() / noisy.sum()
    found = calibration_error(noisy, 100.0, 0.025)
    assert float(found.low) == 0.0
    assert float(found.value) < plain / 2


def test_the_calibration_error_of_the_same_counts_is_always_the_same() -> None:
    counts = np.arange(40.0).reshape(2, 20) * 7
    one, other = (calibration_error(counts, 5.0, 0.025) for _ in range(2))
    assert (float(one.low), float(one.value), float(one.high)) == (
        float(other.low),
        float(other.value),
        float(other.high),
    )
