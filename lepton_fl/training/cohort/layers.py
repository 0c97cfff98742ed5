"""The layers that have batched rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
NO_BEND = 0
_NUMBERS = {id(BENDS[kind]): number for number, kind in enumerate((nn.ReLU, nn.Tanh, nn.Sigmoid), start=1)}


def bends_of(layers: Sequence[Layer]) -> tuple[int, ...] | None:
    """What bends each dense layer's outputs, as `bends.h` has it; None where its loops cannot go through the layers."""
    found: list[int] = []
    width: int | None = None
    for one in layers:
        if isinstance(one, Dense):
            outputs, inputs = one.weight.shape
            if width not in (None, inputs):
                return None
            found.append(NO_BEND)
            width = outputs
        elif isinstance(one, Bend):
            if not found or found[-1] != NO_BEND or id(one) not in _NUMBERS:
                return None
            found[-1] = _NUMBERS[id(one)]
    return tuple(found)
