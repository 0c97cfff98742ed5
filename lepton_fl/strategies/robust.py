"""Strategies that outvote hostile updates; each names how many it withstands, and how large a cohort that takes."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_fl.errors import ConfigError
from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.strategy import Federation, Strategy, require


@dataclass
class FedMedian(Strategy):
    """The coordinate-wise median of the institutions' models.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
    """

    def build(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.build`."""
        return flower.FedMedian(**federation.arguments())


@dataclass
class FedTrimmedAvg(Strategy):
    """The coordinate-wise mean without the smallest and largest values.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
    """

    beta: float  # share cut off at each end, in [0, 0.5)

    def __post_init__(self) -> None:
        require("beta", self.beta, 0 <= self.beta < 0.5, "in [0, 0.5)")

    def build(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.build`."""
        if self.beta > 0 and int(self.beta * federation.cohort_size) == 0:
            raise ConfigError(
                f"strategy.beta {self.beta} of a cohort of {federation.cohort_size} cuts off nobody, which is plain "
                f"averaging; nothing was trained; raise it to at least {1 / federation.cohort_size:.3g}"
            )
        return flower.FedTrimmedAvg(beta=self.beta, **federation.arguments())


@dataclass
class Krum(Strategy):
    """The one model nearest to its neighbours.

    Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent".
    """

    num_malicious_nodes: int  # hostile institutions withstood, f

    def __post_init__(self) -> None:
        require("num_malicious_nodes", self.num_malicious_nodes, self.num_malicious_nodes >= 0, ">= 0")

    def build(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.build`."""
        require_cohort(federation, 2 * self.num_malicious_nodes + 3, "2f + 3")
        return flower.Krum(num_malicious_nodes=self.num_malicious_nodes, **federation.arguments())


@dataclass
class MultiKrum(Krum):
    """The mean of the models nearest to their neighbours; same source as Krum."""

    num_nodes_to_select: int  # models averaged

    def __post_init__(self) -> None:
        super().__post_init__()
        require("num_nodes_to_select", self.num_nodes_to_select, self.num_nodes_to_select >= 1, ">= 1")

    def build(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.build`."""
        require_cohort(federation, 2 * self.num_malicious_nodes + 3, "2f + 3")
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

    def build(self, federation: Federation) -> flower.Strategy:
        """See `Strategy.build`."""
        require_cohort(federation, 4 * self.num_malicious_nodes + 3, "4f + 3")
        return flower.Bulyan(num_malicious_nodes=self.num_malicious_nodes, **federation.arguments())


def require_cohort(federation: Federation, least: int, formula: str) -> None:
    """Refuse a cohort below what the paper proves: Flower would average it all the same, or skip the round."""
    if federation.cohort_size < least:
        raise ConfigError(
            f"this strategy needs a cohort of at least {formula} = {least} for strategy.num_malicious_nodes, and "
            f"{federation.cohort_size} take part; nothing was trained; lower num_malicious_nodes or add institutions"
        )
