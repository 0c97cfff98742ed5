"""AFL: the worst-served institution is lifted, round by round.

Mohri, Sivek and Suresh 2019, "Agnostic Federated Learning": the model is good for every mixture of the institutions,
and the mixture moves towards those with a larger loss, here by exponentiated gradient.

Each institution keeps a score s += step * (loss - loss of a guess), within bounds, and weighs e^s: the weighted mean of
the updates follows from the sums of e^s * update and of e^s, so nobody else learns a loss. A constant taken off every
score cancels in the mean; taking off the loss of a guess keeps scores small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.strategy import Federation, Strategy, require
from lepton_fl.strategies.sums import SumForm, WeightedMean

_FRACTION = 1000  # of a weight: e^s to a thousandth, as a whole number


@dataclass
class AFL(Strategy):
    """FedAvg whose weights follow each institution's loss; the number of records does not count."""

    step: float  # what a nat of loss adds to a score in a round; 0: all institutions weigh the same
    most: float  # of a score, either way

    needs_exact_loss: ClassVar[bool] = True
    has_sum_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("step", self.step, self.step >= 0, ">= 0")
        require("most", self.most, 0 < self.most <= 4, "above 0 and at most 4")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`: the weights are the institutions' own."""
        return flower.FedAvg(**federation.arguments())

    def sum_form(self, weight_cap: int, client_learning_rate: float) -> SumForm:
        """See `Strategy.sum_form`."""
        return WeightedMean(math.ceil(_FRACTION * math.exp(self.most)))


@dataclass(frozen=True)
class Scores:
    """The scores of the institutions in this process. They are kept in memory: a restart begins anew from 0."""

    step: float
    most: float
    of_a_guess: float  # nats: the loss of whoever guesses, ln(labels)
    _kept: dict[str, float] = field(default_factory=dict)

    def weight(self, institution: str, round: int, loss: float) -> int:
        """What the institution weighs in this round, after the loss it began it with; from 19 to 54,599."""
        before = 0.0 if round == 1 else self._kept.get(institution, 0.0)
        moved = before + self.step * (loss - self.of_a_guess)
        self._kept[institution] = min(max(moved, -self.most), self.most) if math.isfinite(moved) else self.most
        return math.ceil(_FRACTION * math.exp(self._kept[institution]))


def scores_of(strategy: Strategy, labels: int) -> Scores | None:
    """What institutions keep under this strategy; None where they keep nothing."""
    return Scores(strategy.step, strategy.most, math.log(labels)) if isinstance(strategy, AFL) else None
