"""Batches of ordinary local training, one at a time and all at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.plain import batches, first_batches, sizes_of_batches


@given(
    records=st.integers(1, 40),
    sampling_rate=st.sampled_from([1e-3, 0.1, 1 / 3, 0.5, 0.7, 1.0]),
    steps=st.integers(1, 9),
)
def test_batches_all_at_once_are_those_one_at_a_time(records: int, sampling_rate: float, steps: int) -> None:
    order = batches(records, sampling_rate, Randomness(4).stream("batches"))
    expected = [next(order) for _ in range(steps)]
    sizes = sizes_of_batches(records, sampling_rate, steps)
    found = first_batches(records, sampling_rate, steps, Randomness(4).stream("batches"))
    assert sizes == tuple(map(len, expected))
    assert torch.equal(found, torch.cat(expected))


@pytest.mark.parametrize(("records", "sizes"), [(6, (3, 3, 3, 3)), (7, (4, 3, 4, 3)), (1, (1, 1, 1, 1))])
def test_an_epoch_s_last_batch_is_what_is_left(records: int, sizes: tuple[int, ...]) -> None:
    assert sizes_of_batches(records, 0.5, 4) == sizes
