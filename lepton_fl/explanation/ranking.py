"""Which columns a model looks at most, from a noisy sum: for each a mean with the noise's interval, largest first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_fl.explanation.release import UNITS
from lepton_fl.tasks.features import Features

_LEAST, _LEAST_DEVIATIONS = 20, 5  # records, by their noisy count, below which no mean is shown


@dataclass(frozen=True)
class Weight:
    """A column's mean absolute attribution, in units of the logit."""

    feature: str
    value: float | None  # None: too few records
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ranking:
    """Every column, the heaviest first; where nothing is shown, in the task's order."""

    weights: tuple[Weight, ...]
    records: float  # noisy
    proxies: tuple[str, ...]  # sensitive columns among the first `top`
    why: str  # why nothing is shown; empty where something is


@dataclass(frozen=True)
class Noisy:
    """A noisy sum and what is known of it."""

    total: npt.NDArray[np.int64]  # [columns + 1], of `release.vector`
    variance: float  # of the noise in each coordinate of the sum; 0: exact
    clipping_norm: float


def from_sum(noisy: Noisy, features: Features, confidence: float, watched: tuple[Sequence[str], int]) -> Ranking:
    """The ranking.

    A mean is C A / N with independent noise in A and N; its variance, to first order, is
    sigma^2 (C^2 + mean^2) / N^2. The interval holds the noise alone: it is of these records, not of people at large.

    Args:
        confidence: of each interval, in (0, 1).
        watched: sensitive columns, and how many of the first places they are looked for in.
    """
    sums, count = noisy.total[:-1] / UNITS, float(noisy.total[-1]) / UNITS
    deviation = math.sqrt(noisy.variance) / UNITS
    if count < max(_LEAST, _LEAST_DEVIATIONS * deviation):
        why = "too few records for this noise"
        return Ranking(tuple(Weight(name, None, None, None) for name in features.names), count, (), why)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    weights = []
    for name, part in zip(features.names, sums.tolist(), strict=True):
        mean = noisy.clipping_norm * part / count
        around = z * deviation * math.hypot(noisy.clipping_norm, mean) / count
        weights.append(Weight(name, max(0.0, mean), max(0.0, mean - around), max(0.0, mean + around)))
    weights.sort(key=lambda one: -float(one.value or 0.0))
    sensitive, top = watched
    proxies = tuple(one.feature for one in weights[:top] if one.feature in sensitive and one.value)
    return Ranking(tuple(weights), count, proxies, "")


def as_json(ranking: Ranking) -> dict[str, Any]:
    """For `explanation.json`."""
    status = "suppressed" if ranking.why else "shown"
    return {
        "schema": "lepton-fl/explanation/1",
        "records": round(ranking.records),
        "features": [
            {
                "feature": one.feature,
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "status": status,
                "why": ranking.why,
            }
            for one in ranking.weights
        ],
        "proxies": list(ranking.proxies),
    }
