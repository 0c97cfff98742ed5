"""What a report says of one thing: a value with its interval, where it comes from, what it cost, where it is logged.

Decimals are text, rounded here once, so that the same facts make the same bytes everywhere. A bound is rounded away
from the value and an epsilon upwards: what is printed never promises more than what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Any

SHOWN, SUPPRESSED, NOT_RESOLVED, NOT_MEASURED = STATUSES = ("shown", "suppressed", "not resolved", "not measured")

Plain = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where figures come from: the file, the epsilon that was paid for them, the entry of the log."""

    source: str
    epsilon_spent: str | None = None
    log_index: int | None = None


@dataclass(frozen=True)
class Shown:
    """One statement of the report, a number or words; without a value it says why there is none."""

    value: str | None
    origin: Origin
    ci: tuple[str, str] | None = None
    status: str = SHOWN
    why: str = ""
    unit: str = ""

    def plain(self) -> Plain:
        """As it is written to `report.json`."""
        return {
            "value": self.value,
            "ci": None if self.ci is None else [*self.ci],
            "source": self.origin.source,
            "epsilon_spent": self.origin.epsilon_spent,
            "log_index": self.origin.log_index,
            "status": self.status,
            "why": self.why,
            "unit": self.unit,
        }

    def at(self, log_index: int | None) -> Shown:
        """The same, written down in this entry of the log."""
        return replace(self, origin=replace(self.origin, log_index=log_index))


def said(value: object, source: str, unit: str = "") -> Shown:
    """Words, or a whole number, as they stand; nothing said is `not measured`."""
    if value is None or value == "":
        return absent(f"{source} does not say", source)
    return Shown("yes" if value is True else "no" if value is False else str(value), Origin(source), unit=unit)


def absent(why: str, source: str = "") -> Shown:
    """Nothing was measured; `why` says what would have had to be there."""
    return Shown(None, Origin(source), status=NOT_MEASURED, why=why)


def number(value: float | None, origin: Origin, places: int, unit: str = "") -> Shown:
    """A number without an interval, rounded to so many places."""
    if value is None or not math.isfinite(value):
        return Shown(None, origin, status=NOT_MEASURED, why=f"{origin.source} has no number for it")
    return Shown(nearest(value, places), origin, unit=unit)


def epsilon(value: float | None, origin: Origin) -> Shown:
    """An epsilon, rounded upwards."""
    if value is None or not math.isfinite(value):
        return Shown(None, origin, status=NOT_MEASURED, why="no epsilon holds for this run")
    return Shown(upwards(value, 4), origin)


def metric(figure: Mapping[str, Any] | None, origin: Origin, places: int = 3) -> Shown:
    """A figure of an assessment; `figure` is its JSON, or None where there is none."""
    if figure is None:
        return Shown(None, origin, status=NOT_MEASURED, why="it is not among the figures of this evaluation")
    status = figure["status"] if figure["status"] in STATUSES else NOT_MEASURED
    value, low, high = figure["value"], figure["low"], figure["high"]
    places = 0 if figure["metric"] == "records" else places
    return Shown(
        value=None if value is None or status in (SUPPRESSED, NOT_MEASURED) else nearest(value, places),
        origin=origin,
        ci=None if value is None or low is None or high is None else (downwards(low, places), upwards(high, places)),
        status=NOT_MEASURED if value is None and status in (SHOWN, NOT_RESOLVED) else status,
        why=str(figure.get("why") or ""),
    )


def nearest(value: float, places: int) -> str:
    """The nearest decimal with so many places; a tie goes to the even one."""
    return _rounded(value, places, ROUND_HALF_EVEN)


def downwards(value: float, places: int) -> str:
    """The largest decimal with so many places that is not above the value."""
    return _rounded(value, places, ROUND_FLOOR)


def upwards(value: float, places: int) -> str:
    """The smallest decimal with so many places that is not below the value."""
    return _rounded(value, places, ROUND_CEILING)


def significant(value: float, digits: int) -> str:
    """The nearest decimal with so many significant digits, written without an exponent."""
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")  # 9.96 with two digits is 10, which has one more before the point
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return _rounded(value, max(places, 0), ROUND_HALF_EVEN)


def _rounded(value: float, places: int, rounding: str) -> str:
    # From the shortest decimal that is this float, so that 0.3 is not rounded up to 0.301.
    number = Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-places), rounding=rounding)
    return f"{abs(number) if number == 0 else number:f}"
