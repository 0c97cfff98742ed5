"""Epsilon as it may be shown: never without its unit, its delta and the budget it is part of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """What one run has spent so far at one institution."""

    unit: str  # whose presence is hidden
    epsilon: float
    epsilon_budget: float
    delta: float

    def __str__(self) -> str:
        return f"{self.epsilon:.2f} of {self.epsilon_budget:.2f} per {self.unit} at delta {self.delta:g}"
