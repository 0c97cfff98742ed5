"""What every strategy's settings promise, and what they are told about the federation."""

from __future__ import annotations

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

    def build(self, federation: Federation) -> flower.Strategy:
        """Flower's strategy; raises `ConfigError` where the federation is too small for it."""
        raise NotImplementedError


def require(name: str, value: float, holds: bool, claim: str) -> None:
    """Refuse a setting outside of its range."""
    if not holds:
        raise ConfigError(f"strategy.{name} must be {claim}, got {value}")
