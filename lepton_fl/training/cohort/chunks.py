"""A chunk of institutions side by side: their batches padded to one size, and masks that make padding nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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

    def to(self, device: torch.device) -> Records:
        """The same on that device."""
        return Records(self.features.to(device), self.labels.to(device), self.shares.to(device), self.sizes)


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

    def of_steps(self, steps: int) -> list[float]:
        """How much of a gradient of each of these steps is taken off the values after the last one."""
        return [self.rate * self.keep ** (steps - 1 - number) for number in range(steps)]


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


class Room:
    """Memory that is used again: the system's price for new pages is that of a pass over them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._held = torch.empty(0, dtype=dtype)

    def of(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """A tensor of that shape, whatever is in it; what was given before may lie there."""
        numbers = math.prod(shape)
        if self._held.numel() < numbers or self._held.device != device:
            self._held = torch.empty(numbers, dtype=self._held.dtype, device=device)
        return self._held[:numbers].view(*shape)


@dataclass(frozen=True)
class Drawn:
    """One member's batches of a round."""

    examples: Examples
    places: Tensor  # int64: the positions in its batches, one after another
    sizes: Sequence[int]  # records of each batch
    gain: float  # by which a record's weight is multiplied


class AllSteps:
    """Gathers every member's batches of a round; what pads them is a record of their own that counts nothing."""

    def __init__(self) -> None:
        self._rooms = (Room(torch.float32), Room(torch.int64))
        self._fitting: tuple[object, Records] | None = None

    def gathered(self, members: Sequence[Drawn], device: torch.device) -> Records:
        """The records of members that have as many batches each; valid until the next call."""
        found = self._room(members)
        long = len(found.labels[0])
        for one, features, labels in zip(members, found.features, found.labels, strict=True):
            places = one.places if len(one.places) == long else _padded(one, found.sizes)
            torch.index_select(one.examples.features, 0, places, out=features)
            torch.index_select(one.examples.labels, 0, places, out=labels)
        if any(one.examples.weights is not None for one in members):
            found = replace(found, shares=found.shares * _weights(members, found))
        return found if device.type == "cpu" else found.to(device)

    def _room(self, members: Sequence[Drawn]) -> Records:
        """Room for them, with the shares of records that all weigh 1; made once for chunks that are alike."""
        first = members[0].examples.features
        kind = (first.shape[1:], [one.sizes for one in members])
        if self._fitting is None or self._fitting[0] != kind:
            counts, here = torch.tensor(kind[1]), torch.device("cpu")
            sizes: list[int] = counts.amax(0).tolist()
            rows = (len(members), sum(sizes))
            features = self._rooms[0].of((*rows, *first.shape[1:]), here)
            records = Records(features, self._rooms[1].of(rows, here), _shares(counts, sizes), sizes)
            self._fitting = (kind, records)
        return self._fitting[1]


def _shares(counts: Tensor, sizes: Sequence[int]) -> Tensor:
    """Of each record's loss in its step; counts are int64 [members, steps]."""
    # Which of its step's records each is, and how many there are of each member.
    place = torch.cat([torch.arange(size) for size in sizes])
    own = counts.repeat_interleave(torch.tensor(sizes), dim=1)
    return torch.where(place < own, 1.0 / own, 0.0)


def _weights(members: Sequence[Drawn], records: Records) -> Tensor:
    """Float32 [members, records]."""
    weights = torch.ones(records.labels.shape)
    for row, one in enumerate(members):
        if one.examples.weights is not None:
            weights[row] = one.gain * one.examples.weights.index_select(0, _padded(one, records.sizes))
    return weights


def _padded(one: Drawn, sizes: Sequence[int]) -> Tensor:
    """One member's positions, each step's followed by as many of its first record as pad it."""
    parts = []
    for places, size in zip(one.places.split(list(one.sizes)), sizes, strict=True):
        parts += [places, places[:1].expand(size - len(places))]
    return torch.cat(parts)
