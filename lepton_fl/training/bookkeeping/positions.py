"""Positions of records, n and T of them, in the orders that they are multiplied in."""

from __future__ import annotations

from torch import Tensor


class Rows:
    """Positions of all records as rows, in the order that they lie in memory: recurrent layers put positions first."""

    def __init__(self, like: Tensor) -> None:
        self._positions = like.shape[1] if like.dim() == 3 else 1
        self._turned = like.dim() == 3 and not like.is_contiguous() and like.transpose(0, 1).is_contiguous()

    def of(self, tensor: Tensor) -> Tensor:
        """[n, T, size] or [n, size] to rows [n * T, size]."""
        return (tensor.transpose(0, 1) if self._turned else tensor).flatten(0, -2)

    def each(self, factors: Tensor) -> Tensor:
        """Numbers of records [n] to those of their rows [n * T]."""
        return factors.repeat(self._positions) if self._turned else factors.repeat_interleave(self._positions)


def with_positions(tensor: Tensor) -> Tensor:
    """[n, size] as one position, [n, 1, size]; [n, T, size] as it is."""
    return tensor if tensor.dim() == 3 else tensor[:, None]


def positions_of(tensor: Tensor, records: Tensor) -> Tensor:
    """Rows of several records in a row: [n, T, size] and int64 [m, records] to [m, records * T, size]."""
    return with_positions(tensor).index_select(0, records.flatten()).view(len(records), -1, tensor.shape[-1])
