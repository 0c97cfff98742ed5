"""What every strategy's settings promise, and what they are told about the federation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from lepton_fl.errors import ConfigError
from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.sums import SumForm, WeightedMean

WEIGHT_KEY = "num-examples"
TRAIN_LOSS_KEY = "train-loss"
SUMMABLE = "afl, fedadagrad, fedadam, fedavg, fedavgm, fedprox, fedyogi, qfedavg"


@dataclass(frozen=True)
class Federation:
    """The numbers a strategy may depend on."""

    institutions: int  # taking part in the run
    cohort_size: int  # asked to train in each round
    client_learning_rate: float  # of the first round's local SGD

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that all of Flower's strategies share: who is asked, and the weight's name."""
        return {
            "fraction_train": self.cohort_size / self.institutions,
            "fraction_evaluate": 1.0,
            "min_train_nodes": self.cohort_size,
            "min_evaluate_nodes": self.institutions,
            "min_available_nodes": self.institutions,
            "weighted_by_key": WEIGHT_KEY,
        }


@dataclass
class Strategy:
    """A strategy's settings; `build` makes Flower's strategy from them."""

    needs_exact_loss: ClassVar[bool] = False  # of each institution's training records
    needs_mean_only: ClassVar[bool] = False  # of the updates: one reply that holds their mean does as well
    has_sum_form: ClassVar[bool] = False  # two sums of the cohort are enough, see `sums`

    @property
    def least_replies(self) -> int:
        """Usable replies below which a round is skipped, since what the strategy promises would not hold."""
        return 1

    def build(self, federation: Federation, *, is_summed: bool) -> flower.Strategy:
        """Flower's strategy; raises `ConfigError` where the federation is too small for it.

        Args:
            is_summed: it gets one reply, of the mean update that follows from sums.
        """
        if federation.cohort_size < self.least_replies:
            raise ConfigError(
                f"{self.least_because()}, so a cohort of at least {self.least_replies} institutions is needed and "
                f"{federation.cohort_size} take part; nothing was trained; {self.advice(federation)}"
            )
        return self.make_of_mean(federation) if is_summed else self.make(federation)

    def sum_form(self, weight_cap: int, client_learning_rate: float) -> SumForm:
        """What each institution adds to the sums, for a strategy that has a sum form."""
        if not self.has_sum_form:
            raise ConfigError(
                "this strategy compares single updates, and secure aggregation shows only their sum; nothing was "
                f"trained; choose one of {SUMMABLE}, or secure_aggregation=off where every policy allows it"
            )
        return WeightedMean(weight_cap)

    def make_of_mean(self, federation: Federation) -> flower.Strategy:
        """Flower's strategy, where one reply holds the mean update that follows from the sums."""
        return self.make(federation)

    def least_because(self) -> str:
        """The clause that explains `least_replies`."""
        return "a mean needs a model"

    def advice(self, federation: Federation) -> str:
        """What to do in a federation that is too small."""
        return "choose another strategy or add institutions"

    def make(self, federation: Federation) -> flower.Strategy:
        """Flower's strategy for a federation that is large enough."""
        raise NotImplementedError


def require(name: str, value: float, holds: bool, claim: str) -> None:
    """Refuse a setting outside of its range, or not finite."""
    if not (holds and math.isfinite(value)):
        raise ConfigError(f"strategy.{name} must be {claim} and finite, got {value}")
