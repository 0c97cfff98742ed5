"""Groups of people whose figures are compared: declared values of declared attributes, and `unknown`.

A record falls in one cell of the crossed attributes, so crossing them costs no privacy: adding or removing a subject
moves one cell by one, however many attributes there are. Which cells exist follows from the declaration alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError

UNKNOWN = "unknown"
MOST_CELLS = 1000


@dataclass(frozen=True)
class Attribute:
    """A sensitive attribute and its declared values; `unknown` is a further, last group."""

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < len(self.values) or UNKNOWN in self.values:
            raise ConfigError(
                f"the groups of {self.name} must differ and none may be called {UNKNOWN}, which is a group of its own; "
                "nothing was read; correct the task's YAML"
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """The values, and `unknown`."""
        return (*self.values, UNKNOWN)


@dataclass(frozen=True)
class Groups:
    """Crossed attributes; without any there is one cell, of everybody. Cells go row by row, the last name fastest."""

    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        if self.cells > MOST_CELLS:
            raise ConfigError(
                f"the sensitive attributes make {self.cells} groups when crossed, and {MOST_CELLS} may be; nothing was "
                "read; name fewer in task.sensitive, or declare fewer values"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Groups of each attribute, `unknown` included."""
        return tuple(len(attribute.groups) for attribute in self.attributes)

    @property
    def cells(self) -> int:
        """How many cells there are, 1 without attributes."""
        return math.prod(self.shape)

    def members(self, attribute: str, value: str) -> npt.NDArray[np.int64]:
        """The cells of one group, whatever the other attributes; int64, ascending.

        Raises:
            KeyError: no such attribute or value.
        """
        for axis, one in enumerate(self.attributes):
            if one.name == attribute and value in one.groups:
                cells = np.arange(self.cells, dtype=np.int64).reshape(self.shape)
                return cells.take(one.groups.index(value), axis=axis).ravel()
        raise KeyError(f"{attribute} has no group {value}")

    def codes(self, columns: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """The cell of each record.

        Args:
            columns: of each attribute, int64 [n]: a place in its values, -1 where it is not known.

        Returns:
            int64 [n]; empty without attributes, as nothing then says how many records there are.
        """
        places = [np.where(columns[one.name] < 0, len(one.values), columns[one.name]) for one in self.attributes]
        if not places:
            return np.zeros(0, dtype=np.int64)
        return np.ravel_multi_index(tuple(places), self.shape).astype(np.int64)
