"""A dense layer of many institutions whose updates are summed up: with its weights written down, or without.

Source: see `factored`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.cohort import products
from lepton_fl.training.cohort.chunks import Descent, Room
from lepton_fl.training.cohort.layers import Dense
from lepton_fl.training.cohort.walk import Memory
from lepton_fl.training.flat import Slot

LARGEST = 1e5  # no value is near what a reply's check refuses


@dataclass(frozen=True)
class Start:
    """What a round starts from, and how it goes on."""

    values: Mapping[int, Tensor]  # by where they lie in the vector of all values
    descent: Descent

    def of(self, slot: Slot) -> Tensor:
        """The values of a slot."""
        return self.values[slot.start]


@dataclass(frozen=True)
class Stand:
    """Where the values are before a step."""

    of_start: float  # how much of the start is in them
    taken: float | Tensor  # how much of each earlier record's gradient is taken off them


@dataclass(frozen=True)
class Walk:
    """All steps of a round."""

    of_start: float  # how much of the start is in the values after them
    taken: Sequence[float]  # how much of each step's gradient is taken off them
    sizes: Sequence[int]  # records of each step


@dataclass(frozen=True)
class Counted:
    """What makes a sum of updates."""

    members: float | Tensor  # what each member's update counts: all alike, or float32 [members]
    of_start: float  # how often the start is in it
    of_records: float | Tensor  # how often each record's gradient is: all alike, or [members * records]


@dataclass(frozen=True)
class _Part:
    """A step's part of what is held of all steps, as views."""

    now: Tensor  # [members, records, ...]
    before: Tensor


def _parts(held: Tensor, steps: Sequence[slice]) -> list[_Part]:
    return [_Part(held[:, now], held[:, : now.start]) for now in steps]


class Unwritten:
    """By its inputs and scaled output gradients of the steps so far."""

    def __init__(self, layer: Dense) -> None:
        self._layer = layer
        self.inputs = self._slopes = self._weight = torch.empty(0)
        self._bias: Tensor | None = None
        self._seen: list[_Part] = []
        self._taken: list[_Part] = []
        self._rooms = [Room(torch.float32) for _ in range(3)]

    def fit(self, rows: Sequence[int], steps: Sequence[slice], device: torch.device) -> None:
        """There is room for so many members' records."""
        self._slopes = self._rooms[0].of((*rows, self._layer.weight.shape[0]), device)
        self._taken = _parts(self._slopes, steps)

    def see(self, steps: Sequence[slice], inputs: Tensor | None = None) -> None:
        """The inputs of all steps lie there; None: there is room for them."""
        rows = (*self._slopes.shape[:2], self._layer.weight.shape[1])
        self.inputs = self._rooms[1].of(rows, self._slopes.device) if inputs is None else inputs
        self._seen = _parts(self.inputs, steps)

    def begin(self, start: Start) -> None:
        """A round begins."""
        self._weight = start.of(self._layer.weight)
        self._bias = None if self._layer.bias is None else start.of(self._layer.bias)

    def of_start(self, x: Tensor) -> Tensor:
        """What the start makes of records."""
        return times_transposed(x.flatten(0, 1), self._weight, self._bias).view(*x.shape[:2], -1)

    def forward(self, x: Tensor, step: int, at: Stand) -> Tensor:
        """This step's outputs."""
        self._seen[step].now.copy_(x)
        return self.corrected(self.of_start(x), step, at)

    def corrected(self, made: Tensor, step: int, at: Stand) -> Tensor:
        """What the start made of this step's inputs, less what earlier records took off by their likeness."""
        if not step:
            return made
        seen = self._seen[step]
        likeness = products.times_transposed(seen.now, seen.before, more=0.0 if self._bias is None else 1.0)
        return _less(made, likeness, self._taken[step].before, at)

    def backward(self, g: Tensor, step: int, at: Stand) -> Tensor:
        """The gradient by this step's inputs."""
        below = times_transposed(g.flatten(0, 1), self._weight.t()).view(*g.shape[:2], -1)
        if not step:
            return below
        likeness = products.times_transposed(g, self._taken[step].before)
        return _less(below, likeness, self._seen[step].before, at)

    def descend(self, g: Tensor, step: int) -> None:
        """This step is taken along its scaled output gradients."""
        self._taken[step].now.copy_(g)

    def walked(self) -> Memory:
        """What is held of it, once members were walked."""
        return Memory(self._weight, self._bias, self.inputs, self._slopes, None, None)

    def squares(self) -> Sequence[float]:
        """The squares of all inputs, and of all scaled output gradients, added up."""
        return square(self.inputs), square(self._slopes)

    def is_in_range(self, walk: Walk, squares: Sequence[float]) -> bool:
        """Whether no value of any member can be what a reply's check refuses; NaN is."""
        # Norms are the cheaper look, and a bound that is hardly ever missed: Cauchy and Schwarz over the records. A
        # bias has an input of 1.
        start = [self._weight] if self._bias is None else [self._weight, self._bias]
        norms = squares[1] * max(squares[0], float(self.inputs.shape[1]))
        before = abs(walk.of_start) * math.sqrt(sum(map(square, start)))
        if before + max(map(abs, walk.taken)) * math.sqrt(norms) <= LARGEST:
            return True
        of_all = sum(abs(share) * size for share, size in zip(walk.taken, walk.sizes, strict=True))
        moved = _largest(self._slopes) * _largest(self.inputs).clamp(min=1.0) * of_all
        return all(bool(_largest(one) * abs(walk.of_start) + moved <= LARGEST) for one in start)

    def write_to(self, total: Tensor, counted: Counted) -> None:
        """Its part of the sum."""
        slopes, inputs = self._slopes.flatten(0, 1), self.inputs.flatten(0, 1)
        if products.are_faster(slopes, inputs, self._weight):
            self._add_to(total, counted, slopes, inputs)
            return
        # By rows, as the product wants them.
        g = self._rooms[2].of((slopes.shape[1], len(slopes)), slopes.device)
        torch.mul(slopes.t(), counted.of_records, out=g)
        parts = [(self._layer.weight, self._weight, times_transposed(g, inputs.t()))]
        if self._layer.bias is not None and self._bias is not None:
            parts.append((self._layer.bias, self._bias, g.sum(1)))
        for slot, start, made in parts:
            if counted.of_start:
                torch.add(made, start, alpha=counted.of_start, out=slot.of(total))
            else:
                slot.of(total).copy_(made)

    def _add_to(self, total: Tensor, counted: Counted, slopes: Tensor, inputs: Tensor) -> None:
        """As `write_to`, with nothing between the product and the sum; the slopes may be changed."""
        scale = counted.of_records
        if not isinstance(scale, float):
            slopes, scale = slopes.mul_(scale[:, None]), 1.0
        out, factors = self._layer.weight.of(total)[None], (slopes.t()[None], inputs[None])
        products.add_product(out, *factors, counted.of_start, scale, self._weight[None])
        if self._layer.bias is not None and self._bias is not None:
            torch.add(self._bias * counted.of_start, slopes.sum(0), alpha=scale, out=self._layer.bias.of(total))


