"""Integrated gradients: complete, of one record alone, and bounded before they are added up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import noised
from lepton_fl.explanation.attributions import explain
from lepton_fl.explanation.ranking import Noisy, as_json, from_sum
from lepton_fl.explanation.release import (
    SENSITIVITY,
    UNITS,
    Explanation,
    clipped,
    cost,
    variance_for,
    vector,
)
from lepton_fl.privacy.accounting import epsilon_of_history
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.tasks.features import Features, features_of
from lepton_fl.tasks.schema import Column
from lepton_fl.training.examples import Examples

AGE_AND_SEX = Features(("age", "sex"), (2, 3))


def linear(*weights: float) -> nn.Module:
    layer = nn.Linear(len(weights), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
        layer.bias.fill_(0.5)
    return nn.Sequential(nn.Flatten(), layer)


def curved(outputs: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, outputs))


def records(count: int, subjects: list[int] | None = None) -> Examples:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, 5, generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    return Examples(features, labels, None if subjects is None else torch.tensor(subjects))


def test_of_a_linear_model_each_input_has_its_weight_times_its_value() -> None:
    found = explain(linear(2.0, -1.0, 0.0), torch.tensor([0.5, 1.0, 4.0]))
    assert found.attributions.tolist() == [1.0, -1.0, 0.0]
    assert (found.logit, found.baseline, found.label) == (0.5, 0.5, 1)


@pytest.mark.parametrize("outputs", [1, 4])
def test_attributions_add_up_to_the_difference_from_the_baseline(outputs: int) -> None:
    model = curved(outputs)
    for record in records(20).features:
        found = explain(model, record)
        assert found.attributions.sum() == pytest.approx(found.logit - found.baseline, abs=2e-3)


def test_of_more_than_two_classes_the_likeliest_is_explained() -> None:
    model, record = curved(4), records(1).features[0]
    assert explain(model, record).label == int(model(record[None]).argmax())


def test_the_inputs_of_one_column_are_one_column() -> None:
    columns = {
        "age": Column("numeric", low=0.0, high=100.0),
        "sex": Column("categorical", values=["female", "male"]),
    }
    features = features_of(columns)
    assert features == AGE_AND_SEX
    assert features.summed(np.array([[1.0, 2.0, 3.0, 4.0, -7.0]])).tolist() == [[3.0, 0.0]]


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5), st.floats(0.01, 100))
def test_what_a_record_adds_is_bounded_whatever_it_is(values: list[float], clipping_norm: float) -> None:
    added = clipped(np.array(values), AGE_AND_SEX, clipping_norm)
    assert added.dtype == np.int64
    assert math.hypot(*added[:-1].tolist()) <= UNITS
    assert math.hypot(*added.tolist()) <= SENSITIVITY


def test_attributions_within_the_norm_are_kept_to_the_grid() -> None:
    added = clipped(np.array([0.25, 0.0, -0.5, 0.0, 0.0]), AGE_AND_SEX, clipping_norm=1.0)
    assert added[:-1] / UNITS == pytest.approx([0.25, 0.5], abs=1 / UNITS)
    assert added[-1] == UNITS


def test_a_record_that_breaks_the_model_counts_and_adds_nothing() -> None:
    assert clipped(np.array([np.nan, 0, 0, 0, 0]), AGE_AND_SEX, 1.0).tolist() == [0, 0, UNITS]


def test_a_neighbours_record_moves_the_sum_by_its_own_bounded_vector() -> None:
    model, all_of_them = curved(1), records(12)
    whole = vector(model, all_of_them, AGE_AND_SEX, 0.3, one_per_subject=False)
    for left_out in range(12):
        others = all_of_them.at(torch.tensor([n for n in range(12) if n != left_out]))
        moved = whole - vector(model, others, AGE_AND_SEX, 0.3, one_per_subject=False)
        alone = clipped(explain(model, all_of_them.features[left_out]).attributions, AGE_AND_SEX, 0.3)
        assert moved.tolist() == alone.tolist()
        assert math.hypot(*moved.tolist()) <= SENSITIVITY


def test_a_subject_with_several_records_counts_once() -> None:
    model, examples = curved(1), records(6, [0, 0, 0, 1, 2, 2])
    assert vector(model, examples, AGE_AND_SEX, 1.0, one_per_subject=True)[-1] == 3 * UNITS
    assert vector(model, examples, AGE_AND_SEX, 1.0, one_per_subject=False)[-1] == 6 * UNITS


@pytest.mark.parametrize(("epsilon", "shares"), [(0.25, 1), (1.0, 3)])
def test_the_release_costs_at_most_its_epsilon_and_hardly_less(epsilon: float, shares: int) -> None:
    variance = variance_for(epsilon, 1e-5, shares)
    assert epsilon_of_history((cost(variance, shares),), 1e-5) <= epsilon
    assert epsilon_of_history((cost(int(variance * 0.98), shares),), 1e-5) > epsilon


def test_noise_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing was released"):
        variance_for(0.01, 1e-5, 1)


def test_an_exact_sum_gives_the_means_the_largest_first() -> None:
    total = np.array([10 * UNITS, 40 * UNITS, 100 * UNITS])
    ranking = from_sum(Noisy(total, 0.0, clipping_norm=2.0), AGE_AND_SEX, 0.95, (["sex"], 1))
    assert [(one.feature, one.value, one.low, one.high) for one in ranking.weights] == [
        ("sex", 0.8, 0.8, 0.8),
        ("age", 0.2, 0.2, 0.2),
    ]
    assert ranking.proxies == ("sex",)
    assert from_sum(Noisy(total, 0.0, 2.0), AGE_AND_SEX, 0.95, (["age"], 1)).proxies == ()


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    true, stream = np.array([30 * UNITS, 90 * UNITS, 300 * UNITS]), Randomness(5).stream("test")
    variance, held = variance_for(1.0, 1e-5, 1), 0
    for _ in range(400):
        ranking = from_sum(Noisy(noised(true, variance, stream), variance, 1.0), AGE_AND_SEX, 0.95, ([], 1))
        one = next(one for one in ranking.weights if one.feature == "sex")
        assert one.low is not None
        assert one.high is not None
        held += one.low <= 0.3 <= one.high
    assert 0.92 <= held / 400 <= 0.98


def test_too_few_records_for_the_noise_show_nothing() -> None:
    total = np.array([10 * UNITS, 10 * UNITS, 19 * UNITS])
    ranking = from_sum(Noisy(total, 0.0, 1.0), AGE_AND_SEX, 0.95, (["sex"], 2))
    told = as_json(ranking)
    assert {one["status"] for one in told["features"]} == {"suppressed"}
    assert {one["value"] for one in told["features"]} == {None}
    assert told["proxies"] == []


@pytest.mark.parametrize(
    ("epsilon", "clipping_norm", "top"), [(0.0, 1.0, 3), (float("nan"), 1.0, 3), (1.0, 0.0, 3), (None, 1.0, 0)]
)
def test_settings_that_mean_nothing_are_refused(epsilon: float | None, clipping_norm: float, top: int) -> None:
    with pytest.raises(ConfigError):
        Explanation(epsilon, clipping_norm, top)
