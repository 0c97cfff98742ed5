"""Adaptive optimizers at the server: the mean update as a gradient.

Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.strategy import Federation, Strategy, require


@dataclass
class FedAdagrad(Strategy):
    """Adagrad at the server."""

    server_learning_rate: float
    tau: float  # adaptivity: smaller adapts more, > 0

    needs_mean_only: ClassVar[bool] = True
    has_sum_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("server_learning_rate", self.server_learning_rate, self.server_learning_rate > 0, "> 0")
        require("tau", self.tau, self.tau > 0, "> 0")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedAdagrad(eta=self.server_learning_rate, tau=self.tau, **federation.arguments())


@dataclass
class FedAdam(FedAdagrad):
    """Adam at the server."""

    beta_1: float  # memory of the mean update, in [0, 1)
    beta_2: float  # memory of its square, in [0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("beta_1", self.beta_1, 0 <= self.beta_1 < 1, "in [0, 1)")
        require("beta_2", self.beta_2, 0 <= self.beta_2 < 1, "in [0, 1)")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedAdam(
            eta=self.server_learning_rate,
            tau=self.tau,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            **federation.arguments(),
        )


@dataclass
class FedYogi(FedAdam):
    """Yogi at the server: Adam whose step size recovers slowly after a large update."""

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedYogi(
            eta=self.server_learning_rate,
            tau=self.tau,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            **federation.arguments(),
        )
