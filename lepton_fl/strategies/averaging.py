"""FedAvg and the strategies that only reweigh or restart it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lepton_fl.errors import ConfigError
from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, Federation, Strategy, require
from lepton_fl.strategies.sums import FairMean, SumForm

_LARGEST_Q = 2.0  # a loss of 0.3 nats then weighs 59 of 65,536: a whole number that still tells losses apart


@dataclass
class FedAvg(Strategy):
    """The weighted mean of the institutions' models.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data".
    """

    needs_mean_only: ClassVar[bool] = True
    has_sum_form: ClassVar[bool] = True

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedAvg(**federation.arguments())


@dataclass
class FedProx(Strategy):
    """FedAvg with local training held near the round's model.

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", algorithm 2.
    """

    proximal_mu: float  # pull towards the round's model; 0 is FedAvg

    needs_mean_only: ClassVar[bool] = True
    has_sum_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("proximal_mu", self.proximal_mu, self.proximal_mu >= 0, ">= 0")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedProx(proximal_mu=self.proximal_mu, **federation.arguments())


@dataclass
class FedAvgM(Strategy):
    """FedAvg with momentum at the server.

    Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification".
    """

    server_learning_rate: float
    server_momentum: float  # in [0, 1)

    needs_mean_only: ClassVar[bool] = True
    has_sum_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("server_learning_rate", self.server_learning_rate, self.server_learning_rate > 0, "> 0")
        require("server_momentum", self.server_momentum, 0 <= self.server_momentum < 1, "in [0, 1)")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedAvgM(
            server_learning_rate=self.server_learning_rate,
            server_momentum=self.server_momentum,
            **federation.arguments(),
        )


@dataclass
class QFedAvg(Strategy):
    """FedAvg that gives more weight to institutions with a larger loss.

    Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2.
    """

    q: float  # 0 is FedAvg; larger is fairer between institutions

    needs_exact_loss: ClassVar[bool] = True
    has_sum_form: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require("q", self.q, self.q >= 0, ">= 0")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.QFedAvg(
            client_learning_rate=federation.client_learning_rate,
            q=self.q,
            train_loss_key=TRAIN_LOSS_KEY,
            **federation.arguments(),
        )

    def sum_form(self, weight_cap: int, client_learning_rate: float) -> SumForm:
        """See `Strategy.sum_form`."""
        if self.q > _LARGEST_Q:
            raise ConfigError(
                f"strategy.q is {self.q:g}, and beyond {_LARGEST_Q:g} the weights of usual losses round to nothing in "
                "a masked sum; nothing was trained; lower it, or choose strategy=afl"
            )
        return FairMean(self.q, client_learning_rate)

    def make_of_mean(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make_of_mean`: the step is in the sums already."""
        return flower.FedAvg(**federation.arguments())
