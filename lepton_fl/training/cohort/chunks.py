"""A chunk of institutions side by side: their batches padded to one size, and masks that make padding nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.training.examples import Examples


@dataclass(frozen=True)
class Batch:
    """One batch of each member, [members, records, ...]; what is beyond a member's own records is zero."""

    features: Tensor  # float32
    labels: Tensor  # int64
    counts: Tensor  # float32 [members], each member's own records
    present: Tensor  # float32 [members, records], 1 for a record and 0 for padding
    weights: Tensor | None  # float64 [members, records]; None: all 1

    def to(self, device: torch.device) -> Batch:
        """The same on that device."""
        return Batch(
            self.features.to(device),
            self.labels.to(device),
            self.counts.to(device),
            self.present.to(device),
            None if self.weights is None else self.weights.to(device),
        )


@dataclass(frozen=True)
class Records:
    """All steps' batches of all members, one after another; padding counts nothing."""

    features: Tensor  # float32 [members, records, ...]
    labels: Tensor  # int64 [members, records]
    shares: Tensor  # float32 [members, records]: of a record's loss in its step; 0 for padding
    sizes: Sequence[int]  # records of each step


@dataclass(frozen=True)
class Descent:
    """SGD without memory: w = keep * w + back * start - rate * gradient."""

    rate: float
    keep: float
    back: float

    def of_start(self, steps: int) -> float:
        """How much of the start is in the values after so many steps."""
        share = 1.0
        for _ in range(steps):
            share = self.keep * share + self.back
        return share

    def of_steps(self, sizes: Sequence[int]) -> Tensor:
        """How much of each record's gradient is taken off the values after these steps, float32 [records]."""
        last = len(sizes) - 1
        shares = [self.rate * self.keep ** (last - number) for number in range(len(sizes))]
        return torch.tensor(shares).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))


class Gathering:
    """Fills batches from members' records, in memory that is used again for the next batch."""

    def __init__(self, members: Sequence[Examples], device: torch.device) -> None:
        self._members, self._device = members, device
        self._is_weighed = any(one.weights is not None for one in members)
        self._features = torch.empty(0)
        self._labels = torch.empty(0, dtype=torch.int64)

    def batch(self, index: Sequence[Tensor]) -> Batch:
        """The records at these positions, of each member; valid until the next call."""
        counts = [len(one) for one in index]
        shape = (len(index), max(counts))
        features, labels = self._room(shape)
        weights = torch.ones(shape, dtype=torch.float64) if self._is_weighed else None
        for row, (examples, places, count) in enumerate(zip(self._members, index, counts, strict=True)):
            torch.index_select(examples.features, 0, places, out=features[row, :count])
            torch.index_select(examples.labels, 0, places, out=labels[row, :count])
            if count < shape[1]:
                features[row, count:] = 0
                labels[row, count:] = 0
            if weights is not None and examples.weights is not None:
                weights[row, :count] = examples.weights.index_select(0, places)
        own = torch.tensor(counts, dtype=torch.float32)
        present = (torch.arange(shape[1]) < own[:, None]).to(torch.float32)
        batch = Batch(features, labels, own, present, weights)
        return batch if self._device.type == "cpu" else batch.to(self._device)

    def _room(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        of_one = self._members[0].features.shape[1:]
        numbers = shape[0] * shape[1]
        if len(self._labels) < numbers:
            self._features = torch.empty(numbers, *of_one, dtype=self._members[0].features.dtype)
            self._labels = torch.empty(numbers, dtype=torch.int64)
        return self._features[:numbers].view(*shape, *of_one), self._labels[:numbers].view(shape)


def side_by_side(draws: Sequence[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """The first batch of every member, then the second of those that have one, and so on; empty where one has none.

    Args:
        draws: of each member, the positions in each of its physical batches.
    """
    nothing = torch.empty(0, dtype=torch.int64)
    for number in range(max(map(len, draws), default=0)):
        yield [one[number] if number < len(one) else nothing for one in draws]


def all_steps(
    members: Sequence[Examples], index: Sequence[Sequence[Tensor]], gains: Tensor, device: torch.device
) -> Records:
    """Every member's batches of a round; what pads them is a record of their own that counts nothing.

    Args:
        index: of each member, the positions in each of its batches; as many batches for all.
        gains: float64 [members, 1], by which a record's weight is multiplied.
    """
    counts = torch.tensor([[len(one) for one in steps] for steps in index])
    sizes: list[int] = counts.amax(0).tolist()
    rows = (len(members), sum(sizes))
    features = torch.empty(*rows, *members[0].features.shape[1:], dtype=members[0].features.dtype)
    labels = torch.empty(rows, dtype=torch.int64)
    weights = torch.ones(rows)
    for row, (examples, steps) in enumerate(zip(members, index, strict=True)):
        places = _padded(steps, sizes)
        torch.index_select(examples.features, 0, places, out=features[row])
        torch.index_select(examples.labels, 0, places, out=labels[row])
        if examples.weights is not None:
            weights[row] = (gains[row].cpu() * examples.weights.index_select(0, places)).to(torch.float32)
    each = torch.tensor(sizes)
    # Which of its step's records each is, and how many there are of each member.
    place = torch.cat([torch.arange(size) for size in sizes])
    own = counts.repeat_interleave(each, dim=1)
    shares = torch.where(place < own, weights / own, 0.0)
    return Records(features.to(device), labels.to(device), shares.to(device), sizes)


def _padded(steps: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """One member's positions, each step's followed by as many of its first record as pad it."""
    parts = []
    for one, size in zip(steps, sizes, strict=True):
        parts += [one] if len(one) == size else [one, one[:1].expand(size - len(one))]
    return torch.cat(parts)
