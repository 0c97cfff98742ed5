"""What each method of fair training is told. Criteria conflict, so a consortium declares one: `docs/fairness.md`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lepton_fl.errors import ConfigError
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.weights import MOST

RECALL, SELECTION, ACCURACY, WORST = TARGETS = ("recall", "selection", "accuracy", "worst")


@dataclass
class Fairness:
    """Settings that every method shares."""

    reads_tune: ClassVar[bool] = False  # it takes what it decides from released counts of the subjects set apart
    steers: ClassVar[bool] = False  # the server sends weights of groups with each instruction

    def observed(self, groups: Groups) -> Groups:
        """The groups that the tune histogram counts: as few cells as the method needs, since each one has its noise.

        Raises:
            ConfigError: the task declares no such attribute.
        """
        return groups


@dataclass
class NoFairness(Fairness):
    """Every record counts the same."""


@dataclass
class OfGroups(Fairness):
    """A method that compares the groups of one attribute."""

    attribute: str | None  # of task.sensitive; null: the first one

    def observed(self, groups: Groups) -> Groups:
        """See `Fairness.observed`."""
        return Groups((self.among(groups),))

    def among(self, groups: Groups) -> Attribute:
        """The attribute whose groups are compared; raises `ConfigError` where the task declares no such one."""
        for one in groups.attributes:
            if self.attribute in (None, one.name):
                return one
        asked = "a sensitive attribute" if self.attribute is None else f"the attribute {self.attribute[:40]}"
        raise ConfigError(
            f"fairness compares the groups of {asked}, and task.sensitive has "
            f"{', '.join(one.name for one in groups.attributes) or 'none'}; nothing was trained; declare it there, or "
            "give fairness=none"
        )


@dataclass
class Weighing(OfGroups):
    """A method that gives records weights by group and label."""

    most: float  # no weight is above it or below 1 / most: the noise of a private step grows with the largest one

    def __post_init__(self) -> None:
        if not 1 <= self.most <= MOST:
            raise ConfigError(f"fairness.most must lie between 1 and {MOST:g}, got {self.most}")


@dataclass
class LocalReweighing(Weighing):
    """Each institution weighs its records so that group and label are independent in its own training.

    Kamiran and Calders 2012, "Data Preprocessing Techniques for Classification without Discrimination", section 4.3;
    Abay et al. 2020, "Mitigating Bias in Federated Learning" (local reweighing).
    """


@dataclass
class GlobalReweighing(Weighing):
    """One weight for each group and label, so that they are independent over the federation.

    Kamiran and Calders 2012, as above; Abay et al. 2020 (global reweighing with noisy counts).
    """

    reads_tune: ClassVar[bool] = True
    steers: ClassVar[bool] = True


@dataclass
class GroupWeights(Weighing):
    """Weights that grow where a group is served worse, release by release: weights * exp(step * gap).

    Multiplicative weights as in Agarwal et al. 2018, "A Reductions Approach to Fair Classification", and, for `worst`,
    Sagawa et al. 2020, "Distributionally Robust Neural Networks", algorithm 1.
    """

    target: str  # recall, selection, accuracy: brought together; worst: the group with the lowest accuracy is lifted
    step: float  # how much a gap of 1 moves the logarithm of a weight, > 0

    reads_tune: ClassVar[bool] = True
    steers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in TARGETS:
            raise ConfigError(f"fairness.target must be one of {', '.join(TARGETS)}, got {self.target[:40]}")
        if not 0 < self.step < math.inf:
            raise ConfigError(f"fairness.step must be a positive number, got {self.step}")


@dataclass
class Ditto(Fairness):
    """Every institution also trains a model of its own, pulled towards the federation's; it never leaves.

    Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization".
    """

    pull: float  # lambda: 0 is local training from the federation's model, large is the federation's model
    steps: int  # of local training, for the personal model and for the one that never joined
    learning_rate: float  # of both

    def __post_init__(self) -> None:
        if not 0 <= self.pull < math.inf:
            raise ConfigError(f"fairness.pull must be a number >= 0, got {self.pull}")
        if self.steps < 1:
            raise ConfigError(f"fairness.steps must be at least 1, got {self.steps}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"fairness.learning_rate must be a positive number, got {self.learning_rate}")


@dataclass
class Thresholds(OfGroups):
    """One decision threshold for each group, from the last tune histogram; training stays as it is.

    The attribute is used when a decision is made, which may be unlawful (credit in the United States): hence opt-in.

    Hardt et al. 2016, "Equality of Opportunity in Supervised Learning", section 3.
    """

    target: str  # recall or selection: what the thresholds bring together
    legal_basis: str  # the text that allows the attribute to be used in a decision; stands in thresholds.json

    reads_tune: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.target not in (RECALL, SELECTION):
            raise ConfigError(f"fairness.target must be {RECALL} or {SELECTION} for thresholds, got {self.target[:40]}")
        if not self.legal_basis.strip():
            raise ConfigError(
                "thresholds by group use a sensitive attribute in every decision, which may be unlawful; nothing was "
                "trained; state the law that allows it as fairness.legal_basis, or choose fairness=group"
            )
