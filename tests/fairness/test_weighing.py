"""Weights of groups from counts: equal to the hand calculation where nothing is noisy, careful where it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lepton_fl.fairness.settings import TARGETS
from lepton_fl.fairness.weighing import bounded, gaps, limit, reweighing

# Of 100 women 20 are positive, of 100 men 60.
COUNTS = np.array([[80.0, 20.0], [40.0, 60.0]])
# The same by decision: 10 of the 20 positive women are found, and 48 of the 60 positive men.
DECIDED = np.array([[[76.0, 4.0], [10.0, 10.0]], [[30.0, 10.0], [12.0, 48.0]]])


def test_reweighing_equals_the_hand_calculation() -> None:
    # N_a N_y / (N N_ay): women 100 * 120 / (200 * 80) and 100 * 80 / (200 * 20); men 100 * 120 / (200 * 40), ...
    expected = np.array([[0.75, 2.0], [1.5, 2 / 3]])
    assert np.allclose(reweighing(COUNTS, 0.0, most=5.0), expected, rtol=1e-9)


def test_after_reweighing_group_and_label_are_independent() -> None:
    weighed = COUNTS * reweighing(COUNTS, 0.0, most=5.0)
    rates = weighed[:, 1] / weighed.sum(axis=1)
    assert rates[0] == pytest.approx(rates[1])
    assert weighed.sum() == pytest.approx(COUNTS.sum())


def test_a_group_lost_in_the_noise_keeps_the_weight_of_everybody() -> None:
    counts = np.array([[800.0, 200.0], [400.0, 600.0], [90.0, 3.0]])
    weights = reweighing(counts, variance=400.0, most=5.0)
    # 5 standard deviations are 100: neither 90 nor 3 says anything.
    assert limit(400.0, 1) == 100.0
    assert weights[2] == pytest.approx([1.0, 1.0], abs=0.02)
    assert weights[0, 1] > 1.5


def test_no_count_at_all_gives_no_weights() -> None:
    assert np.array_equal(reweighing(np.zeros((3, 2)), 9.0, most=3.0), np.ones((3, 2)))


def test_below_twenty_people_nobody_is_looked_at_even_without_noise() -> None:
    assert limit(0.0, 4) == 20.0
    few = np.array([[19.0, 19.0], [19.0, 19.0]])
    assert np.array_equal(reweighing(few, 0.0, most=3.0), np.ones((2, 2)))


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (3, 2), elements=st.floats(-1e6, 1e6)),
    arrays(np.float64, (3, 2), elements=st.floats(1e-3, 1e3)),
    st.floats(1.0, 5.0),
)
def test_whatever_the_counts_a_weight_stays_within_its_bounds(
    counts: np.ndarray, weights: np.ndarray, most: float
) -> None:
    for made in (bounded(weights, counts, most), reweighing(counts, 4.0, most)):
        assert np.isfinite(made).all()
        assert made.min() >= max(0.2, 1 / most) - 1e-12
        assert made.max() <= most + 1e-12


def test_a_group_that_is_found_less_often_is_behind_in_recall_and_its_negatives_are_let_be() -> None:
    behind = gaps(DECIDED, COUNTS, (0.0, 0.0), "recall")
    # Together 58 of 80 are found; women 0.5, men 0.8. Shrunk by the sampling error, so smaller than 0.225 and -0.075.
    assert 0.15 < behind[0, 1] < 0.225
    assert -0.075 < behind[1, 1] < 0
    assert (behind[:, 0] == 0).all()


def test_a_group_chosen_less_often_is_behind_in_selection() -> None:
    behind = gaps(DECIDED, COUNTS, (0.0, 0.0), "selection")
    # 14 of 100 women are chosen, 58 of 100 men.
    assert behind[0, 1] == -behind[0, 0] > 0.2
    assert behind[1, 1] == -behind[1, 0] < -0.2


def test_a_group_that_is_judged_right_more_often_is_ahead_in_accuracy() -> None:
    table = np.array([[[80.0, 0.0], [0.0, 20.0]], [[30.0, 10.0], [20.0, 40.0]]])
    behind = gaps(table, COUNTS, (0.0, 0.0), "accuracy")
    assert (behind[0] < 0).all()
    assert (behind[1] > 0).all()


def test_worst_lifts_the_worst_group_and_pushes_nobody_down() -> None:
    table = np.array([[[80.0, 0.0], [0.0, 20.0]], [[30.0, 10.0], [20.0, 40.0]]])
    behind = gaps(table, COUNTS, (0.0, 0.0), "worst")
    assert (behind[0] == 0).all()
    assert (behind[1] > 0).all()


@pytest.mark.parametrize("target", TARGETS)
def test_equal_groups_are_not_moved(target: str) -> None:
    same = np.stack([DECIDED[0], DECIDED[0]])
    assert np.allclose(gaps(same, same.sum(axis=2), (4.0, 4.0), target), 0.0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_suppressed_group_is_not_moved(target: str) -> None:
    few = np.array([[[8.0, 1.0], [3.0, 1.0]], [[300.0, 100.0], [120.0, 480.0]]])
    assert not gaps(few, few.sum(axis=2), (4.0, 4.0), target).any()


def test_the_noisier_the_counts_the_less_a_gap_moves_a_weight() -> None:
    moved = [gaps(DECIDED, COUNTS, (variance, 0.0), "recall")[0, 1] for variance in (0.0, 4.0, 16.0)]
    assert moved[0] > moved[1] > moved[2] > 0


def test_with_three_labels_recall_is_of_each_of_them() -> None:
    table = np.zeros((2, 3, 3))
    table[0], table[1] = np.eye(3) * 100, np.eye(3) * 100
    table[0, 2] = [40.0, 0.0, 60.0]
    behind = gaps(table, table.sum(axis=2), (0.0, 0.0), "recall")
    assert behind[0, 2] > 0 > behind[1, 2]
    assert not behind[:, :2].any()
