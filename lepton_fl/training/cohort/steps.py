"""The optimizer of a chunk: one torch optimizer over stacked values, since it looks at single numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lepton_fl.privacy.noise import Onto
from lepton_fl.training.cohort.chunks import Descent, Room
from lepton_fl.training.local import LocalTask
from lepton_fl.training.settings import SGD, Training


class _Stacked(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)


@dataclass(frozen=True)
class Rooms:
    """Memory that every chunk of an executor uses again, float32."""

    values: Room = field(default_factory=lambda: Room(torch.float32))
    gradients: Room = field(default_factory=lambda: Room(torch.float32))
    one_gradient: Room = field(default_factory=lambda: Room(torch.float32))


class Steps:
    """The values of a chunk's members as they move: all the same, [d], until the first step, then [members, d]."""

    def __init__(self, start: Tensor, rooms: Rooms, members: int, program: tuple[Training, LocalTask]) -> None:
        """
        Args:
            start: float32 [d].
            program: how they train, and the task of any member; `round` and `proximal_mu` are the same for all.
        """
        training, task = program
        self.start, self.values, self._mu = start, start, task.proximal_mu
        self._rooms, self._shape = rooms, (members, len(start))
        self._values = rooms.values.of(self._shape, start.device)
        self._stacked = _Stacked(self._values)
        self._optimizer = training.make_optimizer(self._stacked, task.round)
        self.descent = descent_of(training, task)  # None: an optimizer's memory is needed

    @property
    def gradient(self) -> Tensor:
        """Memory for the members' gradients, [members, d]."""
        return self._rooms.gradients.of(self._shape, self.start.device)

    def rows(self) -> Sequence[Tensor]:
        """Memory for each member's gradient, [d]: the same for all where each is stepped along at once."""
        if self.descent is None:
            return self.gradient.unbind()
        return [self._rooms.one_gradient.of(self._shape[1:], self.start.device)] * self._shape[0]

    def take(self) -> None:
        """One step along the gradient at hand, with FedProx's pull, as `local.ProximalPull` has it."""
        if self.values is self.start:
            self._values.copy_(self.start)
        elif self._mu > 0:
            self.gradient.add_(self._values, alpha=self._mu).sub_(self.start, alpha=self._mu)
        self._stacked.values.grad = self.gradient
        self._optimizer.step()
        self.values = self._values

    def released(self, row: int, gain: float) -> tuple[float, Tensor, Onto | None]:
        """What `noise.release` is told, so that a member's gradient, or its step, is `gain` times the release."""
        descent = self.descent
        if descent is None:
            return gain, self.gradient[row], None
        after = self._values[row]
        before = self.start if self.values is self.start else after
        return -descent.rate * gain, after, Onto(before, descent.keep)

    def taken(self) -> None:
        """Every member's release was taken."""
        if self.descent is None:
            self.take()
        else:
            self.descended()

    def descending(self) -> Tensor:
        """Where the values of after a descent are to be put."""
        return self._values

    def descended(self) -> None:
        """They were put there; the pull's fixed part follows."""
        if self.descent is not None and self.descent.back:
            self._values.add_(self.start, alpha=self.descent.back)
        self.values = self._values


def descent_of(training: Training, task: LocalTask) -> Descent | None:
    """The task's steps as numbers, where the optimizer remembers nothing."""
    if training.optimizer != SGD or training.momentum:
        return None
    rate = training.rate(task.round)
    return Descent(rate, 1.0 - rate * (training.weight_decay + task.proximal_mu), rate * task.proximal_mu)
