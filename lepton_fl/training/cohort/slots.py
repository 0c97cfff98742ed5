"""Where each parameter lies in a flat state, for executors that train many of these side by side."""

from __future__ import annotations

import torch
from torch import nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.flat import Slot


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
