"""Large linear layers with the faster product of `bookkeeping.matmul`, for a model that nobody else uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lepton_fl.training.bookkeeping.matmul import times_transposed

_LEAST = 1 << 17  # weights of a layer, below which torch's own product is as fast


def widen(model: nn.Module) -> None:
    """Large linear layers of exactly that type compute by the faster product, forward and backward, from now on."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= _LEAST and module.weight.device.type == "cpu":
            module.forward = _Forward(module)  # type: ignore[assignment, method-assign]


class _Forward:
    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self._layer.weight, self._layer.bias
        if x.dim() != 2 or x.dtype != torch.float32 or not weight.requires_grad:
            return functional.linear(x, weight, bias)
        made: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return made


class _Product(torch.autograd.Function):
    """x @ weight.T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return times_transposed(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (g,), (x, weight) = gradients, ctx.saved_tensors
        of_input = times_transposed(g, weight.t()) if ctx.needs_input_grad[0] else None
        return of_input, times_transposed(g.t(), x.t()), g.sum(0) if ctx.has_bias else None
