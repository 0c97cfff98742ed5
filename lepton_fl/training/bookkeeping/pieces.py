"""What one layer adds to every record's gradient, kept in whatever form is small.

n records, T positions in each (words of a text, pixels, or a patient's records), d inputs and p outputs of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.lengths import squares, squares_of_sums
from lepton_fl.training.bookkeeping.matmul import add_product, product
from lepton_fl.training.bookkeeping.positions import Rows, positions_of, with_positions
from lepton_fl.training.flat import Slot

# Added up one after the other in float32: half a million rows that are alike would round their sum by half a percent.
_ROWS = 2048


@dataclass(frozen=True)
class Regroup:
    """Which records are whose, and what each counts in its owner's mean."""

    owners: Tensor  # int64 [n], 0..count-1
    count: int  # of owners
    shares: Tensor  # float32 [n], what a record's gradient is multiplied by: at most one over its owner's records

    def alike(self) -> list[tuple[Tensor, Tensor]]:
        """Owners with equally many records together: their numbers [m], and their records' positions [m, records]."""
        order = torch.argsort(self.owners, stable=True)
        records = torch.bincount(self.owners, minlength=self.count)
        starts = records.cumsum(0) - records
        found = []
        for size in torch.unique(records).tolist():
            who = (records == size).nonzero()[:, 0]
            found.append((who, order[starts[who, None] + torch.arange(size, device=order.device)]))
        return found


class Piece(Protocol):
    """What one layer adds to the gradients of n records; gradients are never changed, so tensors may be shared."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The parameters that this is the gradient of."""

    @property
    def records(self) -> int:
        """n."""

    def squared_norms(self) -> Tensor:
        """Of each record's gradient, float64 [n], never below the truth by more than rounding; NaN or infinite where
        the gradient is."""

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """Add sum_i factors[i] * gradient_i; a gradient that is not finite spoils the sum, whatever its factor.

        Args:
            factors: float32 [n].
            flat: of all trained parameters, float32.
        """

    def of_owners(self, regroup: Regroup) -> Piece:
        """The sums of each owner's gradients, times their shares."""

    def joined(self, other: Piece) -> Piece:
        """The sum of both gradients: those of a layer that is called twice."""

    def explicit(self) -> Explicit:
        """The same gradients, each record's written out."""


@dataclass(frozen=True)
class Product:
    """grad W = sum over positions of g_t a_t^T for each weight, and grad b = sum of g_t for each bias.

    All weights share g: an LSTM's two matrices do. Without positions (T = 1), tensors have no such dimension.
    """

    weights: tuple[tuple[Slot, Tensor], ...]  # the weight [p, d], and its a [n, T, d] or [n, d]
    biases: tuple[Slot, ...]
    g: Tensor  # [n, T, p] or [n, p]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """See `Piece.slots`."""
        return (*(slot for slot, _ in self.weights), *self.biases)

    @property
    def records(self) -> int:
        """See `Piece.records`."""
        return self.g.shape[0]

    def squared_norms(self) -> Tensor:
        """See `Piece.squared_norms`: |a|^2 |g|^2, or the product of two Gram matrices."""
        if not self.weights:
            return squares(with_positions(self.g).sum(dim=1)) * len(self.biases)
        if self.g.dim() == 2:
            found, *more = [squares(a, len(self.biases) / len(self.weights)) for _, a in self.weights]
            return squares(self.g).mul_(sum(more, found))
        return squares_of_sums([a for _, a in self.weights], self.g, len(self.biases))

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """See `Piece.add`."""
        if self.g.dim() == 2:
            self._add_vectors(factors, flat)
            return
        rows = Rows(self.g)
        inputs = [(slot, rows.of(a).split(_ROWS)) for slot, a in self.weights]
        blocks = zip(rows.of(self.g).split(_ROWS), rows.each(factors).split(_ROWS), strict=True)
        for number, (g, each) in enumerate(blocks):
            scale = each[:, None]
            for slot, parts in inputs:
                a = parts[number]
                made = product(g, a * scale) if a.shape[1] <= g.shape[1] else product(g * scale, a)
                flat.of(slot).add_(made)
            total = torch.mv(g.t(), each)
            for slot in self.biases:
                flat.of(slot).add_(total)

    def _add_vectors(self, factors: Tensor, flat: FlatSum) -> None:
        for slot, a in self.weights:
            add_product(flat.of(slot), self.g, a, factors)
        for slot in self.biases:
            flat.of(slot).addmv_(self.g.t(), factors)

    def of_owners(self, regroup: Regroup) -> Piece:
        """See `Piece.of_owners`: an owner's records are further positions."""
        g = self.g * regroup.shares.view(-1, *(1,) * (self.g.dim() - 1))
        parts = []
        for who, records in regroup.alike():
            weights = tuple((slot, positions_of(a, records)) for slot, a in self.weights)
            parts.append((who, of_positions(weights, self.biases, positions_of(g, records))))
        return parts[0][1] if len(parts) == 1 else Parts(tuple(parts), regroup.count)

    def joined(self, other: Piece) -> Piece:
        """See `Piece.joined`: both calls' positions in a row."""
        if not isinstance(other, Product):
            return self.explicit().joined(other)
        weights = tuple(
            (slot, torch.cat([with_positions(a), with_positions(b)], dim=1))
            for (slot, a), (_, b) in zip(self.weights, other.weights, strict=True)
        )
        g = torch.cat([with_positions(self.g), with_positions(other.g)], dim=1)
        return of_positions(weights, self.biases, g)

    def explicit(self) -> Explicit:
        """See `Piece.explicit`."""
        g = with_positions(self.g)
        rows = [(slot, torch.bmm(g.transpose(1, 2), with_positions(a)).flatten(1)) for slot, a in self.weights]
        total = g.sum(dim=1)
        return Explicit((*rows, *((slot, total) for slot in self.biases)))


