"""The server's weights follow released histograms, and a checkpoint holds all that decides the next ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import Histogram, Layout
from lepton_fl.fairness.marginal import along, marginal, over_cells
from lepton_fl.fairness.settings import GlobalReweighing, GroupWeights, NoFairness
from lepton_fl.fairness.steering import Steering, steering_of
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples
from lepton_fl.training.weights import checked

SEX, AGE = Attribute("sex", ("female", "male")), Attribute("age", ("young", "old"))
GROUPS = Groups((SEX, AGE))  # 9 cells, `unknown` included
STEERS = {
    "group": GroupWeights(attribute="sex", most=3.0, target="recall", step=2.0),
    "selection": GroupWeights(attribute="sex", most=3.0, target="selection", step=2.0),
    "accuracy": GroupWeights(attribute="age", most=3.0, target="accuracy", step=2.0),
    "worst": GroupWeights(attribute=None, most=3.0, target="worst", step=2.0),
    "global_rw": GlobalReweighing(attribute="sex", most=3.0),
}


def histogram(seed: int = 0, bins: int = 2, variance: float = 9.0) -> Histogram:
    """Women are fewer, more seldom positive, and found more seldom."""
    table = np.random.default_rng(seed).poisson(40.0, (9, 2, bins))
    women = GROUPS.members("sex", "female")
    table[women, 1] //= 2
    table[women, 1, bins // 2 :] //= 2
    table[GROUPS.members("sex", "unknown")] = 0
    return Histogram(Layout(GROUPS, 2, bins), table.astype(np.int64), variance)


def steering(name: str) -> Steering:
    made = steering_of(STEERS[name], GROUPS, 2)
    assert made is not None
    return made


@pytest.mark.parametrize("name", STEERS)
def test_before_anything_was_released_there_are_no_weights(name: str) -> None:
    assert steering(name).weights() is None


@pytest.mark.parametrize("name", STEERS)
def test_weights_are_of_the_tasks_cells_and_within_bounds(name: str) -> None:
    one = steering(name)
    for round in range(1, 20):
        one.learned(round, histogram(round))
        weights = one.weights()
        assert weights is not None
        assert checked(weights).shape == (9, 2)
        assert weights.max() <= 3.0 + 1e-12


@pytest.mark.parametrize("name", STEERS)
def test_a_release_is_taken_in_once(name: str) -> None:
    once, twice = steering(name), steering(name)
    once.learned(5, histogram())
    twice.learned(5, histogram())
    twice.learned(5, histogram())
    assert np.array_equal(once.weights(), twice.weights())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STEERS)
def test_before_anything_was_released_nobody_is_weighed(name: str) -> None:
    assert steering(name).weights() is None


def test_a_finer_histogram_is_read_by_its_decisions() -> None:
    fine, coarse = steering("group"), steering("group")
    fine.learned(5, histogram(bins=20))
    coarse.learned(5, histogram(bins=20).coarser(2))
    assert np.array_equal(fine.weights(), coarse.weights())  # type: ignore[arg-type]


def test_women_who_are_found_less_often_weigh_more_and_more() -> None:
    one = steering("group")
    grown = []
    for round in (1, 2, 3):
        one.learned(round, histogram(variance=0.0))
        weights = one.weights()
        assert weights is not None
        woman, man = GROUPS.members("sex", "female")[0], GROUPS.members("sex", "male")[0]
        grown.append(float(weights[woman, 1] / weights[man, 1]))
    assert 1 < grown[0] < grown[1] < grown[2]


def test_a_histogram_of_the_steered_attribute_alone_does_as_well() -> None:
    whole, alone = steering("group"), steering("group")
    crossed = histogram(variance=0.0)
    table = marginal(crossed, SEX).table.astype(np.int64)
    whole.learned(5, crossed)
    alone.learned(5, Histogram(Layout(Groups((SEX,)), 2, 2), table, 0.0))
    assert np.array_equal(whole.weights(), alone.weights())  # type: ignore[arg-type]


def test_a_sum_over_cells_has_the_noise_of_all_of_them() -> None:
    assert marginal(histogram(variance=9.0), SEX).variance == 27.0


def test_weights_of_a_group_hold_in_each_of_its_cells() -> None:
    weights = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 1.0]])
    found = over_cells(weights, GROUPS, SEX)
    assert found.shape == (9, 2)
    for group, row in zip(SEX.groups, weights, strict=True):
        assert (found[GROUPS.members("sex", group)] == row).all()


def test_records_recoded_to_one_attribute_fall_in_their_groups() -> None:
    cells = torch.tensor([0, 4, 8])  # female young, male old, unknown unknown
    examples = Examples(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), groups=cells)
    found = along(examples, GROUPS, SEX).groups
    assert found is not None
    assert found.tolist() == [0, 1, 2]


def test_nobody_steers_where_nothing_is_asked_for() -> None:
    assert steering_of(NoFairness(), GROUPS, 2) is None


def test_selection_is_of_two_labels() -> None:
    with pytest.raises(ConfigError, match="3 labels"):
        steering_of(STEERS["selection"], GROUPS, 3)


def test_an_attribute_that_the_task_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match=r"attribute race, and task\.sensitive has sex, age"):
        steering_of(replace(STEERS["group"], attribute="race"), GROUPS, 2)


def test_a_task_without_attributes_has_no_groups_to_compare() -> None:
    with pytest.raises(ConfigError, match=r"task\.sensitive has none"):
        steering_of(STEERS["worst"], Groups(()), 2)
