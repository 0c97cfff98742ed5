"""A multilayer perceptron: dense layers with ReLU or, better under clipping, tanh."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.models.shape import Model, Shape

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass
class Mlp(Model):
    """`model=mlp`."""

    hidden: list[int]  # width of each hidden layer
    activation: str  # relu or tanh

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"model.hidden must list widths of at least 1, got {self.hidden}")
        if self.activation not in _ACTIVATIONS:
            raise ConfigError(f"model.activation must be one of {', '.join(_ACTIVATIONS)}, got {self.activation}")

    def build(self, shape: Shape) -> nn.Module:
        """See `Model.build`."""
        widths = [shape.inputs, *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), _ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], shape.outputs))
