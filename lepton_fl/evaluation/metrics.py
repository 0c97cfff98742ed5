"""Accuracy, AUC and loss from counts; nothing here sees a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lepton_fl.evaluation.counts import Counts  # with torch, for which nobody who looks at figures waits

SCORE_BINS = 1000


@dataclass(frozen=True)
class Metrics:
    """Figures of one model on counted hold-out records."""

    records: int
    accuracy: float | None  # share classified right (two classes: score >= 0.5); None without records
    auc: float | None  # area under the ROC curve; None for more than two classes, or where one is absent
    loss: float | None  # mean cross-entropy, nats


def from_counts(counts: Counts) -> Metrics:
    """Every figure these counts allow."""
    records = counts.records
    if records == 0:
        return Metrics(0, None, None, None)
    is_binary = counts.table.shape == (2, SCORE_BINS)  # label by score bin; otherwise label by guess
    if is_binary:
        half = SCORE_BINS // 2
        right = int(counts.table[0, :half].sum() + counts.table[1, half:].sum())
    else:
        right = int(np.trace(counts.table))
    return Metrics(records, right / records, auc(counts.table) if is_binary else None, counts.loss_sum / records)


def auc(table: npt.NDArray[np.int64]) -> float | None:
    """Chance that a positive's score bin is above a negative's, ties counting half.

    Args:
        table: int64 [2, bins], label by score bin.

    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve" (Mann-Whitney form).
    """
    negatives, positives = table.astype(np.float64)
    if not negatives.sum() or not positives.sum():
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))
