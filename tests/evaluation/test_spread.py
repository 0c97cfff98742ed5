"""How far institutions are apart: the plain figures of exact counts, and intervals that noise does not fool."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_fl.evaluation.figures import SHOWN, SUPPRESSED, Figure
from lepton_fl.evaluation.histogram import Histogram, Layout
from lepton_fl.evaluation.spread import DEVIATION, JAIN, MEAN, WORST, spread
from lepton_fl.tasks.groups import Groups

LAYOUT = Layout(Groups(()), 2, 2)


def institution(people: int, accuracy: float, variance: float = 0.0, seed: int | None = None) -> Histogram:
    right = round(people * accuracy)
    table = np.array([[[right // 2, 0], [people - right, right - right // 2]]])
    if seed is not None:
        rng = np.random.default_rng(seed)
        table = rng.multinomial(people, table.ravel() / people).reshape(table.shape)
        table = table + rng.poisson(variance / 2, table.shape) - rng.poisson(variance / 2, table.shape)
    return Histogram(LAYOUT, table, variance)


def by_name(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {one.metric: one for one in figures}


def test_without_noise_they_are_the_plain_figures() -> None:
    accuracies = np.array([0.7, 0.8, 0.9])
    found = by_name(spread([institution(100, one) for one in accuracies.tolist()], "accuracy", 0.95))
    assert {one.status for one in found.values()} == {SHOWN}
    assert found[MEAN].value == pytest.approx(0.8)
    assert found[DEVIATION].value == pytest.approx(accuracies.std())
    assert found[JAIN].value == pytest.approx(accuracies.sum() ** 2 / (3 * (accuracies**2).sum()))
    assert found[WORST].value == pytest.approx(0.7)


def test_an_institution_that_is_too_small_is_left_out_and_said_to_be() -> None:
    found = by_name(spread([institution(100, 0.7), institution(100, 0.9), institution(19, 0.1)], "accuracy", 0.95))
    assert found[WORST].value == pytest.approx(0.7)
    assert found[WORST].why == "without 1 of 3: too few subjects by the noisy count"


@pytest.mark.parametrize("sizes", [[100, 19], [100], []])
def test_fewer_than_two_have_no_spread(sizes: list[int]) -> None:
    found = spread([institution(size, 0.7) for size in sizes], "accuracy", 0.95)
    assert {one.status for one in found} == {SUPPRESSED}
    assert all(one.why for one in found)


def test_noise_alone_is_not_taken_for_a_difference_between_institutions() -> None:
    found = [
        by_name(spread([institution(150, 0.8, 100.0, seed=4 * run + k) for k in range(4)], "accuracy", 0.95))
        for run in range(40)
    ]
    assert np.mean([one[DEVIATION].low == 0 for one in found]) >= 0.9
    assert np.mean([one[DEVIATION].value for one in found]) < 0.05
    assert np.mean([one[JAIN].high == 1 for one in found]) >= 0.9


@pytest.mark.parametrize("accuracies", [(0.6, 0.7, 0.8, 0.9), (0.7, 0.85, 0.85, 0.85, 0.85)])
def test_the_deviations_interval_holds_the_truth(accuracies: tuple[float, ...]) -> None:
    truth, held = float(np.std(accuracies)), []
    for run in range(120):
        seeds = range(10 * run, 10 * run + len(accuracies))
        own = [institution(300, one, 28.0, seed) for one, seed in zip(accuracies, seeds, strict=True)]
        one = by_name(spread(own, "accuracy", 0.95))[DEVIATION]
        held.append(one.low <= truth <= one.high)
    # Of 120 a share of 0.95 deviates by 0.02.
    assert np.mean(held) == pytest.approx(0.95, abs=4 * 0.02)
