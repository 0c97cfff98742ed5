"""Squared lengths of records' gradients, in float64: never below the truth by more than rounding, whatever is lost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_TINY = float(torch.finfo(torch.float32).tiny)  # a smaller square may be lost
_STRETCH = 1024  # numbers whose squares are added up in float32
# A Gram matrix tells the norm of a sum of positions; where these cancel to less than this share of their lengths, the
# rounding of float32 would be of the norm's size. Such a record counts as one of that share: it is clipped too much.
LEAST_SHARE = 1 / 128


def lost(size: int) -> float:
    """What the squares of so many numbers lose in float32 at most, where they are below the smallest number."""
    return size * _TINY


def squares(rows: Tensor, more: float = 0.0) -> Tensor:
    """The squared length of each row of [n, size] and some more, float64 [n]; whatever float32 loses is put back."""
    size = rows.shape[1]
    more += lost(size)
    if size < 2 * _STRETCH:
        lengths: Tensor = torch.linalg.vector_norm(rows, dim=1).double()
        return lengths.mul_(lengths).add_(more)
    # Long rows in stretches: the sum over these, in float64, has no more rounding than that of one.
    whole = size - size % _STRETCH
    stretches = torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, _STRETCH)), dim=2).double().square_()
    found: Tensor = stretches.sum(dim=1).add_(more)
    return found if whole == size else found.add_(torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square_())


def squares_of_sums(inputs: Sequence[Tensor], g: Tensor, biases: int) -> Tensor:
    """The squared length of each record's sum over positions of g_t a_t^T, and of g_t for each bias, float64 [n].

    Args:
        inputs: of each weight, float32 [n, T, d].
        g: float32 [n, T, p].
    """
    positions = g.shape[1]
    gram = torch.full((1, 1, 1), float(biases), dtype=g.dtype, device=g.device)
    for a in inputs:
        gram = torch.baddbmm(gram, a, a.transpose(1, 2))
    outputs = torch.bmm(g, g.transpose(1, 2))
    a_t, g_t = (each.diagonal(dim1=1, dim2=2).double() for each in (gram, outputs))
    found = (gram * outputs).sum(dim=(1, 2), dtype=torch.float64)
    longest = (a_t * g_t).clamp(min=0).sqrt().sum(dim=1) * LEAST_SHARE
    # Squares below the smallest float32 are lost; what they could have added at most is put back.
    width = sum(a.shape[2] for a in inputs)
    lost = _TINY * positions * (g.shape[2] * a_t.sum(dim=1) + width * g_t.sum(dim=1))
    return torch.maximum(found, longest.square()) + lost
