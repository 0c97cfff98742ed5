"""A chunk of institutions in step: the program of `training.plain` and `training.private`, over stacked values.

Every member has its own batches, draws and noise, from the same streams as by itself. Where a chunk cannot be trained
so, its members are trained one by one: a member that is at fault fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lepton_fl.privacy.noise import clip_target, grid_step, noised_steps
from lepton_fl.training.bookkeeping.portions import MOST
from lepton_fl.training.cohort.chunks import Batch, Descent, Gathering, Records, all_steps, side_by_side
from lepton_fl.training.cohort.executor import Executor, Member, Outcome, Summed, Trained, Work, flat_state
from lepton_fl.training.cohort.steps import Steps, descent_of
from lepton_fl.training.device import device_of, full_precision
from lepton_fl.training.examples import Examples
from lepton_fl.training.plain import batches
from lepton_fl.training.private import Draws, Mechanism
from lepton_fl.training.subjects import Part, drawn_records
from lepton_fl.training.weights import gain, weighted

_log = logging.getLogger(__name__)


class Gradients(Protocol):
    """A model's gradients where each member has values of its own.

    `values` are [d] while all members have the same, else [members, d]; `out` is float32 [members, d].
    """

    def plain(self, values: Tensor, batch: Batch, shares: Tensor, out: Tensor) -> Tensor:
        """`out` = each member's gradient of the sum of shares * loss; returns the losses [members, records]."""

    def clipped(self, values: Tensor, batch: Batch, target: float, out: Tensor) -> None:
        """`out` = each member's sum of gradients, clipped and weighed as by `clipped_sum.ClippedSum.add`."""


@runtime_checkable
class Descending(Protocol):
    """Gradients that can be walked down without being written anywhere."""

    def descend(self, values: Tensor, batch: Batch, shares: Tensor, descent: Descent, out: Tensor) -> Tensor:
        """out = keep * values - rate * gradient; returns the losses."""


@runtime_checkable
class Summing(Protocol):
    """Gradients whose sum over the members is cheaper than single ones."""

    def is_worth_summing(self, records: int) -> bool:
        """Whether it is, for members of so many records in all steps."""

    def summed(self, start: Tensor, records: Records, descent: Descent, weights: Tensor) -> Tensor | None:
        """See `factored.summed`."""


@dataclass(frozen=True)
class _Chunk:
    """Members that are trained together, their records weighed."""

    members: Sequence[Member]
    examples: Sequence[Examples]
    gains: Tensor  # float64 [members, 1]
    start: Tensor  # float32 [d], where it is computed


