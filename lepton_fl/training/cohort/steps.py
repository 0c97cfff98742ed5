"""The optimizer of a chunk: one torch optimizer over stacked values, since it looks at single numbers alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lepton_fl.training.cohort.chunks import Descent
from lepton_fl.training.local import LocalTask
from lepton_fl.training.settings import Training


class _Stacked(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)


class Steps:
    """The values of a chunk's members as they move: all the same, [d], until the first step, then [members, d]."""

    def __init__(self, start: Tensor, room: tuple[Tensor, Tensor], training: Training, task: LocalTask) -> None:
        """
        Args:
            start: float32 [d].
            room: float32 [members, d], for the values and for a gradient.
            task: of any member; `round` and `proximal_mu` are the same for all.
        """
        self._start, self._room, self._mu = start, room[0], task.proximal_mu
        self.values, self.gradient = start, room[1]
        self._stacked = _Stacked(self._room)
        self._optimizer = training.make_optimizer(self._stacked, task.round)
        self._narrow = torch.empty(0)
        self.descent = descent_of(training, task)  # None: an optimizer's memory is needed

    def take(self) -> None:
        """One step along the gradient at hand, with FedProx's pull, as `local.ProximalPull` has it."""
        if self.values is self._start:
            self._room.copy_(self._start)
        elif self._mu > 0:
            self.gradient.add_(self._room, alpha=self._mu).sub_(self._start, alpha=self._mu)
        self._stacked.values.grad = self.gradient
        self._optimizer.step()
        self.values = self._room

    def take_part(self, row: int, place: slice, numbers: Tensor, scale: float) -> None:
        """One member's step along this part of its gradient, `numbers` times `scale`; `taken` ends the step of all."""
        descent = self.descent
        if descent is None:
            self.gradient[row, place].copy_(numbers).mul_(scale)
            return
        if len(self._narrow) < len(numbers):
            self._narrow = torch.empty(len(numbers), device=self._start.device)
        part, start, after = self._narrow[: len(numbers)].copy_(numbers), self._start[place], self._room[row, place]
        before = start if self.values is self._start else after
        if descent.keep != 1.0:
            before = torch.mul(before, descent.keep, out=after)
        torch.add(before, part, alpha=-descent.rate * scale, out=after)
        if descent.back:
            after.add_(start, alpha=descent.back)

    def taken(self) -> None:
        """Every part of every member was told of."""
        if self.descent is None:
            self.take()
        else:
            self.values = self._room

    def descending(self) -> Tensor:
        """Where the values of after a descent are to be put."""
        return self._room

    def descended(self) -> None:
        """They were put there; the pull's fixed part follows."""
        if self.descent is not None and self.descent.back:
            self._room.add_(self._start, alpha=self.descent.back)
        self.values = self._room


def descent_of(training: Training, task: LocalTask) -> Descent | None:
    """The task's steps as numbers, where the optimizer remembers nothing."""
    probe = nn.Module()
    probe.values = nn.Parameter(torch.empty(0))
    optimizer = training.make_optimizer(probe, task.round)
    group = optimizer.param_groups[0]
    if type(optimizer) is not torch.optim.SGD or group["momentum"]:
        return None
    rate = float(group["lr"])
    return Descent(rate, 1.0 - rate * (float(group["weight_decay"]) + task.proximal_mu), rate * task.proximal_mu)
