"""Every figure of a release, from its noised histograms and nothing else: it costs no further privacy.

Groups are those of each attribute alone, whatever the others; a gap is between groups of one attribute. Which figures
are hidden is decided by noisy counts only, so that hiding says no more than the counts do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lepton_fl.evaluation.figures import Figure, figure_as_json, figure_from_json, unreadable
from lepton_fl.evaluation.gaps import Gap, gaps_of
from lepton_fl.evaluation.group import Counts, figures_of
from lepton_fl.evaluation.metrics import LEAST_BINS

if TYPE_CHECKING:
    from lepton_fl.evaluation.histogram import Histogram  # with torch, for which nobody who looks at figures waits


@dataclass(frozen=True)
class GroupFigures:
    """Of one group of one attribute."""

    attribute: str
    group: str
    figures: tuple[Figure, ...]  # the number of records first


@dataclass(frozen=True)
class Assessment:
    """Of everybody, of each group, and between the groups."""

    overall: tuple[Figure, ...]  # the number of records first
    groups: tuple[GroupFigures, ...]
    gaps: tuple[Gap, ...]


def assess(decisions: Histogram, scores: Histogram | None, confidence: float) -> Assessment:
    """Every figure these histograms allow, each with an interval at this confidence.

    Args:
        decisions: of two labels with any bins; what is asked at the threshold is asked of it.
        scores: for AUC, log loss and calibration; None, or fewer than ten bins: those are not measured. Of more than
            two labels it says no more than the decisions do.
        confidence: say 0.95: over many releases so many intervals hold the figure of the people that the held-out ones
            were drawn from.
    """
    groups, tail = decisions.layout.groups, (1 - confidence) / 2
    parts = {
        one.name: {group: _counts(decisions, scores, groups.members(one.name, group)) for group in one.groups}
        for one in groups.attributes
    }
    return Assessment(
        figures_of(everyone(decisions, scores), tail),
        tuple(
            GroupFigures(name, group, figures_of(counts, tail))
            for name, each in parts.items()
            for group, counts in each.items()
        ),
        tuple(gap for name, each in parts.items() for gap in gaps_of(name, each, tail)),
    )


def everyone(decisions: Histogram, scores: Histogram | None = None) -> Counts:
    """All groups together."""
    return _counts(decisions, scores, np.arange(decisions.layout.groups.cells, dtype=np.int64))


def _counts(decisions: Histogram, scores: Histogram | None, cells: npt.NDArray[np.int64]) -> Counts:
    """Of these cells of the groups together."""
    if decisions.layout.labels == 2:
        decisions = decisions.coarser(2)
    has_scores = scores is not None and scores.layout.labels == 2 and scores.layout.bins >= LEAST_BINS
    return Counts(
        decisions.table[cells].sum(axis=0).astype(np.float64),
        decisions.variance * len(cells),
        scores.table[cells].sum(axis=0).astype(np.float64) if scores is not None and has_scores else None,
        0.0 if scores is None else scores.variance * len(cells),
    )


def assessment_as_json(assessment: Assessment) -> dict[str, Any]:
    """Plain values; `assessment_from_json` reads them."""
    return {
        "overall": [figure_as_json(one) for one in assessment.overall],
        "groups": [
            {"attribute": one.attribute, "group": one.group, "figures": [figure_as_json(each) for each in one.figures]}
            for one in assessment.groups
        ],
        "gaps": [
            {
                "attribute": one.attribute,
                "figure": figure_as_json(one.figure),
                "between": None if one.between is None else list(one.between),
            }
            for one in assessment.gaps
        ],
    }


def assessment_from_json(document: Mapping[str, Any]) -> Assessment:
    """The assessment that someone wrote.

    Raises:
        DataError: anything else than one.
    """
    try:
        return Assessment(
            tuple(figure_from_json(one) for one in document["overall"]),
            tuple(
                GroupFigures(_word(one["attribute"]), _word(one["group"]), tuple(map(figure_from_json, one["figures"])))
                for one in document["groups"]
            ),
            tuple(
                Gap(_word(one["attribute"]), figure_from_json(one["figure"]), _pair(one["between"]))
                for one in document["gaps"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable() from error


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise unreadable()
    return value


def _pair(value: Any) -> tuple[str, str] | None:
    if value is None:
        return None
    one, other = value
    return _word(one), _word(other)
