"""A figure as it is shown: a value with its interval, or a word for why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lepton_fl.errors import DataError

SHOWN = "shown"
SUPPRESSED = "suppressed"  # too few subjects, by the noisy count
NOT_RESOLVED = "not resolved"  # a gap that may as well be none; that does not say there is none
NOT_MEASURED = "not measured"
STATUSES = (SHOWN, SUPPRESSED, NOT_RESOLVED, NOT_MEASURED)


@dataclass(frozen=True)
class Figure:
    """One metric. A figure that is suppressed or not measured has no value and no interval."""

    metric: str
    value: float | None
    low: float | None  # of the interval
    high: float | None
    status: str
    why: str = ""  # in words, where there is more to say


def suppressed(metric: str, why: str) -> Figure:
    """Hidden, for a reason."""
    return Figure(metric, None, None, None, SUPPRESSED, why)


def not_measured(metric: str, why: str) -> Figure:
    """Not there, for a reason."""
    return Figure(metric, None, None, None, NOT_MEASURED, why)


def figure_as_json(figure: Figure) -> dict[str, Any]:
    """Plain values; `figure_from_json` reads them."""
    return asdict(figure)


def figure_from_json(document: Mapping[str, Any]) -> Figure:
    """The figure that someone wrote.

    Raises:
        DataError: anything else than one.
    """
    names = ("metric", "value", "low", "high", "status", "why")
    if not isinstance(document, Mapping) or set(document) != set(names):
        raise unreadable()
    numbers = [document[name] for name in ("value", "low", "high")]
    words = [document[name] for name in ("metric", "status", "why")]
    if not all(isinstance(word, str) for word in words) or document["status"] not in STATUSES:
        raise unreadable()
    if not all(one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in numbers):
        raise unreadable()
    metric, status, why = words
    value, low, high = (None if one is None else float(one) for one in numbers)
    return Figure(metric, value, low, high, status, why)


def unreadable() -> DataError:
    """For whoever reads figures that are none."""
    return DataError("the figures of an evaluation cannot be read; nothing was shown; write them again from the run")
