"""Records' own gradients of one parameter, some records at a time, as they were made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.lengths import squares
from lepton_fl.training.bookkeeping.pieces import Explicit, Piece, Regroup
from lepton_fl.training.flat import Slot


@dataclass(frozen=True)
class Kept:
    """Gradients that are measured while they are in the cache, and copied no more."""

    slot: Slot
    blocks: tuple[Tensor, ...]  # float32 [m, numel] each; together [n, numel]
    squared: Tensor  # float64 [n]
    others: tuple[Explicit, ...]  # of the layer's other parameters

    @classmethod
    def of(cls, slot: Slot, blocks: Iterable[Tensor], others: tuple[Explicit, ...]) -> Kept:
        """The blocks, measured one by one."""
        kept, squared = [], []
        for rows in blocks:
            kept.append(rows)
            squared.append(squares(rows))
        return cls(slot, tuple(kept), torch.cat(squared), others)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """See `Piece.slots`."""
        return (self.slot, *(slot for piece in self.others for slot in piece.slots))

    @property
    def records(self) -> int:
        """See `Piece.records`."""
        return self.squared.shape[0]

    def squared_norms(self) -> Tensor:
        """See `Piece.squared_norms`."""
        return sum((piece.squared_norms() for piece in self.others), self.squared)

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """See `Piece.add`."""
        total = flat.of(self.slot).view(-1)
        for rows, some in zip(self.blocks, factors.split([len(rows) for rows in self.blocks]), strict=True):
            total.addmv_(rows.t(), some)
        for piece in self.others:
            piece.add(factors, flat)

    def of_owners(self, regroup: Regroup) -> Piece:
        """See `Piece.of_owners`."""
        return self.explicit().of_owners(regroup)

    def joined(self, other: Piece) -> Piece:
        """See `Piece.joined`."""
        return self.explicit().joined(other)

    def explicit(self) -> Explicit:
        """See `Piece.explicit`."""
        return Explicit(((self.slot, torch.cat(self.blocks)), *(part for piece in self.others for part in piece.parts)))
