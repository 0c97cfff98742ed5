"""Where each parameter lies in a flat state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel


@dataclass(frozen=True)
class Slot:
    """One parameter's place."""

    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    def of(self, flat: Tensor) -> Tensor:
        """The parameter in [d], or all members' in [members, d]; a view."""
        part = flat[..., self.start : self.start + self.size]
        return part.view(*flat.shape[:-1], *self.shape)


def slots_of(model: nn.Module) -> dict[str, Slot]:
    """Each value's slot in the model's state, by name.

    Raises:
        UnsupportedModel: a value that is not trained, is no float32, or stands in the state twice.
    """
    found, start = {}, 0
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    for name, value in model.state_dict().items():
        if name not in trained or value.dtype != torch.float32:
            raise no_rule(f"{name}, which is not trained, is shared, or is not in float32")
        found[name] = Slot(start, tuple(value.shape))
        start += value.numel()
    return found


def no_rule(what: str) -> UnsupportedModel:
    """The model cannot be trained with others side by side."""
    return UnsupportedModel(f"there is no rule for {what}; nothing was trained; choose another executor")
