"""The layers that have batched rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.training.flat import Slot

_aten = torch.ops.aten


@dataclass(frozen=True)
class Dense:
    """Linear, by its slots."""

    weight: Slot
    bias: Slot | None


@dataclass(frozen=True)
class Bend:
    """An activation: its function, and its gradient from the output's gradient and the output."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Flat:
    """All numbers of a record as one vector."""


Layer = Dense | Bend | Flat
BENDS: dict[type[nn.Module], Bend] = {
    nn.ReLU: Bend(torch.relu, lambda g, y: _aten.threshold_backward(g, y, 0)),
    nn.Tanh: Bend(torch.tanh, _aten.tanh_backward),
    nn.Sigmoid: Bend(torch.sigmoid, _aten.sigmoid_backward),
}
