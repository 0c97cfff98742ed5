"""Layers of sequences are clipped on another device as they are here."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from second_device import There, second_device
from sequence_models import WIDTH, OnSequences, clipped_by, of_records, sequences
from torch import Tensor, nn

from lepton_fl.training.bookkeeping.engine import BookKeeping

Call = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
LAYERS: dict[str, tuple[Callable[[], nn.Module], Call, int]] = {  # and how many numbers come out for a record
    "lstm": (lambda: nn.LSTM(WIDTH, 5, num_layers=2, bidirectional=True, batch_first=True), of_records, 100),
    "gru": (lambda: nn.GRU(WIDTH, 5), of_records, 35),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(WIDTH, 2, 7, dropout=0.0, batch_first=True),
        lambda layer, x: (layer(x),),
        24,
    ),
    "attention": (
        lambda: nn.MultiheadAttention(WIDTH, 2, add_bias_kv=True, batch_first=True),
        lambda layer, x: layer(x, x, x),
        66,
    ),
}


@pytest.mark.parametrize(("made", "call", "size"), LAYERS.values(), ids=LAYERS)
def test_the_sum_is_the_same_on_another_device(made: Callable[[], nn.Module], call: Call, size: int) -> None:
    model, batch = OnSequences(made(), call, size), sequences(6)
    here = clipped_by(BookKeeping(), copy.deepcopy(model), batch, 0.1)
    with second_device() as device:
        out = torch.zeros(len(here), dtype=torch.float64).to(device)
        engine = BookKeeping()
        engine.attach(model.to(device))
        engine.add(batch.to(device), 0.1, out)
        engine.detach()
        assert isinstance(out, There)
        there = out.cpu()
    torch.testing.assert_close(there, here)
