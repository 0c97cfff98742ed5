"""Sums over many positions that are alike, steps or pixels, do not drift away in float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.pieces import Product
from lepton_fl.training.examples import Examples
from lepton_fl.training.flat import Slot


@pytest.mark.parametrize("steps_first", [False, True])
def test_a_quarter_of_a_million_positions_that_are_alike_add_up(steps_first: bool) -> None:
    records, steps = 16, 16384
    first, second = (steps, records) if steps_first else (records, steps)
    g, a = torch.full((first, second, 2), 0.1), torch.full((first, second, 3), 0.3)
    if steps_first:
        g, a = g.transpose(0, 1), a.transpose(0, 1)
    flat = torch.zeros(8)
    Product(((Slot(0, (2, 3)), a),), (Slot(6, (2,)),), g).add(torch.full((records,), 0.7), FlatSum(flat))
    count = records * steps
    torch.testing.assert_close(flat[6:], torch.full((2,), 0.7 * 0.1 * count), rtol=3e-5, atol=0)
    torch.testing.assert_close(flat[:6], torch.full((6,), 0.7 * 0.1 * 0.3 * count), rtol=3e-5, atol=0)


def test_pixels_that_are_alike_add_up() -> None:
    torch.manual_seed(0)
    records = 512
    model = nn.Sequential(nn.Conv2d(64, 64, 5, padding=2), nn.AvgPool2d(12), nn.Flatten(), nn.Linear(64, 3))
    one = Examples(torch.full((1, 64, 12, 12), 0.1), torch.zeros(1, dtype=torch.int64))
    alike = one.at(torch.zeros(records, dtype=torch.int64))
    sums = [torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64) for _ in range(2)]
    engine = BookKeeping()
    engine.attach(model)
    engine.add(one, 1.0, sums[0])
    engine.add(alike, 1.0, sums[1])
    engine.detach()
    assert float((sums[1] - records * sums[0]).norm()) < 0.05  # of 512 times the clipping norm; in one go it was 0.09
