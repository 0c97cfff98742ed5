"""Totals of a run's energy: by phase, by institution, in kWh and grams, and per point of a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_fl.energy.settings import Energy
from lepton_fl.energy.spent import DECLARED, JOULES_PER_KWH, NOTHING, Joules, Line, Spent, coarse, weakest


@dataclass(frozen=True)
class Account:
    """A run's energy while it goes on."""

    settings: Energy
    lines: Callable[[], Sequence[Line]]  # everything so far


@dataclass(frozen=True)
class Total:
    """What a run, or a part of it, took."""

    spent: Spent
    kwh: float  # of the building: the machine's, times the PUE
    grams: float | None  # CO2 equivalent; None: no grid factor was declared
    tier: str  # of the kWh


@dataclass(frozen=True)
class Step:
    """One more release of a metric, and what it cost to get there."""

    round: int
    value: float
    kwh: float  # of the run up to and with this round
    kwh_per_point: float | None  # of 0.01 more of the metric than before; None: it did not grow


def total(lines: Iterable[Line], settings: Energy) -> Total:
    """Of all these lines. A PUE of 1 declares nothing, so that a measured total can stay one."""
    spent = sum((line.spent for line in lines), NOTHING)
    joules: Joules = spent.total
    kwh = joules.value / JOULES_PER_KWH * settings.pue
    grams = None if settings.grid_g_per_kwh is None else kwh * settings.grid_g_per_kwh
    tier = joules.tier if settings.pue == 1 else weakest((joules.tier, DECLARED))
    return Total(spent, kwh, grams, tier)


def by_phase(lines: Sequence[Line], settings: Energy) -> dict[str, Total]:
    """A total for each phase there is."""
    return _by(lines, settings, lambda line: line.phase)


def by_institution(lines: Sequence[Line], settings: Energy) -> dict[str, Total]:
    """A total for each institution that told its energy."""
    return _by(lines, settings, lambda line: line.institution)


def _by(lines: Sequence[Line], settings: Energy, key: Callable[[Line], str]) -> dict[str, Total]:
    apart: dict[str, list[Line]] = {}
    for line in lines:
        apart.setdefault(key(line), []).append(line)
    return {name: total(apart[name], settings) for name in sorted(apart)}


def marginal(history: Sequence[tuple[int, float]], lines: Sequence[Line], settings: Energy) -> tuple[Step, ...]:
    """What each further point of a released metric cost.

    Args:
        history: round and value of each release, in the order of rounds.
    """
    steps: list[Step] = []
    for round, value in history:
        kwh = total([line for line in lines if line.round <= round], settings).kwh
        cost = None
        if steps and value > steps[-1].value:
            cost = (kwh - steps[-1].kwh) / (100 * (value - steps[-1].value))
        steps.append(Step(round, value, kwh, cost))
    return tuple(steps)


def should_stop(history: Sequence[tuple[int, float]], lines: Sequence[Line], settings: Energy) -> str | None:
    """Why the run should end now, in one clause; None: it should go on.

    It ends after `patience` releases in a row that each gained fewer points of accuracy per kWh than `stop_below`.

    Args:
        history: round and released accuracy, in the order of rounds; a figure that was not released decides nothing.
    """
    if settings.stop_below is None:
        return None
    steps = marginal(history, lines, settings)
    last = steps[-settings.patience :]
    before = steps[-settings.patience - 1 : -1]
    if len(before) < settings.patience:
        return None
    for earlier, later in zip(before, last, strict=True):
        kwh, points = later.kwh - earlier.kwh, 100 * (later.value - earlier.value)
        if kwh <= 0 or points >= settings.stop_below * kwh:
            return None  # without energy that anybody told, nothing can be too dear
    return (
        f"the last {settings.patience} releases of accuracy each gained fewer than {settings.stop_below:g} points per "
        "kWh (energy.stop_below)"
    )


def as_json(lines: Sequence[Line], settings: Energy, institutions: Sequence[str]) -> dict[str, Any]:
    """The totals of a run, for `result.json`; who told nothing is named."""
    told = by_institution(lines, settings)
    return {
        **_total_as_json(total(lines, settings)),
        "pue": settings.pue,
        "grid": None
        if settings.grid_g_per_kwh is None
        else {"g_per_kwh": settings.grid_g_per_kwh, "source": settings.source, "year": settings.year, "tier": DECLARED},
        "by_phase": {name: _total_as_json(one) for name, one in by_phase(lines, settings).items()},
        "by_institution": {name: _total_as_json(one) for name, one in told.items()},
        "not_told": sorted({*institutions} - told.keys()),
    }


def _total_as_json(one: Total) -> dict[str, Any]:
    joules = {
        name: {"value": coarse(component.value), "tier": component.tier} for name, component in one.spent.joules.items()
    }
    return {
        "joules": joules,
        "kwh": coarse(one.kwh),
        "tier": one.tier,
        "gco2e": None if one.grams is None else coarse(one.grams),
        "wall_s": coarse(one.spent.wall_s),
        "cpu_s": coarse(one.spent.cpu_s),
        "bytes_up": one.spent.bytes_up,
        "bytes_down": one.spent.bytes_down,
    }
