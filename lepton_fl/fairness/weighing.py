"""Weights of groups from noisy counts. Everything here is post-processing of what was released.

Counts that are lost in their noise say nothing: a group below the suppression limit keeps weight 1, and a gap is
shrunk by how well it is known.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lepton_fl.fairness.settings import ACCURACY, RECALL, SELECTION, WORST
from lepton_fl.training.weights import LEAST, MOST

Table = npt.NDArray[np.float64]

_FEWEST = 20.0  # counted people below which a group is not looked at
_CLEAR = 5.0  # standard deviations of noise, likewise


def reweighing(counts: Table, variance: float, most: float) -> Table:
    """Weights [groups, labels] that make group and label independent: N_a N_y / (N N_ay).

    Args:
        counts: [groups, labels], noisy.
        variance: of the noise of each count.
        most: no weight is above it or below 1 / most.

    Source: Kamiran and Calders 2012, "Data Preprocessing Techniques for Classification without Discrimination".
    """
    known = counts >= limit(variance, 1)
    n = np.where(known, counts, 0.0)
    total = n.sum()
    if total <= 0:
        return np.ones_like(counts)
    expected = n.sum(axis=1, keepdims=True) * n.sum(axis=0, keepdims=True) / total
    reliable = n**2 / (n**2 + variance + 1e-12)
    with np.errstate(divide="ignore"):
        raw = np.where(known, expected / np.where(known, counts, 1.0), 1.0)
    return bounded(np.where(known, np.exp(reliable * np.log(np.maximum(raw, 1e-9))), 1.0), n, most)


def limit(variance: float, cells: int) -> float:
    """The noisy count below which a sum over so many cells is not looked at: max(20, 5 standard deviations)."""
    return max(_FEWEST, _CLEAR * math.sqrt(variance * cells))


def bounded(weights: Table, counts: Table, most: float) -> Table:
    """Weights whose mean over the counted is near 1, none above `most`, `MOST`, nor below their inverses or `LEAST`."""
    n = np.maximum(counts, 0.0)
    cut = np.clip(weights, 1 / most, most)
    mean = float((cut * n).sum() / n.sum()) if n.sum() > 0 else 1.0
    out: Table = np.clip(cut / mean, max(LEAST, 1 / most), min(MOST, most))
    return out


def gaps(table: Table, totals: Table, variances: tuple[float, float], target: str) -> Table:
    """How much worse than all together each group and label is served, [groups, labels], shrunk by its uncertainty.

    Above 0 where the weight should grow. Recall concerns the records of one label: with two labels of the second alone,
    with more of each. Selection asks for more of label 1 by more weight there and less on label 0.

    Args:
        table: [groups, labels, bins], the last release; two labels: 2 bins of the score, else the guessed label.
        totals: [groups, labels], of the same people, which may be known better than from one release.
        variances: of the noise of a cell of `table`, and of a cell of `totals`.
    """
    labels = table.shape[1]
    right = np.stack([table[:, label, label] for label in range(labels)], axis=1)
    out = np.zeros_like(totals)
    if target == RECALL:
        for label in range(1 if labels == 2 else 0, labels):
            out[:, label] = _behind(right[:, label], totals[:, label], (variances[0], variances[1]))
    elif target == SELECTION:
        chosen = table[:, :, 1].sum(axis=1)
        behind = _behind(chosen, totals.sum(axis=1), (2 * variances[0], 2 * variances[1]))
        out[:, 1], out[:, 0] = behind, -behind
    elif target in (ACCURACY, WORST):
        spread = (labels * variances[0], labels * variances[1])
        behind = _behind(right.sum(axis=1), totals.sum(axis=1), spread)
        if target == WORST:
            behind = np.where(behind == behind.max(), np.maximum(behind, 0.0), 0.0)
        out += behind[:, None]
    return out


def _behind(hits: Table, totals: Table, variances: tuple[float, float]) -> Table:
    """The rate of all shown groups together, less each one's; 0 for a group that is suppressed, shrunk otherwise.

    A gap g with standard error s counts as g * g^2 / (g^2 + s^2): one that is lost in its noise hardly moves a weight.
    """
    shown = totals >= limit(variances[1], 1)
    if shown.sum() < 2:
        return np.zeros_like(totals)
    n = np.where(shown, totals, 1.0)
    rates = np.clip(hits / n, 0.0, 1.0)
    overall = float(hits[shown].sum() / n[shown].sum())
    gap = np.where(shown, overall - rates, 0.0)
    error = rates * (1 - rates) / n + (variances[0] + rates**2 * variances[1]) / n**2
    out: Table = gap * gap**2 / (gap**2 + error + 1e-12)
    return out
