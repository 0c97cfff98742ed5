"""DP-SGD: Poisson draw, clipped sum, noise, step. What `privacy=record` and `privacy=patient` run at an institution.

Nothing computed from the records shapes a step other than through the noisy sum: its divisor is the
*declared* expected batch, never the drawn size or the number of records or subjects; an empty draw is a step of noise
alone and counts; the number of steps is declared. One call to `take_step` is one logical step however
many physical batches it takes: an exception inside discards the whole sum.

Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lepton_fl.privacy.noise import clip_target, release
from lepton_fl.privacy.randomness import Stream
from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples
from lepton_fl.training.flat import StepVectors, size
from lepton_fl.training.local import LocalTask, ProximalPull
from lepton_fl.training.settings import Training
from lepton_fl.training.subjects import Part, drawn_records, drawn_subjects
from lepton_fl.training.weights import gain, weighted


@dataclass(frozen=True)
class Mechanism:
    """The release of one step, as the accountant was told of it."""

    noise_multiplier: float  # standard deviation of the noise / clipping norm
    clipping_norm: float  # L2 sensitivity of the sum to one record, or one subject
    sampling_rate: float  # chance of each of them to be drawn
    expected_batch: float  # declared: what the noisy sum is divided by; never counted
    records_per_subject: int | None = None  # subjects are drawn, with so many records at most; None: records are

    @property
    def stddev(self) -> float:
        """Of the noise, in the units of the sum."""
        return self.noise_multiplier * self.clipping_norm


@dataclass(frozen=True)
class Draws:
    """The two cryptographic streams of one institution's round."""

    sampling: Stream
    noise: Stream


def train_privately(
    model: nn.Module,
    examples: Examples,
    training: Training,
    mechanism: Mechanism,
    engine: ClippedSum,
    task: LocalTask,
) -> None:
    """Take the round's declared number of private steps, in place; the engine is detached afterwards.

    The task's weights over the largest of them multiply clipped gradients; the step is longer by the largest one, which
    is a number of the instruction and of no record.
    """
    examples, scale = weighted(examples, task.weights), gain(task.weights) / mechanism.expected_batch
    draws = Draws(task.randomness.stream("sampling"), task.randomness.stream("noise"))
    optimizer = training.make_optimizer(model, task.round)
    pull = ProximalPull(model, task.proximal_mu)
    vectors, memory = StepVectors(model), (model, training.physical_batch)
    engine.attach(model)
    try:
        for _ in range(training.local_steps):
            total = _total(examples, mechanism, engine, draws.sampling, memory, vectors)
            release(total, mechanism.stddev, draws.noise, scale, vectors.gradient)
            vectors.give()
            pull.add_gradient()
            optimizer.step()
    finally:
        engine.detach()
        optimizer.zero_grad()


def take_step(
    examples: Examples,
    mechanism: Mechanism,
    engine: ClippedSum,
    draws: Draws,
    memory: tuple[nn.Module, int],
) -> Tensor:
    """One release, as every step of `train_privately` makes it: the clipped sum over a Poisson draw plus noise.

    Args:
        examples: all of the institution's training records.
        memory: the attached model, and how many records may be in memory at once.

    Returns:
        float64 [d], on the grid.
    """
    total = _total(examples, mechanism, engine, draws.sampling, memory, StepVectors(memory[0]))
    out = torch.empty_like(total, dtype=torch.float64)
    release(total, mechanism.stddev, draws.noise, 1.0, out)
    return out


def _total(
    examples: Examples,
    mechanism: Mechanism,
    engine: ClippedSum,
    sampling: Stream,
    memory: tuple[nn.Module, int],
    vectors: StepVectors,
) -> Tensor:
    """The clipped sum over one draw, [d], in memory of `vectors`: nothing that may be released."""
    physical_batch = memory[1]
    parts = list(_parts(examples, mechanism, sampling, physical_batch))
    # A batch that the engine adds up in float32 anyway needs no wider sum: the numbers are the same.
    is_narrow = len(parts) <= 1 and sum(len(part.index) for part in parts) <= engine.most_in_float32
    total = vectors.zeros(torch.float32 if is_narrow else torch.float64)
    target = clip_target(mechanism.clipping_norm, mechanism.stddev, len(total))
    _add_parts(parts, examples, engine, target, total)
    return total


class Drawing(Protocol):
    """Who is drawn into a step, of any mechanism."""

    @property
    def sampling_rate(self) -> float:
        """Chance of each record, or each subject, to be drawn."""

    @property
    def records_per_subject(self) -> int | None:
        """Subjects are drawn, with so many records at most; None: records are."""


def clipped_sum(
    examples: Examples,
    drawing: Drawing,
    engine: ClippedSum,
    sampling: Stream,
    bounds: tuple[float, nn.Module, int],
) -> Tensor:
    """The sum over a Poisson draw, each one drawn clipped to a norm, float64 [d]: nothing that may be released.

    Args:
        bounds: the norm (L2), the attached model, and how many records may be in memory at once.
    """
    target, model, physical_batch = bounds
    out = torch.zeros(size(model), dtype=torch.float64, device=device_of(model))
    _add_parts(_parts(examples, drawing, sampling, physical_batch), examples, engine, target, out)
    return out


def _add_parts(parts: Iterable[Part], examples: Examples, engine: ClippedSum, target: float, out: Tensor) -> None:
    for part in parts:
        # Records stay in the CPU's memory until drawn: a GPU holds one physical batch of them.
        batch = examples.at(part.index).to(out.device)
        if part.owners is None:
            engine.add(batch, target, out)
        else:
            engine.add(batch, target, out, part.owners)


def _parts(examples: Examples, drawing: Drawing, sampling: Stream, physical_batch: int) -> Iterator[Part]:
    rate, most = drawing.sampling_rate, drawing.records_per_subject
    if most is None:
        return drawn_records(len(examples), rate, sampling, physical_batch)
    return drawn_subjects(examples, rate, most, sampling, physical_batch)
