"""What the server sends with each instruction, and how it learns: from released, noisy, charged counts alone.

Reports keep those counts, so a run that goes on after a crash takes them in again, in order, and needs no other state.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import Histogram
from lepton_fl.fairness.marginal import Marginal, marginal, over_cells
from lepton_fl.fairness.settings import SELECTION, Fairness, GlobalReweighing, GroupWeights, Weighing
from lepton_fl.fairness.weighing import bounded, gaps, reweighing
from lepton_fl.tasks.groups import Groups


class Steering(Protocol):
    """Weights of groups that follow what was released."""

    def weights(self) -> npt.NDArray[np.float64] | None:
        """For the next instruction, [cells, labels], each in [0.2, 5]; None before anything was released."""

    def learned(self, round: int, tune: Histogram) -> None:
        """Take in what was released of the subjects set apart; a round that was taken in already changes nothing."""


def steering_of(fairness: Fairness, groups: Groups, labels: int) -> Steering | None:
    """Who steers a run of this task; None where nobody does.

    Raises:
        ConfigError: the task has not the groups or the labels for it.
    """
    if isinstance(fairness, GroupWeights):
        if fairness.target == SELECTION and labels != 2:
            raise ConfigError(
                f"fairness.target=selection compares how often groups are chosen, and this task has {labels} labels; "
                "nothing was trained; choose recall, accuracy or worst"
            )
        return GroupSteering(fairness, groups, labels)
    if isinstance(fairness, GlobalReweighing):
        return Reweighing(fairness, groups, labels)
    return None


class _OfAttribute:
    """How many of each group and label there are, known better with every release: they are the same people."""

    def __init__(self, fairness: Weighing, groups: Groups, labels: int) -> None:
        self._attribute, self._groups = fairness.among(groups), groups
        self._sum = np.zeros((len(self._attribute.groups), labels))
        self._releases, self._round = 0, 0
        self._variance = 0.0  # of the noise of a cell of the sum
        self._weights = np.ones_like(self._sum)

    def weights(self) -> npt.NDArray[np.float64] | None:
        """See `Steering.weights`."""
        return over_cells(self._weights, self._groups, self._attribute) if self._releases else None

    def _taken_in(self, round: int, tune: Histogram) -> Marginal | None:
        """The release by this attribute's groups; None where it was taken in before."""
        if round <= self._round:
            return None
        made = marginal(tune, self._attribute)
        self._sum += made.table.sum(axis=2)
        self._variance += made.variance * made.table.shape[2]
        self._releases, self._round = self._releases + 1, round
        return made

    def _totals(self) -> tuple[npt.NDArray[np.float64], float]:
        """The mean over the releases, and the variance of its noise."""
        return self._sum / self._releases, self._variance / self._releases**2


class Reweighing(_OfAttribute):
    """See `settings.GlobalReweighing`: from the first release on, sharper with each."""

    def __init__(self, fairness: GlobalReweighing, groups: Groups, labels: int) -> None:
        super().__init__(fairness, groups, labels)
        self._most = fairness.most

    def learned(self, round: int, tune: Histogram) -> None:
        """See `Steering.learned`."""
        if self._taken_in(round, tune) is None:
            return
        self._weights = reweighing(*self._totals(), self._most)


class GroupSteering(_OfAttribute):
    """See `settings.GroupWeights`."""

    def __init__(self, fairness: GroupWeights, groups: Groups, labels: int) -> None:
        super().__init__(fairness, groups, labels)
        self._settings = fairness

    def learned(self, round: int, tune: Histogram) -> None:
        """See `Steering.learned`: weights * exp(step * gap), their mean over the counted brought back to 1."""
        made = self._taken_in(round, decided(tune))
        if made is None:
            return
        totals, variance = self._totals()
        behind = gaps(made.table, totals, (made.variance, variance), self._settings.target)
        raised = self._weights * np.exp(self._settings.step * behind)
        self._weights = bounded(raised, totals, self._settings.most)


def decided(histogram: Histogram) -> Histogram:
    """Its counts by decision: two bins of the score, split at one half; a guessed label stays as it is."""
    return histogram.coarser(2) if histogram.layout.labels == 2 and histogram.layout.bins > 2 else histogram
