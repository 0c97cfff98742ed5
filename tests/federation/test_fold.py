"""A round's mean is made as its models come, by numbers that are checked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lepton_fl.federation.arrays import BadArrays
from lepton_fl.federation.codec import values_of
from lepton_fl.federation.fold import Fold, Folding
from lepton_fl.flower import ArrayRecord

TEMPLATE = {"layer.weight": (2, 1), "bias": (1,)}
BEFORE = torch.tensor([1.0, 2.0, 3.0])


def fold() -> Fold:
    return Fold(Folding(TEMPLATE, weight_cap=100, release=None), BEFORE, torch.full((3,), float("nan")))


def mean_of(one: Fold) -> tuple[list[float], int]:
    arrays, weight = one.reply(ArrayRecord(), round=1)
    assert {name: tuple(array.shape) for name, array in arrays.items()} == TEMPLATE
    return [float(value) for array in arrays.values() for value in values_of(array).ravel()], weight


def model(*values: float) -> Tensor:
    return torch.tensor(values)


def test_single_models_are_averaged_by_their_weights() -> None:
    one = fold()
    one.add(model(1.0, 0.0, 4.0), 1)
    one.add(model(5.0, 4.0, 0.0), 3)
    assert mean_of(one) == ([4.0, 3.0, 1.0], 4)


def test_a_weight_counts_up_to_the_cap() -> None:
    one = fold()
    one.add(model(0.0, 0.0, 0.0), 100)
    one.add(model(2.0, 4.0, 8.0), 1_000_000)
    assert mean_of(one) == ([1.0, 2.0, 4.0], 200)


def test_one_sum_moves_the_model_by_its_mean() -> None:
    one = fold()
    one.add_sum(model(8.0, -4.0, 0.0), 4)
    assert mean_of(one) == ([3.0, 1.0, 3.0], 4)


def test_several_sums_and_single_models_are_one_mean() -> None:
    one = fold()
    one.add_sum(model(8.0, -4.0, 0.0), 4)
    one.add(model(1.0, 10.0, 3.0), 2)
    one.add_sum(model(0.0, 4.0, 16.0), 2)
    # (4 * 1 + 8) + 2 * 1 + 2 * 1 = 16, and so on, over 8.
    assert mean_of(one) == ([2.0, 4.0, 5.0], 8)


def test_a_sum_is_taken_before_the_executor_trains_again() -> None:
    one, memory = fold(), model(8.0, -4.0, 0.0)
    one.add_sum(memory, 4)
    memory.fill_(100.0)
    assert mean_of(one) == ([3.0, 1.0, 3.0], 4)


def test_what_was_sent_out_stays_as_it_is() -> None:
    one = fold()
    one.add_sum(model(8.0, -4.0, 0.0), 4)
    one.add_sum(model(8.0, -4.0, 0.0), 4)
    mean_of(one)
    assert BEFORE.tolist() == [1.0, 2.0, 3.0]


def test_a_thousand_sums_lose_nothing_to_float32() -> None:
    one = fold()
    one.add_sum(model(2.0**24, 0.0, 0.0), 1)
    for _ in range(999):
        one.add_sum(model(1.0, 0.0, 0.0), 1)  # in float32, 2^24 + 1 is 2^24
    assert mean_of(one)[0][0] == pytest.approx(1.0 + (2.0**24 + 999) / 1000, rel=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0000001e6])
def test_a_broken_model_is_named_and_counts_nothing(value: float) -> None:
    one = fold()
    one.add(model(1.0, 2.0, 3.0), 2)
    with pytest.raises(BadArrays, match="bias has values that are not finite or beyond 1e\\+06"):
        one.add(model(0.0, 0.0, value), 5)
    assert mean_of(one) == ([1.0, 2.0, 3.0], 2)
