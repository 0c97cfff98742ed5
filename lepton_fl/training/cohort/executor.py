"""What every executor does: the local training of some institutions, each as if it were alone.

The program is the one that an institution runs, `training.plain` or `training.private`: the same batches, draws, noise
and steps, from streams keyed by run, institution and round. Which executor runs it, and in which chunks, changes an
update by float32's rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.private import Mechanism
from lepton_fl.training.settings import Training


@dataclass(frozen=True)
class Member:
    """One institution of a cohort: what it trains on, and what this round asks of it."""

    examples: Examples
    task: LocalTask
    weight: int | None = None  # what its model counts in a mean, where nobody needs it by itself; None: somebody does


@dataclass(frozen=True)
class Trained:
    """What one institution's training came to."""

    values: Tensor  # float32 [d] on the CPU: the model's state in its order; valid until the executor trains again
    loss: float | None  # mean over its records before each step, nats; None under privacy


@dataclass(frozen=True)
class Failed:
    """One institution's training raised; the others' went on."""

    error: Exception


@dataclass(frozen=True)
class Summed:
    """What so many members' training came to together; each of them had a weight."""

    members: int
    weight: int  # of all of them
    total: Tensor  # float32 [d] on the CPU: the sum of weight * (values - start)


Outcome = Trained | Failed | Summed


@dataclass(frozen=True)
class Work:
    """The program of a round, the same for every institution."""

    training: Training
    mechanism: Mechanism | None  # None: without privacy
    engine: Callable[[nn.Module], ClippedSum]  # of a model that is trained by itself
    is_random: bool = True  # the model may draw (dropout): it is then seeded for each institution, in one thread


class Executor(Protocol):
    """Trains a chunk of a cohort."""

    def train(self, start: nn.Module, members: Sequence[Member]) -> Iterator[Outcome]:
        """What each member's training came to, in their order, or several together; `start` stays as it is."""


def flat_state(model: nn.Module) -> Tensor:
    """All values of a model, float32 [d] on the CPU, in the order of its state; a copy."""
    parts = [value.detach().reshape(-1).to("cpu", torch.float32) for value in model.state_dict().values()]
    return torch.cat(parts) if parts else torch.empty(0)