class Together:
    """See `executor.Executor`; one call of `train` is one chunk."""

    def __init__(self, work: Work, gradients: Callable[[nn.Module], Gradients], one_by_one: Executor) -> None:
        self._work, self._of, self._one_by_one = work, gradients, one_by_one
        self._gradients: Gradients | None = None
        self._rooms: tuple[Tensor, Tensor] | None = None

    def train(self, start: nn.Module, members: Sequence[Member]) -> Iterator[Outcome]:
        """See `Executor.train`."""
        try:
            done = self.train_together(start, members)
        except Exception as error:
            # Nothing of it was told anybody; who is at fault comes out when each one trains alone.
            _log.warning("a chunk of %d is trained one by one: %s", len(members), type(error).__name__)
            yield from self._one_by_one.train(start, members)
            return
        yield from done

    @torch.no_grad()
    def train_together(self, start: nn.Module, members: Sequence[Member]) -> list[Outcome]:
        """As `train`; raises whatever keeps this chunk from being trained together."""
        if self._gradients is None:
            self._gradients = self._of(start)
        with full_precision(device_of(start)):
            chunk = _chunk(start, members)
            summed = self._summed(self._gradients, chunk)
            if summed is not None:
                return [summed]
            steps = Steps(chunk.start, self._room(chunk), self._work.training, members[0].task)
            if self._work.mechanism is None:
                losses: list[float | None] = [*self._plainly(self._gradients, chunk, steps)]
            else:
                self._privately(self._gradients, self._work.mechanism, chunk, steps)
                losses = [None] * len(members)
        return [Trained(row, loss) for row, loss in zip(steps.values.cpu(), losses, strict=True)]

    def _summed(self, gradients: Gradients, chunk: _Chunk) -> Summed | None:
        """The sum of the members' updates, where nobody needs a single one and it is cheaper so."""
        weights = [member.weight for member in chunk.members if member.weight is not None]
        if self._work.mechanism is not None or len(weights) < len(chunk.members) or not isinstance(gradients, Summing):
            return None
        descent = descent_of(self._work.training, chunk.members[0].task)
        if descent is None or not all(map(len, chunk.examples)):
            return None
        orders = self._orders(chunk)
        index = [[next(order) for _ in range(self._work.training.local_steps)] for order in orders]
        records = all_steps(chunk.examples, index, chunk.gains, chunk.start.device)
        if not gradients.is_worth_summing(records.labels.shape[1]):
            return None
        total = gradients.summed(chunk.start, records, descent, torch.tensor(weights, dtype=torch.float32))
        return None if total is None else Summed(len(weights), sum(weights), total.cpu())

    def _orders(self, chunk: _Chunk) -> list[Iterator[Tensor]]:
        """The members' batches without privacy, as positions."""
        return [
            batches(len(one), self._work.training.sampling_rate, member.task.randomness.stream("batches"))
            for one, member in zip(chunk.examples, chunk.members, strict=True)
        ]

    def _plainly(self, gradients: Gradients, chunk: _Chunk, steps: Steps) -> list[float]:
        training = self._work.training
        if not all(map(len, chunk.examples)):
            raise ValueError("an institution has no records, and fails by itself")
        orders = self._orders(chunk)
        gathering = Gathering(chunk.examples, chunk.start.device)
        losses, seen = (torch.zeros(len(orders), dtype=torch.float64) for _ in range(2))
        for _ in range(training.local_steps):
            batch = gathering.batch([next(order) for order in orders])
            shares = batch.present / batch.counts[:, None]
            if batch.weights is not None:
                shares = shares * (chunk.gains * batch.weights).to(torch.float32)
            found = _step(gradients, steps, batch, shares)
            losses += torch.where(batch.present > 0, found, 0.0).sum(1, dtype=torch.float64).cpu()
            seen += batch.counts.cpu()
        means: list[float] = (losses / seen).tolist()
        return means

    def _privately(self, gradients: Gradients, mechanism: Mechanism, chunk: _Chunk, steps: Steps) -> None:
        training = self._work.training
        draws = [
            Draws(one.task.randomness.stream("sampling"), one.task.randomness.stream("noise")) for one in chunk.members
        ]
        target = clip_target(mechanism.clipping_norm, mechanism.stddev, len(chunk.start))
        gathering = Gathering(chunk.examples, chunk.start.device)
        for _ in range(training.local_steps):
            parts = [
                [part.index for part in _drawn(one, draw, mechanism, training.physical_batch)]
                for one, draw in zip(chunk.examples, draws, strict=True)
            ]
            total = _clipped_sums(gradients, steps, (gathering, parts), target)
            for row, (draw, longer) in enumerate(zip(draws, chunk.gains.flatten().tolist(), strict=True)):
                scale = longer / mechanism.expected_batch * grid_step(mechanism.stddev)
                # A part of the sum is read before the gradient, which may lie in the same memory, is written there.
                for place, numbers in noised_steps(total[row], mechanism.stddev, draw.noise):
                    steps.take_part(row, place, numbers, scale)
            steps.taken()

    def _room(self, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        """Memory for [members, d], twice, that is used again: the system's price for new pages is that of a step."""
        shape = (len(chunk.members), len(chunk.start))
        if self._rooms is None or len(self._rooms[0]) < shape[0]:
            self._rooms = (torch.empty(shape, device=chunk.start.device), torch.empty(shape, device=chunk.start.device))
        return self._rooms[0][: shape[0]], self._rooms[1][: shape[0]]


def _chunk(start: nn.Module, members: Sequence[Member]) -> _Chunk:
    tasks = [member.task for member in members]
    if len({(task.round, task.proximal_mu) for task in tasks}) != 1:
        raise ValueError("members of one chunk are told the same")
    gains = torch.tensor([[gain(task.weights)] for task in tasks], dtype=torch.float64)
    examples = [weighted(member.examples, member.task.weights) for member in members]
    return _Chunk(members, examples, gains.to(device_of(start)), flat_state(start).to(device_of(start)))


def _step(gradients: Gradients, steps: Steps, batch: Batch, shares: Tensor) -> Tensor:
    """One step without privacy; returns the losses [members, records]."""
    if steps.descent is not None and isinstance(gradients, Descending):
        losses = gradients.descend(steps.values, batch, shares, steps.descent, steps.descending())
        steps.descended()
        return losses
    losses = gradients.plain(steps.values, batch, shares, steps.gradient)
    steps.take()
    return losses


def _drawn(examples: Examples, draws: Draws, mechanism: Mechanism, physical_batch: int) -> Iterator[Part]:
    # What one part adds up in float32 is what one portion of an engine does; parts are added up in float64.
    return drawn_records(len(examples), mechanism.sampling_rate, draws.sampling, min(physical_batch, MOST))


def _clipped_sums(
    gradients: Gradients, steps: Steps, drawn: tuple[Gathering, Sequence[Sequence[Tensor]]], target: float
) -> Tensor:
    """Each member's sum over its draw: float32 of one part, float64 of several; [members, d]."""
    gathering, parts = drawn
    several, total = max(map(len, parts)) > 1, None
    for index in side_by_side(parts):
        gradients.clipped(steps.values, gathering.batch(index), target, steps.gradient)
        if several:
            total = steps.gradient.to(torch.float64) if total is None else total.add_(steps.gradient)
    if not any(map(len, parts)):
        steps.gradient.zero_()
    return steps.gradient if total is None else total
