"""From the crossed groups of a task to the groups of one attribute, and back.

A subject falls in one cell of either, so both histograms have sensitivity 1. The fewer cells have less noise: a group
that is a sum over k cells of the crossed table has k times the variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from lepton_fl.evaluation.histogram import Histogram
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples

Table = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Marginal:
    """Noisy counts by the groups of one attribute."""

    table: Table  # [groups, labels, bins]
    variance: float  # of the noise of each count; 0: exact


def along(examples: Examples, groups: Groups, attribute: Attribute) -> Examples:
    """The same records, each in its group of one attribute instead of its cell of the crossed ones."""
    if examples.groups is None or not groups.attributes:
        return examples
    return replace(examples, groups=torch.from_numpy(_group_of_cell(groups, attribute))[examples.groups])


def marginal(histogram: Histogram, attribute: Attribute) -> Marginal:
    """A histogram's counts summed over every other attribute."""
    groups = histogram.layout.groups
    place = _group_of_cell(groups, attribute)
    table = np.zeros((len(attribute.groups), *histogram.table.shape[1:]))
    np.add.at(table, place, histogram.table)
    return Marginal(table, histogram.variance * groups.cells / len(attribute.groups))


def over_cells(weights: Table, groups: Groups, attribute: Attribute) -> Table:
    """Weights of groups [groups, labels] for the cells of the crossed attributes, [cells, labels]."""
    return weights[_group_of_cell(groups, attribute)]


def _group_of_cell(groups: Groups, attribute: Attribute) -> npt.NDArray[np.int64]:
    place = np.zeros(groups.cells, dtype=np.int64)
    for number, name in enumerate(attribute.groups):
        place[groups.members(attribute.name, name)] = number
    return place
