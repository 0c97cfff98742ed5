"""Accuracy, AUC and loss from counts; nothing here sees a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lepton_fl.evaluation.intervals import least

if TYPE_CHECKING:
    from lepton_fl.evaluation.histogram import Histogram  # with torch, for which nobody who looks at figures waits

SCORE_BINS = 1000
LEAST_BINS = 10  # of a score: from fewer neither an order nor a probability can be told


@dataclass(frozen=True)
class Metrics:
    """Figures of one model on counted hold-out records; of noised counts, without their intervals."""

    records: int
    accuracy: float | None  # share classified right (two classes: score >= 0.5); None without records
    auc: float | None  # area under the ROC curve; None for more than two classes, or where one is absent
    loss: float | None  # mean cross-entropy, nats


def metrics_of(histogram: Histogram) -> Metrics:
    """The figures of a round's line, of all groups together.

    Noised: None instead of a figure that `intervals.least` would not show; AUC and loss None from fewer than ten bins.
    The loss takes the middle of its bin for every score in it.
    """
    table = histogram.table.sum(axis=0).astype(np.float64)
    labels, bins = table.shape
    records, noise = float(table.sum()), histogram.variance * histogram.table.shape[0]
    if records <= 0 or (histogram.variance and records < least(noise * table.size)):
        return Metrics(max(0, int(records)), None, None, None)
    right = np.trace(table) if labels > 2 else table[0, : bins // 2].sum() + table[1, bins // 2 :].sum()
    accuracy = float(np.clip(right / records, 0.0, 1.0))
    if labels > 2 or bins < LEAST_BINS:
        return Metrics(int(records), accuracy, None, None)
    area = auc(table) if not histogram.variance or table.sum(axis=1).min() >= least(noise * bins) else None
    return Metrics(
        int(records), accuracy, None if area is None else float(np.clip(area, 0.0, 1.0)), max(0.0, log_loss(table))
    )


def losses(bins: int) -> npt.NDArray[np.float64]:
    """Cross-entropy of each cell, label by bin, a score being the middle of its bin; float64 [2, bins], nats."""
    middles = centres(bins)
    return -np.log(np.stack([1 - middles, middles]))


def centres(bins: int) -> npt.NDArray[np.float64]:
    """The score in the middle of each bin."""
    return (np.arange(bins) + 0.5) / bins


def log_loss(table: npt.NDArray[np.float64]) -> float:
    """Mean cross-entropy by bins, nats; of counts, label by score bin, that are not all zero."""
    return float((losses(table.shape[1]) * table).sum() / table.sum())


def auc(table: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> float | None:
    """Chance that a positive's score bin is above a negative's, ties counting half.

    Args:
        table: [2, bins], label by score bin.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve" (Mann-Whitney form).
    """
    negatives, positives = table.astype(np.float64)
    if not negatives.sum() or not positives.sum():
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))
