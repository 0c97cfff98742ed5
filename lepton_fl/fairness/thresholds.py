"""One threshold for each group, from the last noisy histogram of the subjects set apart; nothing further is released.

The rate that all groups together have at one half is what each group's threshold comes nearest to. A group below the
suppression limit keeps one half.

Source: Hardt et al. 2016, "Equality of Opportunity in Supervised Learning", section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_fl.evaluation.histogram import Histogram
from lepton_fl.fairness.marginal import marginal, over_cells
from lepton_fl.fairness.settings import RECALL, Thresholds
from lepton_fl.fairness.weighing import limit

SCHEMA = "lepton-fl/thresholds/1"


@dataclass(frozen=True)
class GroupThresholds:
    """For each group of an attribute, the first bin of the score from which class 1 is decided."""

    attribute: str
    groups: tuple[str, ...]
    edges: tuple[int, ...]
    bins: int
    kept: tuple[str, ...]  # groups too small to be looked at, which keep one half
    target: str
    legal_basis: str


def chosen(settings: Thresholds, tune: Histogram) -> GroupThresholds:
    """The thresholds that follow from a final histogram of two labels."""
    attribute = settings.among(tune.layout.groups)
    made = marginal(tune, attribute)
    counted = made.table[:, 1] if settings.target == RECALL else made.table.sum(axis=1)
    labels = 1 if settings.target == RECALL else 2
    bins, half = tune.layout.bins, tune.layout.bins // 2
    totals = counted.sum(axis=1)
    shown = totals >= limit(made.variance * labels, bins)
    edges = np.full(len(attribute.groups), half, dtype=np.int64)
    if shown.sum() >= 2:
        wanted = counted[shown, half:].sum() / totals[shown].sum()
        for group in np.flatnonzero(shown):
            edges[group] = _nearest(counted[group] / totals[group], float(wanted))
    kept = tuple(name for name, is_shown in zip(attribute.groups, shown, strict=True) if not is_shown)
    where = tuple(int(edge) for edge in edges)
    return GroupThresholds(attribute.name, attribute.groups, where, bins, kept, settings.target, settings.legal_basis)


def _nearest(shares: npt.NDArray[np.float64], wanted: float) -> int:
    """The edge in 1..bins - 1 above which the share comes nearest to the one wanted; of several, nearest one half."""
    above = np.cumsum(shares[::-1])[::-1]
    edges = np.arange(1, len(shares))
    distance = np.abs(above[1:] - wanted)
    # A tie, where bins are empty, must not move a threshold further than it has to.
    order = np.lexsort((np.abs(edges - len(shares) // 2), np.round(distance, 12)))
    return int(edges[order[0]])


def decided_by(thresholds: GroupThresholds, scores: Histogram) -> Histogram:
    """The histogram of decisions that these thresholds make, in two bins.

    Its variance is that of the noisier of the two bins, so that intervals are never too short.
    """
    attribute = next(one for one in scores.layout.groups.attributes if one.name == thresholds.attribute)
    width = scores.layout.bins // thresholds.bins
    if scores.layout.bins % thresholds.bins:
        raise ValueError(f"thresholds at {thresholds.bins} bins cannot be judged by {scores.layout.bins}")
    edges = over_cells(np.array(thresholds.edges, dtype=np.float64), scores.layout.groups, attribute).astype(np.int64)
    table = np.zeros((*scores.table.shape[:2], 2), dtype=np.int64)
    for cell, edge in enumerate(edges * width):
        table[cell, :, 0] = scores.table[cell, :, :edge].sum(axis=1)
        table[cell, :, 1] = scores.table[cell, :, edge:].sum(axis=1)
    most = max(max(edge, thresholds.bins - edge) for edge in thresholds.edges) * width
    return Histogram(scores.layout.with_bins(2), table, scores.variance * most)


def thresholds_as_json(thresholds: GroupThresholds) -> dict[str, Any]:
    """As `thresholds.json` holds them: from which score on class 1 is decided."""
    return {
        "schema": SCHEMA,
        "attribute": thresholds.attribute,
        "target": thresholds.target,
        "legal_basis": thresholds.legal_basis,
        "thresholds": {
            group: edge / thresholds.bins for group, edge in zip(thresholds.groups, thresholds.edges, strict=True)
        },
        "suppressed": list(thresholds.kept),
    }