@dataclass(frozen=True)
class Explicit:
    """Each record's gradient itself: of normalisation's few parameters, or where many positions make it the smallest
    form."""

    parts: tuple[tuple[Slot, Tensor], ...]  # each parameter's gradients, float32 [n, numel]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """See `Piece.slots`."""
        return tuple(slot for slot, _ in self.parts)

    @property
    def records(self) -> int:
        """See `Piece.records`."""
        return self.parts[0][1].shape[0]

    def squared_norms(self) -> Tensor:
        """See `Piece.squared_norms`."""
        return torch.stack([squares(rows) for _, rows in self.parts]).sum(dim=0)

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """See `Piece.add`."""
        for slot, rows in self.parts:
            flat.of(slot).view(-1).addmv_(rows.t(), factors)

    def of_owners(self, regroup: Regroup) -> Piece:
        """See `Piece.of_owners`."""
        return Explicit(
            tuple(
                (
                    slot,
                    rows.new_zeros(regroup.count, rows.shape[1]).index_add_(
                        0, regroup.owners, rows * regroup.shares[:, None]
                    ),
                )
                for slot, rows in self.parts
            )
        )

    def joined(self, other: Piece) -> Piece:
        """See `Piece.joined`."""
        pairs = zip(self.parts, other.explicit().parts, strict=True)
        return Explicit(tuple((slot, rows + more) for (slot, rows), (_, more) in pairs))

    def explicit(self) -> Explicit:
        """See `Piece.explicit`."""
        return self


@dataclass(frozen=True)
class Parts:
    """Gradients of some owners in one form, of others in another."""

    parts: tuple[tuple[Tensor, Piece], ...]  # whose, int64 [m], and their gradients
    count: int

    @property
    def slots(self) -> tuple[Slot, ...]:
        """See `Piece.slots`."""
        return self.parts[0][1].slots

    @property
    def records(self) -> int:
        """See `Piece.records`."""
        return self.count

    def squared_norms(self) -> Tensor:
        """See `Piece.squared_norms`."""
        who = torch.cat([who for who, _ in self.parts])
        norms = torch.cat([piece.squared_norms() for _, piece in self.parts])
        return torch.empty_like(norms).index_copy_(0, who, norms)

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """See `Piece.add`."""
        for who, piece in self.parts:
            piece.add(factors[who], flat)

    def of_owners(self, regroup: Regroup) -> Piece:
        """See `Piece.of_owners`; owners have no owners."""
        return self.explicit().of_owners(regroup)

    def joined(self, other: Piece) -> Piece:
        """See `Piece.joined`."""
        return self.explicit().joined(other)

    def explicit(self) -> Explicit:
        """See `Piece.explicit`."""
        who = torch.cat([who for who, _ in self.parts])
        written = [piece.explicit().parts for _, piece in self.parts]
        rows = [torch.cat([parts[number][1] for parts in written]) for number in range(len(written[0]))]
        slots = [slot for slot, _ in written[0]]
        return Explicit(
            tuple((slot, torch.empty_like(r).index_copy_(0, who, r)) for slot, r in zip(slots, rows, strict=True))
        )


def of_positions(weights: tuple[tuple[Slot, Tensor], ...], biases: tuple[Slot, ...], g: Tensor) -> Piece:
    """A product in its smallest form: with many positions, the sum over them.

    Args:
        weights, biases, g: of `Product`, with positions.
    """
    positions = g.shape[1]
    if positions == 1:
        return Product(tuple((slot, a[:, 0]) for slot, a in weights), biases, g[:, 0])
    product = Product(weights, biases, g)
    size = sum(slot.numel for slot, _ in weights)
    return product if 2 * positions**2 <= size else product.explicit()
