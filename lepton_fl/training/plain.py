"""Ordinary local SGD: what `privacy=none` runs at an institution.

Source: McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, cycle, islice, repeat

import numpy as np
import torch
from torch import Tensor, nn

from lepton_fl.privacy.randomness import Stream
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples, per_record_loss
from lepton_fl.training.local import LocalTask, ProximalPull
from lepton_fl.training.settings import Training
from lepton_fl.training.weights import gain, weighted


def train_plainly(model: nn.Module, examples: Examples, training: Training, task: LocalTask) -> float:
    """Take the round's number of SGD steps, in place; returns the records' mean loss before each step.

    With the task's weights, a step lowers the mean of weight * loss; the loss returned is the plain one.
    """
    examples, scale = weighted(examples, task.weights), gain(task.weights)
    optimizer = training.make_optimizer(model, task.round)
    pull = ProximalPull(model, task.proximal_mu)
    order = batches(len(examples), training.sampling_rate, task.randomness.stream("batches"))
    losses, seen, device = 0.0, 0, device_of(model)
    model.train()
    for _ in range(training.local_steps):
        batch = examples.at(next(order)).to(device)
        optimizer.zero_grad()
        losses_now = per_record_loss(model(batch.features), batch.labels)
        counted = losses_now if batch.weights is None else losses_now * (scale * batch.weights).to(losses_now.dtype)
        counted.mean().backward()
        pull.add_gradient()
        optimizer.step()
        losses += float(losses_now.detach().mean()) * len(batch)
        seen += len(batch)
    return losses / seen


def batches(records: int, sampling_rate: float, stream: Stream) -> Iterator[Tensor]:
    """Shuffled epochs cut into batches of sampling_rate * records, for ever."""
    size = _batch_size(records, sampling_rate)
    while True:
        order = torch.from_numpy(stream.permutation(records))
        yield from order.split(size)


@lru_cache(maxsize=1024)
def sizes_of_batches(records: int, sampling_rate: float, steps: int) -> tuple[int, ...]:
    """How many records each of the first `steps` of `batches` has."""
    size = _batch_size(records, sampling_rate)
    left = records % size
    return tuple(islice(cycle(chain(repeat(size, records // size), [left] if left else [])), steps))


def first_batches(records: int, sampling_rate: float, steps: int, stream: Stream) -> Tensor:
    """The positions in the first `steps` of `batches`, one after another, int64; at least one record."""
    count = sum(sizes_of_batches(records, sampling_rate, steps))
    orders = [stream.permutation(records) for _ in range(math.ceil(count / records))]
    return torch.from_numpy(orders[0] if len(orders) == 1 else np.concatenate(orders))[:count]


def _batch_size(records: int, sampling_rate: float) -> int:
    return max(1, math.ceil(sampling_rate * records))
