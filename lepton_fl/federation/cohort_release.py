"""`privacy=institution`: the round's updates, each clipped, become one noisy mean before a strategy sees them.

The server does this, so it has to be trusted: it sees every update exact. Everybody else sees models in which no
institution's update moved the mean by more than clipping norm / cohort, under noise of the stated multiple of that. The
divisor is the declared cohort and the noise is full, however many replies came: neither tells who stayed away.

Source: McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", with institutions as users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_fl.flower import Array, ArrayRecord, Message, MetricRecord, RecordDict
from lepton_fl.privacy.noise import add_noise, clip_target
from lepton_fl.privacy.randomness import Randomness, Stream
from lepton_fl.strategies.strategy import WEIGHT_KEY
from lepton_fl.training.private import Mechanism
from lepton_fl.training.self_test import check_noise, refuse_norm

FEW = 100  # institutions in a round, below which the noise is plainly larger than what is learned


@dataclass(frozen=True)
class CohortRelease:
    """What makes one reply of a round's many."""

    mechanism: Mechanism  # of one round; the expected batch is the declared cohort
    randomness: Randomness

    def reply(self, replies: Sequence[Message], before: ArrayRecord, round: int) -> Message:
        """One reply, of weight 1, that holds the model after the noisy mean of these replies' updates.

        Args:
            replies: at least one, checked, in an order that does not depend on when they came.
            before: the model that was sent out in this round.
        """
        start = flat(before)
        updates = [flat(reply.content.array_records["arrays"]) - start for reply in replies]
        stream = self.randomness.within("cohort-noise", round).stream("noise")
        after = start + noisy_mean(updates, len(start), self.mechanism, stream)
        one = replies[0]
        one.content = RecordDict({"arrays": shaped(after, before), "metrics": MetricRecord({WEIGHT_KEY: 1})})
        return one

    def of_sum(self, total: npt.NDArray[np.float64], before: ArrayRecord, round: int) -> ArrayRecord:
        """The model after the noisy mean of updates that were added up under masks, each scaled where it was made.

        Args:
            total: float64 [d], parameter by parameter in the order of names.
        """
        stream = self.randomness.within("cohort-noise", round).stream("noise")
        return shaped(flat(before) + noised(torch.from_numpy(total), self.mechanism, stream), before)


def noisy_mean(updates: Sequence[Tensor], parameters: int, mechanism: Mechanism, stream: Stream) -> Tensor:
    """The sum of the clipped updates plus noise, divided by the declared cohort; float64 [parameters]."""
    target = clip_target(mechanism.clipping_norm, mechanism.stddev, parameters)
    total = torch.zeros(parameters, dtype=torch.float64)
    for update in updates:
        total += clipped(update, target)
    return noised(total, mechanism, stream)


def noised(total: Tensor, mechanism: Mechanism, stream: Stream) -> Tensor:
    """A sum of clipped updates, float64 [parameters], with its noise, in place, divided by the declared cohort."""
    add_noise(total, mechanism.stddev, stream)
    return total / mechanism.expected_batch


def clipped(update: Tensor, clipping_norm: float) -> Tensor:
    """The update, scaled to an L2 norm of at most `clipping_norm`; float64."""
    return update * (clipping_norm / float(update.norm().clamp(min=clipping_norm)))


def flat(arrays: ArrayRecord) -> Tensor:
    """All values as one float64 vector, parameter by parameter in the order of names."""
    return torch.cat([torch.from_numpy(arrays[name].numpy().astype(np.float64)).flatten() for name in sorted(arrays)])


def shaped(values: Tensor, like: ArrayRecord) -> ArrayRecord:
    """The vector that `flat` made, as float32 arrays named and ordered as these."""
    parts, start = {}, 0
    for name in sorted(like):
        shape = like[name].numpy().shape
        size = math.prod(shape)
        # What overflows float32 becomes infinite, and is refused as a model afterwards.
        parts[name] = values[start : start + size].to(torch.float32).numpy().reshape(shape)
        start += size
    return ArrayRecord({name: Array(parts[name]) for name in like})


def check_noisy_mean(claimed: Mechanism, randomness: Randomness) -> None:
    """Return if clipping and noise of a round's mean are what was accounted; see `training.self_test`.

    Raises:
        UnsoundMechanism: naming what is wrong; no institution was asked yet.
    """
    huge = torch.full((100,), 1e6 * claimed.clipping_norm, dtype=torch.float64)
    refuse_norm(float(clipped(huge, claimed.clipping_norm).norm()), claimed.clipping_norm)
    stream = randomness.stream("noise")
    stddev = claimed.stddev / claimed.expected_batch
    check_noise(stddev, lambda width: noisy_mean([], width, claimed, stream))


def cost_of_few(mechanism: Mechanism, parameters: int) -> str | None:
    """One plain sentence about how much noise a small cohort means; None from `FEW` institutions on."""
    cohort = round(mechanism.expected_batch)
    if cohort >= FEW:
        return None
    each = mechanism.noise_multiplier / cohort
    return (
        f"with {cohort} institutions in a round, the noise on their mean update is {each:.2g} clipping norms in each "
        f"of {parameters:,} parameters, {each * math.sqrt(parameters):.2g} in all, where the mean itself has at most "
        f"1; this unit needs {FEW} institutions and more"
    )


THE_OPERATOR_SEES = "the operator sees each institution's exact update before the noise; privacy=record needs no trust"
THE_OPERATOR_SEES_A_SUM = (
    "the operator sees the exact sum of the updates before the noise; privacy=record needs no trust"
)
