"""Strategies that outvote hostile updates; each names how many it withstands.

With fewer usable replies than its paper asks for, a round is skipped: Flower would average them all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.strategy import Federation, Strategy, require


@dataclass
class FedMedian(Strategy):
    """The coordinate-wise median of the institutions' models.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
    """

    @property
    def least_replies(self) -> int:
        """Three: the median of two is their mean."""
        return 3

    def least_because(self) -> str:
        """See `Strategy.least_because`."""
        return "the median of two models is their mean"

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedMedian(**federation.arguments())


@dataclass
class FedTrimmedAvg(Strategy):
    """The coordinate-wise mean without the smallest and largest values.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
    """

    beta: float  # share cut off at each end, in (0, 0.5)

    def __post_init__(self) -> None:
        require("beta", self.beta, 0 < self.beta < 0.5, "in (0, 0.5)")

    @property
    def least_replies(self) -> int:
        """So many that beta of them, rounded down as Flower does, is at least one."""
        return next(replies for replies in count(3) if int(self.beta * replies) >= 1)

    def least_because(self) -> str:
        """See `Strategy.least_because`."""
        return f"strategy.beta {self.beta} of fewer models cuts off nobody"

    def advice(self, federation: Federation) -> str:
        """The least share, in hundredths, that cuts off one model at each end."""
        shares = [share / 100 for share in range(1, 50) if int(share / 100 * federation.cohort_size) >= 1]
        return f"raise strategy.beta to {shares[0]}" if shares else "choose another strategy or add institutions"

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.FedTrimmedAvg(beta=self.beta, **federation.arguments())


@dataclass
class Krum(Strategy):
    """The one model nearest to its neighbours.

    Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent".
    """

    num_malicious_nodes: int  # hostile institutions withstood, f

    def __post_init__(self) -> None:
        require("num_malicious_nodes", self.num_malicious_nodes, self.num_malicious_nodes >= 0, ">= 0")

    @property
    def least_replies(self) -> int:
        """2f + 3, as the paper proves."""
        return 2 * self.num_malicious_nodes + 3

    def least_because(self) -> str:
        """See `Strategy.least_because`."""
        f, least = self.num_malicious_nodes, self.least_replies
        return f"strategy.num_malicious_nodes f = {f} is withstood from 2f + 3 = {least} models on"

    def advice(self, federation: Federation) -> str:
        """See `Strategy.advice`."""
        return "lower strategy.num_malicious_nodes or add institutions"

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.Krum(num_malicious_nodes=self.num_malicious_nodes, **federation.arguments())


@dataclass
class MultiKrum(Krum):
    """The mean of the models nearest to their neighbours; same source as Krum."""

    num_nodes_to_select: int  # models averaged

    def __post_init__(self) -> None:
        super().__post_init__()
        require("num_nodes_to_select", self.num_nodes_to_select, self.num_nodes_to_select >= 1, ">= 1")

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        most = federation.cohort_size - self.num_malicious_nodes
        require(
            "num_nodes_to_select",
            self.num_nodes_to_select,
            self.num_nodes_to_select <= most,
            f"at most {most}",
        )
        return flower.MultiKrum(
            num_malicious_nodes=self.num_malicious_nodes,
            num_nodes_to_select=self.num_nodes_to_select,
            **federation.arguments(),
        )


@dataclass
class Bulyan(Krum):
    """Krum's choice, then a trimmed mean around its median.

    El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium".
    """

    @property
    def least_replies(self) -> int:
        """4f + 3, as the paper proves."""
        return 4 * self.num_malicious_nodes + 3

    def least_because(self) -> str:
        """See `Strategy.least_because`."""
        f, least = self.num_malicious_nodes, self.least_replies
        return f"strategy.num_malicious_nodes f = {f} is withstood from 4f + 3 = {least} models on"

    def make(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.make`."""
        return flower.Bulyan(num_malicious_nodes=self.num_malicious_nodes, **federation.arguments())
