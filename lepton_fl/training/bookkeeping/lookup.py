"""The gradient of a table of which a record looks few rows up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.lengths import squares
from lepton_fl.training.bookkeeping.pieces import Explicit, Piece, Regroup
from lepton_fl.training.flat import Slot


@dataclass(frozen=True)
class Lookup:
    """Gradients of a table that few rows of were looked up: for each record and row, the sum over its positions."""

    slot: Slot
    count: int  # n
    record: Tensor  # int64 [used], 0..n-1
    index: Tensor  # int64 [used], the row of the table; no pair of record and row comes twice
    rows: Tensor  # float32 [used, p]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """See `Piece.slots`."""
        return (self.slot,)

    @property
    def records(self) -> int:
        """See `Piece.records`."""
        return self.count

    def squared_norms(self) -> Tensor:
        """See `Piece.squared_norms`."""
        found = torch.zeros(self.count, dtype=torch.float64, device=self.rows.device)
        return found.index_add_(0, self.record, squares(self.rows))

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """See `Piece.add`."""
        flat.of(self.slot).index_add_(0, self.index, self.rows * factors[self.record, None])

    def of_owners(self, regroup: Regroup) -> Piece:
        """See `Piece.of_owners`."""
        rows = self.rows * regroup.shares[self.record, None]
        return lookup(self.slot, regroup.count, regroup.owners[self.record], (self.index, rows))

    def joined(self, other: Piece) -> Piece:
        """See `Piece.joined`."""
        if not isinstance(other, Lookup):
            return self.explicit().joined(other)
        index, rows = torch.cat([self.index, other.index]), torch.cat([self.rows, other.rows])
        return lookup(self.slot, self.count, torch.cat([self.record, other.record]), (index, rows))

    def explicit(self) -> Explicit:
        """See `Piece.explicit`."""
        entries, width = self.slot.shape
        rows = self.rows.new_zeros(self.count, entries, width)
        rows[self.record, self.index] = self.rows
        return Explicit(((self.slot, rows.flatten(1)),))


def lookup(slot: Slot, count: int, record: Tensor, found: tuple[Tensor, Tensor]) -> Lookup:
    """Rows of a table's gradient by record, those of one record and table row added up.

    Args:
        count: of records.
        record: int64 [m].
        found: the table's row, int64 [m], and its gradient, float32 [m, p].
    """
    index, rows = found
    entries = slot.shape[0]
    keys, where = torch.unique(record * entries + index, return_inverse=True)
    total = rows.new_zeros(len(keys), rows.shape[1]).index_add_(0, where, rows)
    return Lookup(slot, count, keys // entries, keys % entries, total)
