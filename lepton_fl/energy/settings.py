"""Settings of the energy account: what no counter can tell, and somebody has to declare."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lepton_fl.errors import ConfigError


@dataclass
class Energy:
    """`energy`: `conf/sim.yaml` and `conf/server.yaml` hold the values."""

    power_w: float  # that this machine draws while it computes, where no counter tells
    pue: float  # power usage effectiveness: what the building draws over what its computers draw, >= 1
    grid_g_per_kwh: float | None  # grams of CO2 equivalent per kWh; null: joules and kWh alone
    source: str | None  # who says so of the grid
    year: int | None  # of that figure
    stop_below: float | None  # points of accuracy per kWh; a run whose last releases gain less ends; null: never
    patience: int  # releases in a row that gain less, before it ends

    def __post_init__(self) -> None:
        _require("power_w", self.power_w, 0 <= self.power_w < math.inf, "at least 0")
        _require("pue", self.pue, 1 <= self.pue < math.inf, "at least 1")
        grid = self.grid_g_per_kwh
        _require("grid_g_per_kwh", grid, grid is None or 0 <= grid < math.inf, "null or at least 0")
        if grid is not None and (not self.source or self.year is None):
            raise ConfigError(
                f"energy.grid_g_per_kwh {grid:g} needs energy.source and energy.year: a figure of nobody's is none; "
                "nothing was run; give both, or null for kWh alone"
            )
        stop = self.stop_below
        _require("stop_below", stop, stop is None or 0 < stop < math.inf, "null or a positive number")
        _require("patience", self.patience, self.patience >= 1, "at least 1")


def _require(field: str, value: object, holds: bool, claim: str) -> None:
    if not holds:
        raise ConfigError(f"energy.{field} must be {claim}, got {value}; nothing was run; correct it")
