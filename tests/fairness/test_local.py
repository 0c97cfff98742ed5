"""An institution's own weights: exact without privacy; under it from one noisy table of subjects set apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lepton_fl.fairness.local import OwnNoise, one_of_each, own_variance, own_weights
from lepton_fl.fairness.settings import LocalReweighing
from lepton_fl.privacy.accounting import SKELLAM, Segment, epsilon_of_history
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.skellam_bounds import multiplier
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples, Site

GROUPS = Groups((Attribute("sex", ("female", "male")),))
FAIRNESS = LocalReweighing(attribute="sex", most=5.0)


def people(counts: list[list[int]]) -> Examples:
    """So many records of each group and label."""
    cells = [(group, label) for group, row in enumerate(counts) for label, n in enumerate(row) for _ in range(n)]
    groups, labels = torch.tensor([one for one, _ in cells]), torch.tensor([one for _, one in cells])
    return Examples(torch.zeros(len(cells), 1), labels, groups=groups)


TRAIN, TUNE = people([[80, 20], [40, 60]]), people([[400, 600], [800, 200]])
SITE = Site("A", TRAIN, people([[1, 1]]), TUNE)


def noise(variance: int, seed: int = 0) -> OwnNoise:
    return OwnNoise(variance, Randomness(seed).stream("own-table"))


def test_without_privacy_the_training_records_are_counted() -> None:
    weights = own_weights(FAIRNESS, SITE, GROUPS, 2, None)
    assert np.allclose(weights[:2], [[0.75, 2.0], [1.5, 2 / 3]], rtol=1e-6)


def test_under_privacy_training_records_decide_nothing() -> None:
    other = replace(SITE, train=people([[1, 900], [900, 1]]))
    one, two = (own_weights(FAIRNESS, site, GROUPS, 2, noise(9)) for site in (SITE, other))
    assert np.array_equal(one, two)


def test_under_privacy_the_weights_are_near_those_of_the_subjects_set_apart() -> None:
    # Women 1000 of 2000, 1200 of 2000 negative: 1000 * 1200 / (2000 * 400) = 1.5, and so on.
    weights = own_weights(FAIRNESS, SITE, GROUPS, 2, noise(9))
    assert np.allclose(weights[:2], [[1.5, 2 / 3], [0.75, 2.0]], rtol=0.1)


def test_lost_in_the_noise_all_records_weigh_nearly_the_same() -> None:
    few = replace(SITE, tune=people([[4, 6], [8, 2]]))
    assert np.array_equal(own_weights(FAIRNESS, few, GROUPS, 2, noise(400)), np.ones((3, 2)))


@pytest.mark.parametrize("epsilon", [0.25, 1.0, 3.0])
def test_the_variance_keeps_the_promise_and_a_smaller_one_would_not(epsilon: float) -> None:
    variance = own_variance(epsilon, 1e-5)

    def spent(at: float) -> float:
        return epsilon_of_history((Segment(multiplier(at, 1.0), 1.0, 1, SKELLAM),), 1e-5)

    assert spent(variance) <= epsilon < spent(0.6 * variance)


def test_a_subject_is_in_the_table_once() -> None:
    repeated = replace(people([[3, 0], [0, 2]]), subjects=torch.tensor([7, 7, 9, 4, 4]))
    assert one_of_each(repeated).groups.tolist() == [0, 0, 1]  # type: ignore[union-attr]


def test_adding_a_subject_moves_one_count_by_one() -> None:
    before = replace(people([[3, 0], [0, 2]]), subjects=torch.tensor([7, 7, 9, 4, 4]))
    after = replace(people([[3, 0], [0, 4]]), subjects=torch.tensor([7, 7, 9, 4, 4, 5, 5]))

    def table(examples: Examples) -> np.ndarray:
        one = one_of_each(examples)
        counts = np.zeros((3, 2), dtype=np.int64)
        np.add.at(counts, (one.groups.numpy(), one.labels.numpy()), 1)  # type: ignore[union-attr]
        return counts

    moved = table(after) - table(before)
    assert (np.abs(moved).sum(), moved[1, 1]) == (1, 1)
