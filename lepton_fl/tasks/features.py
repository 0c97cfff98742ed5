"""Which of a model's inputs are one column of a table: a category's several inputs are one thing to people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.tasks.schema import Column


@dataclass(frozen=True)
class Features:
    """Columns in the order of the inputs, and how many inputs each one has."""

    names: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Of the model."""
        return sum(self.widths)

    def summed(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """One number for each column, the sum over its inputs.

        Args:
            values: float64 [n, inputs].

        Returns:
            float64 [n, columns].
        """
        begins = np.concatenate([[0], np.cumsum(self.widths)[:-1]])
        return np.add.reduceat(values, begins, axis=1)


def features_of(columns: Mapping[str, Column]) -> Features:
    """The columns of a table as its records are encoded, known from the declaration alone."""
    return Features(tuple(columns), tuple(column.width for column in columns.values()))
