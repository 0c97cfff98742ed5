"""The page of measured figures says what is stored, and of what is not stored that it was not measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

import table

PEERS = {"systems": {"Flower on Ray": {"over lepton-sim": 25.0}, "pfl-research": {"over lepton-sim": 1.5}}}


def page(**stored: Any) -> list[str]:
    return table.document(stored).splitlines()


def test_a_figure_is_held_against_its_target_and_an_absent_one_is_not_measured() -> None:
    lines = page(peers=PEERS)
    assert "| Flower on Ray over lepton-sim, MLP | >= 20x | 25x | met |" in lines
    assert "| pfl-research over lepton-sim, MLP | >= 2x | 1.5x | **not met** |" in lines
    assert "| simulated round over a plain loop's, MLP | <= 0.45x | not measured | |" in lines


def test_one_of_several_is_found_by_its_field() -> None:
    growth = [{"institutions": 10, "peak_mb": 280.0}, {"institutions": 10_000, "peak_mb": 480.5}]
    assert "| 10,000 institutions in a round, MLP, memory | <= 500 MB | 480 MB | met |" in page(
        simulation={"growth": growth}
    )
    assert table.at({"growth": growth}, ("growth", ("institutions", 7), "peak_mb")) is None


def test_figures_with_the_same_names_share_a_table_and_none_is_left_out() -> None:
    lines = page(peers=PEERS | {"rounds": 30, "machine": {"cpu": "a CPU", "cores": 2, "load_average_before": 0.1}})
    assert "a CPU; 2 cores; Python ?; load before 0.1; " in lines
    assert lines[lines.index("| | over lepton-sim |") :][:4] == [
        "| | over lepton-sim |",
        "| --- | --- |",
        "| systems / Flower on Ray | 25 |",
        "| systems / pfl-research | 1.5 |",
    ]
    assert "|  | 30 |" in lines


@pytest.mark.parametrize(
    ("value", "cell"), [(0.123456, "0.123"), (12345.6, "12,346"), ([1.0, 2.5], "1 to 2.5"), (None, ""), ("a|b", "a/b")]
)
def test_a_cell_has_three_significant_digits_and_breaks_no_table(value: object, cell: str) -> None:
    assert table.short(value) == cell
