"""DP-SGD: Poisson draw, clipped sum, noise, step. What `privacy=record` and `privacy=patient` run at an institution.

Nothing computed from the records shapes a step other than through the noisy sum: its divisor is the
*declared* expected batch, never the drawn size or the number of records or subjects; an empty draw is a step of noise
alone and counts; the number of steps is declared. One call to `take_step` is one logical step however
many physical batches it takes: an exception inside discards the whole sum.

Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lepton_fl.privacy.noise import add_noise, clip_target
from lepton_fl.privacy.randomness import Stream
from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples
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
    examples, scale = weighted(examples, task.weights), gain(task.weights)
    draws = Draws(task.randomness.stream("sampling"), task.randomness.stream("noise"))
    optimizer = training.optimizer(model, task.round)
    pull = ProximalPull(model, task.proximal_mu)
    engine.attach(model)
    try:
        for _ in range(training.local_steps):
            release = take_step(examples, mechanism, engine, draws, (model, training.physical_batch))
            set_gradients(model, release * (scale / mechanism.expected_batch))
            pull.add_gradient()
            optimizer.step()
    finally:
        engine.detach()


def take_step(
    examples: Examples,
    mechanism: Mechanism,
    engine: ClippedSum,
    draws: Draws,
    memory: tuple[nn.Module, int],
) -> Tensor:
    """One release: the clipped sum over a Poisson draw plus noise, float64 [d].

    Args:
        examples: all of the institution's training records.
        memory: the attached model, and how many records may be in memory at once.
    """
    target = clip_target(mechanism.clipping_norm, mechanism.stddev, size(memory[0]))
    out = clipped_sum(examples, mechanism, engine, draws.sampling, (target, *memory))
    add_noise(out, mechanism.stddev, draws.noise)
    return out


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
    for part in _parts(examples, drawing, sampling, physical_batch):
        # Records stay in the CPU's memory until drawn: a GPU holds one physical batch of them.
        batch = examples.at(part.index).to(out.device)
        if part.owners is None:
            engine.add(batch, target, out)
        else:
            engine.add(batch, target, out, part.owners)
    return out


def _parts(examples: Examples, drawing: Drawing, sampling: Stream, physical_batch: int) -> Iterator[Part]:
    rate, most = drawing.sampling_rate, drawing.records_per_subject
    if most is None:
        return drawn_records(len(examples), rate, sampling, physical_batch)
    return drawn_subjects(examples, rate, most, sampling, physical_batch)


def size(model: nn.Module) -> int:
    """How many parameters of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def set_gradients(model: nn.Module, flat: Tensor) -> None:
    """Give each trained parameter its part of one vector [d], parameters in the model's order."""
    start = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        part = flat[start : start + parameter.numel()]
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
        start += parameter.numel()
