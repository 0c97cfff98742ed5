"""One institution after another, in place: today's program for any model, and what the others are held against."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from lepton_fl.training.cohort.executor import Failed, Member, Outcome, Trained, Work, flat_state
from lepton_fl.training.cohort.wide_linear import widen
from lepton_fl.training.device import device_of, full_precision, layers_seeded
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import train_privately


class Sequential:
    """See `executor.Executor`. One model serves all: its values are set back before each member."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._model: nn.Module | None = None

    def train(self, start: nn.Module, members: Sequence[Member]) -> Iterator[Outcome]:
        """See `Executor.train`."""
        model = self._own(start)
        state, before = list(model.state_dict().values()), list(start.state_dict().values())
        for member in members:
            torch._foreach_copy_(state, before)
            yield self._one(model, member)

    def _own(self, start: nn.Module) -> nn.Module:
        if self._model is None:
            self._model = copy.deepcopy(start)
            if self._work.mechanism is None:  # an engine of clipped sums knows the layers as they are
                if any(isinstance(one, nn.Conv2d) for one in start.modules()):
                    # Convolutions on a CPU are a fifth faster so.
                    self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                widen(self._model)
        return self._model

    def _seeded(self, member: Member, device: torch.device) -> AbstractContextManager[None]:
        if not self._work.is_random:
            return nullcontext()
        return layers_seeded(member.task.randomness.stream("layers").integer(), device)

    def _one(self, model: nn.Module, member: Member) -> Outcome:
        work, device, loss = self._work, device_of(model), None
        try:
            with self._seeded(member, device), full_precision(device):
                if work.mechanism is None:
                    loss = train_plainly(model, member.examples, work.training, member.task)
                else:
                    engine = work.engine(model)
                    train_privately(model, member.examples, work.training, work.mechanism, engine, member.task)
        except Exception as error:  # whatever goes wrong at one institution is its own
            return Failed(error)
        return Trained(flat_state(model), loss)
