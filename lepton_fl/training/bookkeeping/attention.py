"""Attention by several heads, whose projections are linear layers; what lies between them has no parameters.

Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.dense import taped_linear
from lepton_fl.training.bookkeeping.pieces import Explicit
from lepton_fl.training.bookkeeping.tape import Forward, Slots, Tape
from lepton_fl.training.flat import Slot


@dataclass(frozen=True)
class _Asked:
    """What `nn.MultiheadAttention` is called with beside queries, keys and values; order and defaults are torch's."""

    key_padding_mask: Tensor | None = None  # [n, S]
    need_weights: bool = True
    attn_mask: Tensor | None = None  # [L, S] or [n * heads, L, S]
    average_attn_weights: bool = True
    is_causal: bool = False

    @property
    def by_position(self) -> bool:
        """Whether the mask need not be looked at: torch is told that it is the causal one."""
        return self.is_causal and self.key_padding_mask is None and not self.need_weights

    def one_key_more(self) -> _Asked:
        """With a further key at the end, which everybody may look at."""
        padding, mask = (
            None if each is None else F.pad(each, (0, 1)) for each in (self.key_padding_mask, self.attn_mask)
        )
        return replace(self, key_padding_mask=padding, attn_mask=mask)

    def mask(self, records: int, heads: int, like: Tensor) -> Tensor | None:
        """Added to the scores [n, heads, L, S], in a shape that goes with theirs; None: nothing is."""
        found = None
        if self.attn_mask is not None:
            mask = _as_numbers(self.attn_mask, like)
            found = mask if mask.dim() == 2 else mask.view(records, heads, *mask.shape[1:])
        if self.key_padding_mask is not None:
            padding = _as_numbers(self.key_padding_mask, like)[:, None, None, :]
            found = padding if found is None else found + padding
        return found


def attention(layer: nn.MultiheadAttention, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.MultiheadAttention`: records in the first dimension, or in the second, as `batch_first` says.

    Raises:
        UnsupportedModel: in the forward pass, sequences without a batch.
    """

    def forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        asked = _Asked(*args, **options)
        if query.dim() != 3:
            raise UnsupportedModel(
                "attention was given a sequence without a batch; nothing was released; put records in a batch of three "
                "dimensions"
            )
        if asked.is_causal and asked.attn_mask is None:
            raise ValueError("is_causal is a hint that attn_mask is the causal one, and there is none")
        q, k, v = _projected(layer, (query, key, value), slots, tape)
        if layer.bias_k is not None and layer.bias_v is not None:
            k = torch.cat([k, _repeated(layer.bias_k, len(k), slots["bias_k"], (tape, (layer, "bias_k")))], dim=1)
            v = torch.cat([v, _repeated(layer.bias_v, len(v), slots["bias_v"], (tape, (layer, "bias_v")))], dim=1)
            asked = asked.one_key_more()
        if layer.add_zero_attn:
            k, v, asked = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), asked.one_key_more()
        mixed, weights = _attended(layer, q, k, v, asked)
        out = layer.out_proj
        pair = slots["out_proj.weight"], slots.get("out_proj.bias")
        y = taped_linear(mixed, out.weight, out.bias, pair, (tape, (layer, "out")))
        return (y if layer.batch_first else y.transpose(0, 1)), weights

    return forward


def _projected(
    layer: nn.MultiheadAttention, inputs: tuple[Tensor, Tensor, Tensor], slots: Slots, tape: Tape
) -> tuple[Tensor, ...]:
    """Queries [n, L, width], keys and values [n, S, width]; inputs that are one and the same go through one product."""
    width, same = layer.embed_dim, layer.in_proj_weight is not None
    query, key, value = inputs
    runs = [(query, 3)] if same and query is key is value else [(query, 1), (key, 2)] if same and key is value else None
    found: list[Tensor] = []
    for x, count in runs or [(each, 1) for each in inputs]:
        first = len(found)
        if same:
            weight = layer.in_proj_weight.narrow(0, first * width, count * width)
            of_weight = _rows(slots["in_proj_weight"], first * width, count * width)
        else:
            name = ("q_proj_weight", "k_proj_weight", "v_proj_weight")[first]
            weight, of_weight = getattr(layer, name), slots[name]
        bias, of_bias = None, None
        if layer.in_proj_bias is not None:
            bias = layer.in_proj_bias.narrow(0, first * width, count * width)
            of_bias = _rows(slots["in_proj_bias"], first * width, count * width)
        of_records = x if layer.batch_first else x.transpose(0, 1)
        y = taped_linear(of_records, weight, bias, (of_weight, of_bias), (tape, (layer, "in", first, count)))
        found.extend(y.chunk(count, dim=-1))
    return tuple(found)


def _attended(
    layer: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, asked: _Asked
) -> tuple[Tensor, Tensor | None]:
    """Mixtures of the values [n, L, width], and if they are asked for, their weights [n, L, S] or [n, heads, L, S]."""
    q, k, v = (each.unflatten(2, (layer.num_heads, layer.head_dim)).transpose(1, 2) for each in (q, k, v))
    dropout = layer.dropout if layer.training else 0.0
    mask = None if asked.by_position else asked.mask(len(q), layer.num_heads, q)
    weights = None
    if asked.need_weights:
        scores = (q * math.sqrt(1.0 / layer.head_dim)) @ k.transpose(2, 3)
        weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
        mixed = weights @ v
        weights = weights.mean(dim=1) if asked.average_attn_weights else weights
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, asked.by_position)
    return mixed.transpose(1, 2).flatten(2), weights


def _as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    """True, which keeps from looking, is minus infinity; numbers are added as they are."""
    if mask.dtype is torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill_(mask, -math.inf)
    return mask


def _rows(slot: Slot | None, first: int, count: int) -> Slot | None:
    """The part of a parameter's slot that some of its rows have."""
    if slot is None:
        return None
    return Slot(slot.start + first * (slot.numel // slot.shape[0]), (count, *slot.shape[1:]))


def _repeated(row: Tensor, records: int, slot: Slot | None, note: tuple[Tape, Hashable]) -> Tensor:
    """A parameter [1, 1, width] as a position of every record, [n, 1, width]."""
    made: Tensor = _Repeated.apply(row, records, slot, note)  # type: ignore[no-untyped-call]
    return made


class _Repeated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, records: int, slot: Slot | None, note: Any) -> Tensor:
        ctx.slot, ctx.note = slot, note
        return row.repeat(records, 1, 1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if ctx.slot is not None:
            tape, key = ctx.note
            tape.note(key, Explicit(((ctx.slot, g.flatten(1)),)))
        return None, None, None, None
