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

from lepton_fl.privacy.noise import clip_target, release
from lepton_fl.training.bookkeeping.portions import MOST
from lepton_fl.training.cohort.chunks import AllSteps, Batch, Descent, Drawn, Gathering, Records, side_by_side
from lepton_fl.training.cohort.executor import Executor, Member, Outcome, Summed, Trained, Work, flat_state
from lepton_fl.training.cohort.steps import Rooms, Steps, descent_of
from lepton_fl.training.device import device_of, full_precision
from lepton_fl.training.examples import Examples
from lepton_fl.training.plain import batches, first_batches, sizes_of_batches
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

    def clipped(self, values: Tensor, batch: Batch, target: float, rows: Sequence[Tensor]) -> Iterator[int]:
        """Each member whose row, float32 [d], is its sum, clipped and weighed as by `clipped_sum.ClippedSum.add`.

        Rows may share memory: one is written when its member is asked for. Values of members told of may change.
        """


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

    def summed(
        self, values: Sequence[Tensor], records: Records, descent: Descent, weights: Sequence[int]
    ) -> Tensor | None:
        """See `factored.Factored.summed`."""


@dataclass(frozen=True)
class _Chunk:
    """Members that are trained together, their records weighed."""

    members: Sequence[Member]
    examples: Sequence[Examples]
    gains: Sequence[float]  # of each member, by which its records' weights are multiplied
    device: torch.device  # where it is computed


class Together:
    """See `executor.Executor`; one call of `train` is one chunk."""

    def __init__(self, work: Work, gradients: Callable[[nn.Module], Gradients], one_by_one: Executor) -> None:
        self._work, self._of, self._one_by_one = work, gradients, one_by_one
        self._gradients: Gradients | None = None
        self._all_steps, self._rooms = AllSteps(), Rooms()

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
        device = device_of(start)
        with full_precision(device):
            chunk = _chunk(members, device)
            summed = self._summed(self._gradients, chunk, start)
            if summed is not None:
                return [summed]
            program = (self._work.training, members[0].task)
            steps = Steps(flat_state(start).to(device), self._rooms, len(members), program)
            if self._work.mechanism is None:
                losses: list[float | None] = [*self._plainly(self._gradients, chunk, steps)]
            else:
                self._privately(self._gradients, self._work.mechanism, chunk, steps)
                losses = [None] * len(members)
        return [Trained(row, loss) for row, loss in zip(steps.values.cpu(), losses, strict=True)]

    def _summed(self, gradients: Gradients, chunk: _Chunk, start: nn.Module) -> Summed | None:
        """The sum of the members' updates, where nobody needs a single one and it is cheaper so."""
        weights = [member.weight for member in chunk.members if member.weight is not None]
        if self._work.mechanism is not None or len(weights) < len(chunk.members) or not isinstance(gradients, Summing):
            return None
        training, examples = self._work.training, chunk.examples
        descent = descent_of(training, chunk.members[0].task)
        if descent is None or not all(map(len, examples)):
            return None
        sizes = [sizes_of_batches(len(one), training.sampling_rate, training.local_steps) for one in examples]
        if not gradients.is_worth_summing(sum(map(max, zip(*sizes, strict=True)))):
            return None
        drawn = [
            Drawn(one, self._first_batches(len(one), member), own, longer)
            for one, member, own, longer in zip(examples, chunk.members, sizes, chunk.gains, strict=True)
        ]
        records = self._all_steps.gathered(drawn, chunk.device)
        # All values of its state are parameters, or it could not be summed.
        total = gradients.summed([*start.parameters()], records, descent, weights)
        return None if total is None else Summed(len(weights), sum(weights), total.cpu())

    def _first_batches(self, records: int, member: Member) -> Tensor:
        training, stream = self._work.training, member.task.randomness.stream("batches")
        return first_batches(records, training.sampling_rate, training.local_steps, stream)

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
        gathering = Gathering(chunk.examples, chunk.device)
        gains = torch.tensor(chunk.gains, dtype=torch.float64, device=chunk.device)[:, None]
        losses, seen = (torch.zeros(len(orders), dtype=torch.float64) for _ in range(2))
        for _ in range(training.local_steps):
            batch = gathering.batch([next(order) for order in orders])
            shares = batch.present / batch.counts[:, None]
            if batch.weights is not None:
                shares = shares * (gains * batch.weights).to(torch.float32)
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
        target = clip_target(mechanism.clipping_norm, mechanism.stddev, len(steps.start))
        gains = [longer / mechanism.expected_batch for longer in chunk.gains]
        gathering = Gathering(chunk.examples, chunk.device)
        for _ in range(training.local_steps):
            parts = [
                [part.index for part in _drawn(one, draw, mechanism, training.physical_batch)]
                for one, draw in zip(chunk.examples, draws, strict=True)
            ]
            for row, total in _clipped_sums(gradients, steps, (gathering, parts), target):
                release(total, mechanism.stddev, draws[row].noise, *steps.released(row, gains[row]))
            steps.taken()


def _chunk(members: Sequence[Member], device: torch.device) -> _Chunk:
    tasks = [member.task for member in members]
    if len({(task.round, task.proximal_mu) for task in tasks}) != 1:
        raise ValueError("members of one chunk are told the same")
    examples = [weighted(member.examples, member.task.weights) for member in members]
    return _Chunk(members, examples, [gain(task.weights) for task in tasks], device)


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
) -> Iterator[tuple[int, Tensor]]:
    """Each member and its sum over its draw, [d]: float32 of one part, float64 of several."""
    gathering, parts = drawn
    batches_of_all = list(side_by_side(parts))
    if len(batches_of_all) == 1:
        rows = steps.rows()
        for row in gradients.clipped(steps.values, gathering.batch(batches_of_all[0]), target, rows):
            yield row, rows[row]
        return
    total = torch.zeros(len(parts), len(steps.start), dtype=torch.float64, device=steps.start.device)
    for index in batches_of_all:
        rows = steps.rows()
        for row in gradients.clipped(steps.values, gathering.batch(index), target, rows):
            total[row] += rows[row]
    yield from enumerate(total.unbind())
