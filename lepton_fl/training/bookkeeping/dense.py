"""Layers that multiply by a matrix, and layers that look rows of one up."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.lookup import lookup
from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.bookkeeping.pieces import Product, of_positions
from lepton_fl.training.bookkeeping.tape import Forward, Slots, Tape
from lepton_fl.training.flat import Slot

SlotPair = tuple[Slot | None, Slot | None]
"""Of a weight and a bias."""


def taped_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, slots: SlotPair, note: tuple[Tape, Hashable]
) -> Tensor:
    """`F.linear(x, weight, bias)`, whose backward pass notes its piece under the key.

    Args:
        x: float32 [n, d] or [n, ..., d], with a record in each row.
        weight: [p, d].
        slots: where the weight's and the bias's gradients lie; None: frozen, or absent.
        note: the tape, and the key of this layer's piece.
    """
    if slots == (None, None):
        return F.linear(x, weight, bias)
    made: Tensor = _Linear.apply(x, weight, bias, slots, note)  # type: ignore[no-untyped-call]
    return made


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slots: SlotPair, note: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.slots, ctx.note = slots, note
        return times_transposed(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        (of_weight, of_bias), (tape, key) = ctx.slots, ctx.note
        biases = () if of_bias is None else (of_bias,)
        if x.dim() == 2:
            weights = () if of_weight is None else ((of_weight, x),)
            tape.note(key, Product(weights, biases, g))
        else:
            a, outputs = (x[None, None], g[None, None]) if x.dim() == 1 else (x.flatten(1, -2), g.flatten(1, -2))
            tape.note(key, of_positions(() if of_weight is None else ((of_weight, a),), biases, outputs))
        return (times_transposed(g, weight.t()) if ctx.needs_input_grad[0] else None), None, None, None, None


def linear(layer: nn.Linear, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.Linear`."""
    pair, note = (slots["weight"], slots.get("bias")), (tape, layer)

    def forward(x: Tensor) -> Tensor:
        return taped_linear(x, layer.weight, layer.bias, pair, note)

    return forward


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, index: Tensor, weight: Tensor, padding: int | None, slot: Slot, note: Any) -> Tensor:
        ctx.save_for_backward(index)
        ctx.padding, ctx.slot, ctx.note = padding, slot, note
        return F.embedding(index, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,), (tape, key) = ctx.saved_tensors, ctx.note
        count = index.shape[0] if index.dim() else 1
        rows, entries = g.reshape(-1, g.shape[-1]), index.reshape(-1)
        record = torch.arange(count, device=index.device).repeat_interleave(entries.numel() // max(1, count))
        if ctx.padding is not None:
            kept = (entries != ctx.padding).nonzero()[:, 0]
            rows, entries, record = rows[kept], entries[kept], record[kept]
        tape.note(key, lookup(ctx.slot, count, record, (entries, rows)))
        return None, None, None, None, None


def embedding(layer: nn.Embedding, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.Embedding`.

    Raises:
        UnsupportedModel: an option that counts how often the batch looked a row up, or that changes the table.
    """
    if layer.max_norm is not None or layer.scale_grad_by_freq:
        raise UnsupportedModel(
            "an Embedding with max_norm or scale_grad_by_freq lets records change one another's gradients; nothing was "
            "trained; leave these options out"
        )
    slot = slots["weight"]

    def forward(index: Tensor) -> Tensor:
        if slot is None:
            return F.embedding(index, layer.weight, layer.padding_idx)
        given = (layer.weight, layer.padding_idx, slot, (tape, layer))
        made: Tensor = _Embedding.apply(index, *given)  # type: ignore[no-untyped-call]
        return made

    return forward
