"""What was noted of every record, clipped and added up: the line after which no record can do more than the bound says.

A record whose norm is not finite, or huge, takes no part: whoever adds up starts again without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.pieces import Piece, Regroup
from lepton_fl.training.clipped_sum import LARGEST_NORM, LARGEST_SHARE


def add_clipped(
    pieces: list[Piece],
    clipping_norm: float,
    sums: tuple[FlatSum, Tensor],
    counting: tuple[Tensor | None, Tensor | None],
) -> Tensor | None:
    """Add up what was noted, clipped; or add nothing, and return which records are not broken, bool [n].

    Args:
        pieces: a list that is used up.
        sums: what is added up in, and where it is added to.
        counting: owners and weights.
    """
    (flat, out), (owners, weights) = sums, counting
    norms = norms_of(pieces)
    if not _are_sound(norms, clipping_norm):
        return _sound(norms, clipping_norm, owners)
    if owners is not None:
        pieces = _of_owners(pieces, owners, norms, clipping_norm)
        norms = norms_of(pieces)
        if not _are_sound(norms, clipping_norm):
            return _sound(norms, clipping_norm, None)[owners]
    factors = norms.clamp(min=clipping_norm).reciprocal_().mul_(clipping_norm)
    if weights is not None:
        factors = factors * weights.to(factors.device)
    flat.begin(out)
    single = factors.to(torch.float32)
    while pieces:
        # Each is forgotten once it is added: the memory of a layer is there for the next one's products.
        pieces.pop(0).add(single, flat)
    flat.end(out)
    return None


def norms_of(pieces: Sequence[Piece]) -> Tensor:
    """Of each record's whole gradient, before clipping, float64 [n]."""
    found = pieces[0].squared_norms()
    for piece in pieces[1:]:
        found = found + piece.squared_norms()
    return found.sqrt()


def _are_sound(norms: Tensor, clipping_norm: float) -> bool:
    """Whether all are finite, and so large that a factor would lose its bits in float32 is none of them."""
    # The largest of numbers with NaN is NaN, and NaN fails the comparison; so does infinity.
    return float(norms.max()) < LARGEST_NORM * clipping_norm


def _sound(norms: Tensor, clipping_norm: float, owners: Tensor | None) -> Tensor:
    """Which records are not broken, nor another one of their owner, bool [n]."""
    broken = ~(norms < LARGEST_NORM * clipping_norm)
    if owners is None:
        return ~broken
    return ~(torch.bincount(owners, weights=broken.double()) > 0)[owners]


def _of_owners(pieces: list[Piece], owners: Tensor, norms: Tensor, clipping_norm: float) -> list[Piece]:
    """Each owner's mean gradient; of several records, each counts with 100 times the clipping norm at most."""
    counts = torch.bincount(owners)
    most = LARGEST_SHARE * clipping_norm
    shares = torch.where(counts[owners] > 1, most / norms.clamp(min=most), 1.0) / counts[owners]
    regroup = Regroup(owners, len(counts), shares.to(torch.float32))
    return [piece.of_owners(regroup) for piece in pieces]
