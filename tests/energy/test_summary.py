"""Totals of a run's energy, and when it buys too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lepton_fl.energy import lines, summary
from lepton_fl.energy.settings import Energy
from lepton_fl.energy.spent import DECLARED, MEASURED, MODELLED, Joules, Line, Spent
from lepton_fl.errors import ConfigError

KWH = 3.6e6


def settings(**changed: object) -> Energy:
    values = {
        "power_w": 100.0,
        "pue": 1.0,
        "grid_g_per_kwh": None,
        "source": None,
        "year": None,
        "stop_below": None,
        "patience": 2,
    }
    return Energy(**{**values, **changed})  # type: ignore[arg-type]


def line(round: int, institution: str, phase: str, joules: float, tier: str = MEASURED) -> Line:
    return Line(round, institution, phase, Spent(2.0, 1.0, {"cpu": Joules(joules, tier)}, 5, 7))


LINES = (
    line(1, "north", "train", 1 * KWH),
    line(1, "south", "train", 2 * KWH, MODELLED),
    line(2, "north", "evaluate", 3 * KWH),
)


def test_totals_add_up_by_phase_and_by_institution() -> None:
    phases, places = summary.by_phase(LINES, settings()), summary.by_institution(LINES, settings())
    assert {name: one.kwh for name, one in phases.items()} == {"train": 3, "evaluate": 3}
    assert {name: one.kwh for name, one in places.items()} == {"north": 4, "south": 2}
    assert summary.total(LINES, settings()).kwh == 6


def test_a_total_takes_the_weakest_tier() -> None:
    assert summary.total(LINES[:1], settings()).tier == MEASURED
    assert summary.total(LINES, settings()).tier == MODELLED
    assert summary.total(LINES[:1], settings(pue=1.5)).tier == DECLARED


def test_grams_need_a_declared_grid_and_count_the_building() -> None:
    assert summary.total(LINES, settings()).grams is None
    declared = settings(pue=1.5, grid_g_per_kwh=100.0, source="a table", year=2024)
    assert summary.total(LINES, declared).grams == 6 * 1.5 * 100


@pytest.mark.parametrize(
    "changed",
    [
        {"pue": 0.9},
        {"power_w": -1.0},
        {"grid_g_per_kwh": 300.0},
        {"grid_g_per_kwh": 300.0, "source": "a table"},
        {"stop_below": 0.0},
        {"patience": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="nothing was run"):
        settings(**changed)


def test_a_point_of_the_metric_has_a_price() -> None:
    steps = summary.marginal([(1, 0.70), (2, 0.75), (3, 0.75)], LINES, settings())
    assert [step.kwh for step in steps] == [3, 6, 6]
    assert [step.kwh_per_point for step in steps] == [None, pytest.approx(3 / 5), None]


def test_who_told_nothing_is_named() -> None:
    told = summary.as_json(LINES, settings(), ["east", "north", "south"])
    assert told["not_told"] == ["east"]
    assert (told["kwh"], told["tier"], told["gco2e"], told["grid"]) == (6, MODELLED, None, None)


def rounds(count: int) -> list[Line]:
    return [line(round, "north", "train", KWH) for round in range(1, count + 1)]


def test_a_run_ends_after_releases_in_a_row_that_each_buy_too_little() -> None:
    history = [(1, 0.70), (2, 0.80), (3, 0.801), (4, 0.802)]
    stops = settings(stop_below=1.0)
    assert summary.should_stop(history[:3], rounds(4), stops) is None
    why = summary.should_stop(history, rounds(4), stops)
    assert why is not None
    assert "fewer than 1 points per kWh" in why
    assert summary.should_stop(history, rounds(4), settings()) is None
    assert summary.should_stop(history, [], stops) is None


def test_lines_come_back_as_they_were_written_and_a_broken_last_one_is_left_out(tmp_path: Path) -> None:
    lines.write(tmp_path, LINES[:1])
    lines.append(tmp_path, LINES[1:])
    told = tuple(replace(one, spent=one.spent.coarse()) for one in LINES)
    assert lines.read(tmp_path) == told
    with (tmp_path / lines.NAME).open("a") as file:
        file.write('{"round": 3, "institu')
    assert lines.read(tmp_path) == told
    assert lines.read(tmp_path / "absent") == ()


@pytest.mark.parametrize("broken", [{"joules": {"cpu": {"value": -1, "tier": "measured"}}}, {"wall_s": float("nan")}])
def test_a_line_with_impossible_numbers_is_none(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no line of energy"):
        lines.from_json({**lines.as_json(LINES[0]), **broken})


def test_a_line_holds_two_significant_digits() -> None:
    exact = Line(1, "north", "train", Spent(12.345, 6.789, {"cpu": Joules(4321.0, MEASURED)}, 12345, 678))
    told = lines.as_json(exact)
    assert (told["wall_s"], told["cpu_s"], told["joules"]["cpu"]["value"]) == (12, 6.8, 4300)
    assert (told["bytes_up"], told["bytes_down"]) == (12345, 678)
