"""What a phase took: seconds, joules and bytes, each component of the joules with how it is known.

A sum is known no better than its worst part, so a total takes the weakest tier.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MEASURED = "measured"  # a hardware counter of joules
MODELLED = "modelled"  # busy seconds times a declared power
DECLARED = "declared"  # somebody's word
TIERS = (MEASURED, MODELLED, DECLARED)  # from the strongest to the weakest

TRAIN, EVALUATE, COMMUNICATE, IDLE, AGGREGATE = PHASES = ("train", "evaluate", "communicate", "idle", "aggregate")
COMPONENTS = ("cpu", "gpu")
JOULES_PER_KWH = 3.6e6


def weakest(tiers: Iterable[str]) -> str:
    """The tier of a sum of such parts; of nothing at all, `measured`."""
    return max(tiers, key=TIERS.index, default=MEASURED)


def coarse(value: float) -> float:
    """The value to two significant digits: how long a step took tells how many records it read.

    Args:
        value: finite.
    """
    return float(f"{value:.2g}")


@dataclass(frozen=True)
class Joules:
    """Energy, and how it is known."""

    value: float  # joules, >= 0
    tier: str  # of TIERS

    def __add__(self, other: Joules) -> Joules:
        return Joules(self.value + other.value, weakest((self.tier, other.tier)))


@dataclass(frozen=True)
class Spent:
    """What one phase, or several, took at one place."""

    wall_s: float
    cpu_s: float  # of this process, all its threads
    joules: Mapping[str, Joules]  # by component, of COMPONENTS
    bytes_up: int = 0  # sent to the operator
    bytes_down: int = 0  # that came from the operator

    def __add__(self, other: Spent) -> Spent:
        joules = dict(self.joules)
        for name, more in other.joules.items():
            joules[name] = joules[name] + more if name in joules else more
        return Spent(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            joules,
            self.bytes_up + other.bytes_up,
            self.bytes_down + other.bytes_down,
        )

    def shared_by(self, number: int) -> Spent:
        """One of so many equal parts; bytes are rounded down."""
        joules = {name: Joules(one.value / number, one.tier) for name, one in self.joules.items()}
        return Spent(
            self.wall_s / number, self.cpu_s / number, joules, self.bytes_up // number, self.bytes_down // number
        )

    @property
    def total(self) -> Joules:
        """Of all components, at the weakest of their tiers."""
        return sum(self.joules.values(), Joules(0.0, MEASURED))

    def coarse(self) -> Spent:
        """The same to two significant digits; bytes as they are, since whoever carries them counts them anyway."""
        joules = {name: Joules(coarse(one.value), one.tier) for name, one in self.joules.items()}
        return Spent(coarse(self.wall_s), coarse(self.cpu_s), joules, self.bytes_up, self.bytes_down)

    @property
    def is_sound(self) -> bool:
        """Whether every number is finite and not negative, and every word is known."""
        numbers = [self.wall_s, self.cpu_s, *(one.value for one in self.joules.values())]
        are_known = {*self.joules} <= {*COMPONENTS} and {one.tier for one in self.joules.values()} <= {*TIERS}
        return are_known and min(self.bytes_up, self.bytes_down) >= 0 and all(0 <= n < math.inf for n in numbers)


NOTHING = Spent(0.0, 0.0, {})


@dataclass(frozen=True)
class Line:
    """One line of `energy.jsonl`."""

    round: int
    institution: str
    phase: str  # of PHASES
    spent: Spent
