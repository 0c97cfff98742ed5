"""Columns of a table and how one is scaled: by declared public bounds, never by the data.

A minimum, a mean or a median of the records would be a release nobody accounted for. Bounds and
categories are declared in the task's YAML, so a feature's place and scale are known before a record is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError

_KINDS = ("numeric", "categorical")


@dataclass
class Column:
    """A feature: its kind, unit, and declared bounds (numeric) or values (categorical)."""

    kind: str  # numeric or categorical
    unit: str | None = None  # of a numeric column, for people
    low: float | None = None
    high: float | None = None
    values: list[str] | None = None

    def check(self, name: str) -> None:
        """Raise `ConfigError`, naming the column, if it is not wholly declared."""
        if self.kind not in _KINDS:
            raise ConfigError(f"task.columns.{name}.kind must be one of {', '.join(_KINDS)}, got {self.kind}")
        if self.kind == "numeric":
            if self.low is None or self.high is None or not -math.inf < self.low < self.high < math.inf:
                raise ConfigError(
                    f"task.columns.{name} needs declared bounds low < high, got {self.low} and {self.high}; nothing "
                    "was read; take them from common knowledge, never from the data"
                )
        elif self.values is None or not _all_different(self.values):
            raise ConfigError(f"task.columns.{name} needs at least two different values, got {self.values}")

    @property
    def width(self) -> int:
        """Features this column becomes: its number or categories, and one for `missing`."""
        return 2 if self.values is None else len(self.values) + 1


@dataclass
class Label:
    """What is predicted: the column and its values; with two, the second is the positive class."""

    column: str
    values: list[str]

    def __post_init__(self) -> None:
        if not _all_different(self.values):
            raise ConfigError(f"task.label.values needs at least two different values, got {self.values}")


def plain(cell: str) -> str:
    """One spelling of a value: 1, 1.0 and true are one, as exporters write them differently."""
    whole = cell.removesuffix(".0")
    return whole if whole.lstrip("-").isdigit() else {"true": "1", "false": "0"}.get(cell.lower(), cell)


def quoting_hint(values: list[str]) -> str:
    """A clause for values that look like what YAML made of an unquoted yes or no; else nothing."""
    looks_so = {"True", "False"} & set(values)
    return " (YAML reads an unquoted yes or no as True or False: quote them)" if looks_so else ""


def _all_different(values: list[str]) -> bool:
    """At least two, no two of them the same value in another spelling."""
    return len(values) >= 2 and len({plain(value) for value in values}) == len(values)


def scale(numbers: npt.NDArray[np.float64], column: Column) -> npt.NDArray[np.float32]:
    """Map declared bounds to [-1, 1]; clip what lies outside; a missing number is 0 with indicator 1.

    Args:
        numbers: float64 [n], NaN where missing.

    Returns:
        float32 [n, 2]: the scaled number, and 1 where it was missing.
    """
    assert column.low is not None and column.high is not None  # noqa: S101, PT018 - for the type checker
    missing = np.isnan(numbers)
    inside = np.clip(np.where(missing, column.low, numbers), column.low, column.high)
    scaled = 2.0 * (inside - column.low) / (column.high - column.low) - 1.0
    return np.stack([np.where(missing, 0.0, scaled), missing], axis=1).astype(np.float32)


def one_hot(codes: npt.NDArray[np.int64], column: Column) -> npt.NDArray[np.float32]:
    """One feature per declared value and a last one for missing or undeclared.

    Args:
        codes: int64 [n], position in `column.values`; -1 where missing.

    Returns:
        float32 [n, values + 1].
    """
    assert column.values is not None  # noqa: S101 - for the type checker
    return np.eye(len(column.values) + 1, dtype=np.float32)[codes]
