"""The weights that an institution gives its own records; nothing about them leaves it.

Without privacy they come from its training records as they are. Under privacy that would put their counts, past the
noise, into the model: there they come from one noisy table of the subjects set apart for choices, who are other people
and pay for it from an account of their own. It is drawn once for a run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lepton_fl.fairness.marginal import along, over_cells
from lepton_fl.fairness.settings import LocalReweighing
from lepton_fl.fairness.weighing import reweighing
from lepton_fl.privacy.accounting import Schedule, calibrate_skellam
from lepton_fl.privacy.randomness import Stream
from lepton_fl.privacy.skellam import table
from lepton_fl.privacy.skellam_bounds import variance_for
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples, Site


@dataclass(frozen=True)
class OwnNoise:
    """Of one institution's own table."""

    variance: int  # Skellam, of each count
    stream: Stream


def own_variance(epsilon: float, delta: float) -> int:
    """The least variance with which one release of a table, one cell a subject, keeps this promise (add or remove)."""
    # A hair more, so that rounding in float64 cannot leave it a hair below.
    return math.ceil(variance_for(calibrate_skellam(epsilon, delta, Schedule(1.0, 1)), 1.0) * (1 + 1e-9))


def own_weights(
    fairness: LocalReweighing, site: Site, groups: Groups, labels: int, noise: OwnNoise | None
) -> npt.NDArray[np.float64]:
    """Weights [cells, labels] for this institution's training.

    Args:
        noise: None under privacy=none: then the training records are counted as they are.
    """
    attribute = fairness.among(groups)
    if noise is None:
        counts = _counted(site.train, groups, attribute, labels)
        return over_cells(reweighing(counts.astype(np.float64), 0.0, fairness.most), groups, attribute)
    counts = _counted(one_of_each(site.tune), groups, attribute, labels)
    noisy = counts + table(noise.variance).sample(counts.size, noise.stream).reshape(counts.shape)
    weights = reweighing(noisy.astype(np.float64), float(noise.variance), fairness.most)
    return over_cells(weights, groups, attribute)


def one_of_each(examples: Examples) -> Examples:
    """The first record of each subject, so that nobody is in a table twice."""
    if examples.subjects is None:
        return examples
    first = np.sort(np.unique(examples.subjects.numpy(), return_index=True)[1])
    return examples.at(torch.from_numpy(first))


def _counted(examples: Examples, groups: Groups, attribute: Attribute, labels: int) -> npt.NDArray[np.int64]:
    counts = np.zeros((len(attribute.groups), labels), dtype=np.int64)
    placed = along(examples, groups, attribute).groups
    if placed is not None:
        np.add.at(counts, (placed.numpy(), examples.labels.numpy()), 1)
    return counts
