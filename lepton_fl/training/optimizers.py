"""The local optimizers: torch's own steps as functions, with the memory of one round.

`torch.optim.SGD` and `torch.optim.Adam` load torch's compiler when they are made. That takes longer than many an
institution's whole round, and nothing here is compiled; their arithmetic alone needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

# As Kingma and Ba 2015 recommend: "Adam: A Method for Stochastic Optimization", algorithm 1.
_ADAM_BETAS, _ADAM_EPSILON = (0.9, 0.999), 1e-8


class Optimizer(Protocol):
    """Moves parameters along their gradients, in place."""

    def step(self) -> None:
        """Take one step; a parameter without a gradient stays."""

    def zero_grad(self) -> None:
        """No parameter has a gradient any more."""


class _Parameters:
    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _with_gradients(self) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Positions, parameters and gradients of those that have one."""
        found = [(at, one, one.grad) for at, one in enumerate(self._parameters) if one.grad is not None]
        return [at for at, _, _ in found], [one for _, one, _ in found], [gradient for _, _, gradient in found]


class Sgd(_Parameters):
    """Bit for bit `torch.optim.SGD`."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters)
        self._rate, self._momentum, self._weight_decay = rate, momentum, weight_decay
        self._buffers: list[Tensor | None] = [None] * len(self._parameters)

    @torch.no_grad()
    def step(self) -> None:
        at, parameters, gradients = self._with_gradients()
        buffers = [self._buffers[one] for one in at]
        sgd(
            parameters,
            gradients,
            buffers,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=self._rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for one, buffer in zip(at, buffers, strict=True):
            self._buffers[one] = buffer


class Adam(_Parameters):
    """Bit for bit `torch.optim.Adam`."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, weight_decay: float) -> None:
        super().__init__(parameters)
        self._rate, self._weight_decay = rate, weight_decay
        self._means = [torch.zeros_like(one, memory_format=torch.preserve_format) for one in self._parameters]
        self._squares = [torch.zeros_like(one, memory_format=torch.preserve_format) for one in self._parameters]
        self._steps = [torch.zeros((), dtype=torch.float32) for _ in self._parameters]

    @torch.no_grad()
    def step(self) -> None:
        at, parameters, gradients = self._with_gradients()
        adam(
            parameters,
            gradients,
            [self._means[one] for one in at],
            [self._squares[one] for one in at],
            [],
            [self._steps[one] for one in at],
            amsgrad=False,
            beta1=_ADAM_BETAS[0],
            beta2=_ADAM_BETAS[1],
            lr=self._rate,
            weight_decay=self._weight_decay,
            eps=_ADAM_EPSILON,
            maximize=False,
        )
