"""A model's parameters as one vector of d numbers, in the model's order: what is clipped, noised and stepped along."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.training.device import device_of


@dataclass(frozen=True)
class Slot:
    """Where a parameter lies in the vector of all of them."""

    start: int
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """How many numbers the parameter has."""
        return math.prod(self.shape)

    def of(self, flat: Tensor) -> Tensor:
        """The parameter's part of a vector [d], or of many, [..., d], as a view: [..., *shape]."""
        return flat.narrow(-1, self.start, self.numel).view(*flat.shape[:-1], *self.shape)


class StepVectors:
    """The vectors of d numbers that private steps work in, made once a round: a gradient, and seldom a wider sum."""

    def __init__(self, model: nn.Module) -> None:
        self.gradient = torch.zeros(size(model), device=device_of(model))
        self._wide: Tensor | None = None
        self._views = list(_parts(_trained(model), self.gradient))

    def zeros(self, dtype: torch.dtype) -> Tensor:
        """A vector to add a step's sum up in, all zero: of float32 the gradient itself, else one of float64."""
        if dtype is torch.float32:
            return self.gradient.zero_()
        if self._wide is None:
            self._wide = torch.empty_like(self.gradient, dtype=torch.float64)
        return self._wide.zero_()

    def give(self) -> None:
        """Each trained parameter has its part of the gradient, as a view where it is of float32."""
        for parameter, part in self._views:
            parameter.grad = part if part.dtype is parameter.dtype else part.to(parameter.dtype)


def size(model: nn.Module) -> int:
    """How many parameters of a model are trained."""
    return sum(parameter.numel() for parameter in _trained(model))


def set_gradients(model: nn.Module, flat: Tensor) -> None:
    """Give each trained parameter its part of one vector [d], parameters in the model's order."""
    for parameter, part in _parts(_trained(model), flat):
        parameter.grad = part.to(parameter.dtype)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _parts(trained: list[nn.Parameter], flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each parameter with its part of a vector, as a view in its shape."""
    start = 0
    for parameter in trained:
        yield parameter, flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
