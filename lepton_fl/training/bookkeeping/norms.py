"""Layers that normalise a record by itself, then scale and shift it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from lepton_fl.training.bookkeeping.pieces import Explicit
from lepton_fl.training.bookkeeping.tape import Forward, Place, Slots, Tape


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, form: tuple[Any, float], place: Place
    ) -> Tensor:
        shape, eps = form
        made, mean, scale = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.shape, ctx.place = shape, place
        return made

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, bias, mean, scale = ctx.saved_tensors
        summed = tuple(range(1, g.dim() - len(ctx.shape)))
        ctx.place.note(_scaled_and_shifted((x - mean).mul_(scale), g, ctx.place, summed))
        into = None
        if ctx.needs_input_grad[0]:
            wanted = [True, False, False]
            into = torch.ops.aten.native_layer_norm_backward(g, x, ctx.shape, mean, scale, weight, bias, wanted)[0]
        return into, None, None, None, None


class _Affine(torch.autograd.Function):
    """x * weight + bias, both in a shape that fits x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, summed: tuple[int, ...], place: Place
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.summed, ctx.place = summed, place
        return x * weight if bias is None else torch.addcmul(bias, x, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        ctx.place.note(_scaled_and_shifted(x, g, ctx.place, ctx.summed))
        return (g * weight if ctx.needs_input_grad[0] else None), None, None, None, None, None


def layer_norm(layer: nn.LayerNorm, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.LayerNorm`."""
    place = Place(slots.get("weight"), slots.get("bias"), tape, layer)
    form = (list(layer.normalized_shape), layer.eps)

    def forward(x: Tensor) -> Tensor:
        made: Tensor = _LayerNorm.apply(x, layer.weight, layer.bias, form, place)  # type: ignore[no-untyped-call]
        return made

    return forward


def group_norm(layer: nn.GroupNorm, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.GroupNorm`."""
    place = Place(slots.get("weight"), slots.get("bias"), tape, layer)

    def forward(x: Tensor) -> Tensor:
        normal = F.group_norm(x, layer.num_groups, None, None, layer.eps)
        shape, summed = (-1, *(1,) * (x.dim() - 2)), tuple(range(2, x.dim()))
        bias = None if layer.bias is None else layer.bias.view(shape)
        given = (layer.weight.view(shape), bias, summed, place)
        made: Tensor = _Affine.apply(normal, *given)  # type: ignore[no-untyped-call]
        return made

    return forward


def rms_norm(layer: nn.RMSNorm, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.RMSNorm`."""
    shape, place = layer.normalized_shape, Place(slots["weight"], None, tape, layer)

    def forward(x: Tensor) -> Tensor:
        normal = F.rms_norm(x, list(shape), None, layer.eps)
        given = (layer.weight, None, tuple(range(1, x.dim() - len(shape))), place)
        made: Tensor = _Affine.apply(normal, *given)  # type: ignore[no-untyped-call]
        return made

    return forward


def _scaled_and_shifted(x: Tensor, g: Tensor, place: Place, summed: tuple[int, ...]) -> Explicit:
    """The gradients of y = x * weight + bias, where both count at several positions."""
    parts = []
    for slot, each in ((place.weight, None if place.weight is None else x * g), (place.bias, g)):
        if slot is not None and each is not None:
            parts.append((slot, (each.sum(dim=summed) if summed else each).reshape(each.shape[0], -1)))
    return Explicit(tuple(parts))
