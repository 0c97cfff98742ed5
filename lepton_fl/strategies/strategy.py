"""What every strategy's settings promise, and what they are told about the federation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from lepton_fl.errors import ConfigError
from lepton_fl.flower import strategies as flower

WEIGHT_KEY = "num-examples"
TRAIN_LOSS_KEY = "train-loss"


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

    @property
    def least_replies(self) -> int:
        """Usable replies below which a round is skipped, since what the strategy promises would not hold."""
        return 1

    def build(self, federation: Federation) -> flower.Strategy:
        """Flower's strategy; raises `ConfigError` where the federation is too small for it."""
        if federation.cohort_size < self.least_replies:
            raise ConfigError(
                f"{self.least_because()}, so a cohort of at least {self.least_replies} institutions is needed and "
                f"{federation.cohort_size} take part; nothing was trained; {self.advice(federation)}"
            )
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
