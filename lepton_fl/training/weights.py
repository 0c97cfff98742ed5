"""Weights of records by group and label, so that training may count some groups with more.

Under private training a weight multiplies a record's gradient *after* it was clipped: a weight in the loss would be
undone by the clipping, which returns the gradient to the same norm. Divided by the largest weight it is at most 1, so
no record moves the sum by more than the clipping norm and the accounting stays as it is. The step is longer by that
largest weight instead, and so is its noise: hence the bounds.

The table comes with the instruction, from what the federation released; a record only looks its own cell up.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from lepton_fl.training.examples import Examples

LEAST, MOST = 0.2, 5.0
WEIGHTS_KEY = "group-weights"  # in an instruction: the weights row by row

Weights = npt.NDArray[np.float64]
"""[cells, labels], each in [LEAST, MOST]; their mean over all records is meant to be near 1."""


def gain(weights: Weights | None) -> float:
    """How much longer a step is: the largest weight, a number of the instruction alone."""
    return 1.0 if weights is None else float(weights.max())


def weighted(examples: Examples, weights: Weights | None) -> Examples:
    """The same records, each with its cell's weight over the largest weight, in (0, 1].

    Raises:
        ValueError: weights out of bounds, or a record whose group or label has none.
    """
    if weights is None:
        return examples
    table = torch.from_numpy(checked(weights) / weights.max())
    cells = torch.zeros_like(examples.labels) if examples.groups is None else examples.groups
    if len(examples) and (int(cells.max()) >= table.shape[0] or int(examples.labels.max()) >= table.shape[1]):
        raise ValueError("a record's group or label has no weight")
    return replace(examples, weights=table[cells, examples.labels])


def checked(weights: Weights) -> Weights:
    """The same weights; raises `ValueError` unless they are a table of finite numbers within the bounds."""
    if weights.ndim != 2 or weights.size == 0 or not ((weights >= LEAST) & (weights <= MOST)).all():
        raise ValueError(f"weights of groups are a table of numbers from {LEAST:g} to {MOST:g}")
    return weights
