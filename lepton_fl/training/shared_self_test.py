"""Before a run with shared noise: one institution's share of a step, measured against what the accountant was told.

The checks are those of a step with noise of one's own (`self_test`), through the code that makes a share: the norm of
what a contribution adds, the variance of the noise, the sampling rate, and what one share tells about its canaries,
which must stay within the epsilon of a share alone. One thing runs otherwise than in training: the bound at which a
coordinate is cut off is as wide as it can be, since thousands of canaries pull at one coordinate here. It protects
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lepton_fl.models.shape import Shape
from lepton_fl.privacy.accounting import SKELLAM, Segment
from lepton_fl.privacy.randomness import Stream
from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.examples import Examples
from lepton_fl.training.private import Mechanism, clipped_sum
from lepton_fl.training.self_test import Claimed, check_mechanism
from lepton_fl.training.shared_noise import SharedDraws, SharedMechanism, noisy

_WIDEST = (1 << 30) - 1


@dataclass(frozen=True)
class SharedAsRun:
    """Everything that `release` is given in the run, but for the records."""

    mechanism: SharedMechanism
    engine: ClippedSum
    draws: SharedDraws

    def target(self, parameters: int) -> float:
        """See `self_test.Running.target`: the same in a model of any size."""
        return self.mechanism.target

    def release(self, examples: Examples, model: nn.Module, physical_batch: int) -> Tensor:
        """See `self_test.Running.release`: a share, back in the units of the sum."""
        made, draws = self.mechanism, self.draws
        total = clipped_sum(examples, made, self.engine, draws.sampling, (made.target, model, physical_batch))
        share = noisy(total.cpu().numpy(), replace(made, bound=_WIDEST), draws)
        return torch.from_numpy(share) * made.grid


def check_shared_mechanism(
    model: nn.Module, claimed: SharedMechanism, shape: Shape, as_run: SharedAsRun, stream: Stream
) -> None:
    """Return if a share's clipping, noise, sampling rate and one release on canaries are what was claimed.

    Args:
        model: the run's own, for the clipping check; left as it was found.
        stream: for the canaries' coins and random records; none of the run's own streams.

    Raises:
        UnsoundMechanism: naming the check that failed.
    """
    step = Segment(claimed.own_multiplier, claimed.sampling_rate, 1, SKELLAM)
    own = Mechanism(
        noise_multiplier=claimed.stddev / claimed.clipping_norm,
        clipping_norm=claimed.clipping_norm,
        sampling_rate=claimed.sampling_rate,
        expected_batch=claimed.expected_batch,
        records_per_subject=claimed.records_per_subject,
    )
    check_mechanism(model, Claimed(own, shape, step), as_run, stream)
