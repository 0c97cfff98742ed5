"""Strategies in sum form: what an institution adds to two sums of the cohort, and the mean update that follows.

Under secure aggregation a server learns sums alone. A strategy can be used there if its round's update is

    scale * (sum over institutions of factor * update) / (sum of weight),

where each institution works out its own factor, in [0, 1], and its own weight, a whole number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lepton_fl.errors import TrainingFailed

WEIGHT_LIMBS = 2  # of 15 bits: a weight stays below 2^30
LARGEST_WEIGHT = (1 << 15 * WEIGHT_LIMBS) - 1
_FRACTION = 1 << 16  # of a weight that is no count
_LARGEST_LOSS, _LEAST_LOSS = 10.0, 1e-3  # nats: what q-FedAvg takes a loss for, so that its sums stay bounded


@dataclass(frozen=True)
class Part:
    """What one institution adds to the sums."""

    factor: float  # of its update, in [0, 1]
    weight: int  # 0 to LARGEST_WEIGHT


class SumForm(Protocol):
    """How a round's mean update follows from two sums."""

    @property
    def scale(self) -> float:
        """See the module."""

    def part(self, update_norm: float, records: int, loss: float | None) -> Part:
        """What an institution with this update adds.

        Args:
            update_norm: L2, of its update.
            records: that it trained on, or 1 where all weigh the same.
            loss: mean over its records before each step, in nats; None where it was not measured.
        """


@dataclass(frozen=True)
class WeightedMean:
    """The mean of the updates, each weighed by its records.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data".
    """

    weight_cap: int  # more records than this count as this many

    @property
    def scale(self) -> float:
        """See `SumForm.scale`."""
        return float(self.weight_cap)

    def part(self, update_norm: float, records: int, loss: float | None) -> Part:
        """See `SumForm.part`."""
        weight = min(records, self.weight_cap)
        return Part(weight / self.weight_cap, weight)


@dataclass(frozen=True)
class ClippedMean:
    """The mean of updates that each institution scaled to a norm: nobody's moves the sum by more.

    McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", with institutions as users.
    """

    target: float  # L2, > 0

    @property
    def scale(self) -> float:
        """See `SumForm.scale`."""
        return 1.0

    def part(self, update_norm: float, records: int, loss: float | None) -> Part:
        """See `SumForm.part`."""
        return Part(min(1.0, self.target / update_norm) if update_norm > 0 else 1.0, 1)


@dataclass(frozen=True)
class FairMean:
    """q-FedAvg's step: an institution with a larger loss has a larger say, and a shorter step where losses are large.

    With L = 1 / learning rate, the update is the sum of F^q * update over the sum of q F^(q-1) L |update|^2 + F^q.

    Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2.
    """

    q: float
    client_learning_rate: float

    @property
    def scale(self) -> float:
        """See `SumForm.scale`."""
        return float(_FRACTION)

    def part(self, update_norm: float, records: int, loss: float | None) -> Part:
        """See `SumForm.part`."""
        if loss is None:
            raise TrainingFailed("q-FedAvg needs the training loss, and it was not measured; nothing was released")
        relative = min(max(loss, _LEAST_LOSS), _LARGEST_LOSS) / _LARGEST_LOSS
        factor = float(relative**self.q)
        slope = self.q * relative ** (self.q - 1) / _LARGEST_LOSS * update_norm**2 / self.client_learning_rate
        return Part(factor, min(round(_FRACTION * (slope + factor)), LARGEST_WEIGHT))
