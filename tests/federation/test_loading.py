"""A model that every instruction overwrites has the values that were sent, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lepton_fl.federation.arrays import BadArrays, load_arrays, to_arrays
from lepton_fl.federation.codec import array_of
from lepton_fl.federation.loading import Loading
from lepton_fl.flower import Array, ArrayRecord, array_record
from lepton_fl.training.cohort.executor import flat_state


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def sent(*, but: dict[str, Array] | None = None) -> ArrayRecord:
    """A trained model's arrays; batch normalisation's counter, a whole number, with them."""
    other = model()
    for number, value in enumerate(other.state_dict().values(), 1):
        value.fill_(number)
    arrays = {name: array_of(array.numpy().astype(np.float32)) for name, array in to_arrays(other).items()}
    return array_record((arrays | (but or {})).items())


def test_loading_is_what_load_arrays_does() -> None:
    own, expected = model(), model()
    loading = Loading(own)
    loading.load(sent())
    load_arrays(expected, sent())
    assert all(map(torch.equal, own.state_dict().values(), expected.state_dict().values()))
    assert torch.equal(loading.values, flat_state(own))


def test_columns_first_arrays_are_read_as_their_header_says() -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    own = model()
    Loading(own).load(sent(but={"0.weight": Array(values)}))
    assert own.get_parameter("0.weight").tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.array([1.0, np.nan], dtype=np.float32), "0.bias has values that are not finite"),
        (np.array([1.0, -1e7], dtype=np.float32), "0.bias has values that are not finite or beyond"),
        (np.array([1.0], dtype=np.float32), "0.bias has the shape"),
        (np.array([1.0, 1.0]), "0.bias has the type float64"),
    ],
)
def test_refused_arrays_leave_the_model_as_it_was(bad: np.ndarray, reason: str) -> None:
    own = model()
    before = flat_state(own)
    with pytest.raises(BadArrays, match=reason):
        Loading(own).load(sent(but={"0.bias": array_of(bad)}))
    assert torch.equal(flat_state(own), before)


def test_many_large_values_are_taken_as_long_as_each_of_them_may_be() -> None:
    own = model()
    Loading(own).load(sent(but={"0.weight": array_of(np.full((2, 3), 9e5, dtype=np.float32))}))
    assert own.get_parameter("0.weight").max() == 9e5