class Written:
    """By the weights of each member: for a layer that has fewer of them than its records have inputs and outputs."""

    def __init__(self, layer: Dense) -> None:
        self._slots = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        self._start: list[Tensor] = []  # weights [out, in], biases [out, 1]
        self._values: list[Tensor] = []  # [members, out, in], [members, out, 1]
        self._held: list[Tensor] = []
        self._x = torch.empty(0)
        self._descent = Descent(0.0, 1.0, 0.0)
        self._room = Room(torch.float32)

    def fit(self, rows: Sequence[int], steps: Sequence[slice], device: torch.device) -> None:
        """There is room for so many members."""
        shapes = [(rows[0], slot.shape[0], slot.numel // slot.shape[0]) for slot in self._slots]
        held = self._room.of((sum(map(math.prod, shapes)),), device).split([math.prod(one) for one in shapes])
        self._held = [one.view(shape) for one, shape in zip(held, shapes, strict=True)]

    def begin(self, start: Start) -> None:
        """A round begins."""
        self._start = [start.of(slot).view(slot.shape[0], -1) for slot in self._slots]
        self._values = [one.expand_as(held) for one, held in zip(self._start, self._held, strict=True)]
        self._descent = start.descent

    def forward(self, x: Tensor, step: int, at: Stand) -> Tensor:
        """This step's outputs."""
        self._x = x
        weight, *bias = self._values
        # Side by side, as `losses.slopes_of` wants them.
        out = torch.empty(len(x), weight.shape[1], x.shape[1], device=x.device).transpose(1, 2)
        return products.times_transposed(x, weight, bias[0].squeeze(2) if bias else None, out=out)

    def backward(self, g: Tensor, step: int, at: Stand) -> Tensor:
        """The gradient by this step's inputs."""
        return products.times(g, self._values[0])

    def descend(self, g: Tensor, step: int) -> None:
        """This step is taken along its scaled output gradients."""
        across, descent = g.transpose(1, 2), self._descent
        (weight, *bias), (before, *bias_before) = self._held, self._values
        products.add_product(weight, across, self._x, descent.keep, -descent.rate, before)
        if bias:
            torch.add(bias_before[0] * descent.keep, across.sum(2, keepdim=True), alpha=-descent.rate, out=bias[0])
        if descent.back:
            for held, start in zip(self._held, self._start, strict=True):
                held.add_(start, alpha=descent.back)
        self._values = self._held

    def walked(self) -> Memory:
        """What is held of it, once members were walked."""
        (weight, *bias), (own, *own_bias) = self._start, self._held
        return Memory(weight, bias[0] if bias else None, None, None, own, own_bias[0] if own_bias else None)

    def squares(self) -> Sequence[float]:
        """Nothing that its range would need."""
        return ()

    def is_in_range(self, walk: Walk, squares: Sequence[float]) -> bool:
        """Whether no value of any member is out of range; NaN is."""
        return all(square(one) <= LARGEST**2 or bool(_largest(one) <= LARGEST) for one in self._held)

    def write_to(self, total: Tensor, counted: Counted) -> None:
        """Its part of the sum; the values are changed."""
        for slot, held, start in zip(self._slots, self._held, self._start, strict=True):
            moved, part = held.sub_(start).flatten(1), slot.of(total).view(-1)
            if isinstance(counted.members, float):
                torch.sum(moved, 0, out=part).mul_(counted.members)
            else:
                torch.mv(moved.t(), counted.members, out=part)


def _less(made: Tensor, likeness: Tensor, earlier: Tensor, at: Stand) -> Tensor:
    """What the start made, less what earlier records took off by their likeness; both may be changed."""
    taken = 1.0
    if isinstance(at.taken, float):
        taken = at.taken
    else:
        likeness.mul_(at.taken)
    return products.add_product(made, likeness, earlier, at.of_start, -taken)


def square(values: Tensor) -> float:
    """The sum of all values' squares; as cheap a look at each of them as there is."""
    flat = values.reshape(-1)
    return float(torch.dot(flat, flat))


def _largest(values: Tensor) -> Tensor:
    least, most = values.aminmax()
    return torch.maximum(-least, most)
