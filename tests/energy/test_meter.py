"""The meter: counters that wrap or stand still, phases that add up, and tiers that are never better than known."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.energy.counters import Domain, nvml, rapl
from lepton_fl.energy.meter import Machine, Meter, Reading, between, of_this_machine
from lepton_fl.energy.spent import (
    COMMUNICATE,
    DECLARED,
    EVALUATE,
    IDLE,
    MEASURED,
    MODELLED,
    TRAIN,
    Joules,
    Spent,
    coarse,
    weakest,
)

RANGE = 100_000_000_000  # microjoules: 100 kJ
HUNDRED_WATTS = Machine(power_w=100.0)


def package(microjoules: int) -> dict[str, Domain]:
    return {"intel-rapl:0": Domain(microjoules, RANGE)}


def zone(folder: Path, number: str, name: str, energy: object) -> None:
    place = folder / f"intel-rapl:{number}"
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "energy_uj").write_text(f"{energy}\n")
    (place / "max_energy_range_uj").write_text(f"{RANGE}\n")


def test_a_counter_that_moved_is_measured() -> None:
    spent = between(Reading(0, 0, package(1_000_000)), Reading(2, 1, package(31_000_000)), HUNDRED_WATTS)
    assert spent.joules == {"cpu": Joules(30.0, MEASURED)}


def test_a_counter_that_went_round_is_measured_over_its_end() -> None:
    spent = between(Reading(0, 0, package(RANGE - 1_000_000)), Reading(2, 1, package(4_000_000)), HUNDRED_WATTS)
    assert spent.joules["cpu"] == Joules(5.0, MEASURED)


def test_a_counter_that_may_have_gone_round_twice_is_not_believed() -> None:
    spent = between(Reading(0, 0, package(0)), Reading(101, 10, package(1_000_000)), HUNDRED_WATTS)
    assert spent.joules["cpu"] == Joules(1000.0, MODELLED)


def test_a_counter_that_stands_still_is_not_believed() -> None:
    spent = between(Reading(0, 0, package(7)), Reading(2, 1.5, package(7)), HUNDRED_WATTS)
    assert spent.joules["cpu"] == Joules(150.0, MODELLED)


def test_two_packages_of_which_one_stands_still_are_modelled_as_a_whole() -> None:
    before = {**package(0), "intel-rapl:1": Domain(5, RANGE)}
    after = {**package(9_000_000), "intel-rapl:1": Domain(5, RANGE)}
    spent = between(Reading(0, 0, before), Reading(1, 1, after), HUNDRED_WATTS)
    assert spent.joules["cpu"].tier == MODELLED


def test_without_a_counter_busy_seconds_count_and_never_more_than_passed() -> None:
    assert between(Reading(0, 0), Reading(10, 4), HUNDRED_WATTS).joules["cpu"] == Joules(400.0, MODELLED)
    assert between(Reading(0, 0), Reading(10, 40), HUNDRED_WATTS).joules["cpu"] == Joules(1000.0, MODELLED)


def test_a_gpu_without_a_counter_is_modelled_and_so_is_the_total() -> None:
    machine = Machine(100.0, has_gpu=True)
    spent = between(Reading(0, 0, package(0)), Reading(1, 1, package(1)), machine)
    assert (spent.joules["cpu"].tier, spent.joules["gpu"].tier) == (MEASURED, MODELLED)
    assert spent.total.tier == MODELLED


def test_a_gpu_with_a_counter_is_measured() -> None:
    machine = Machine(100.0, has_gpu=True)
    before, after = Reading(0, 0, gpu=Domain(0, 0)), Reading(3600, 1, gpu=Domain(900_000_000, 0))
    assert between(before, after, machine).joules["gpu"] == Joules(900.0, MEASURED)


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [([MEASURED], MEASURED), ([MEASURED, MODELLED], MODELLED), ([DECLARED, MODELLED, MEASURED], DECLARED)],
)
def test_a_sum_is_known_no_better_than_its_worst_part(tiers: list[str], expected: str) -> None:
    assert weakest(tiers) == expected
    assert Spent(0, 0, {str(n): Joules(1, tier) for n, tier in enumerate(tiers)}).total == Joules(len(tiers), expected)


def clocks(seconds: list[float]) -> Iterator[Reading]:
    """Readings of a machine that is half busy and draws 40 W, its counter starting just before its end."""
    now = 0.0
    yield Reading(now, 0, package(RANGE - 100))
    for step in seconds:
        now += step
        yield Reading(now, now / 2, package((RANGE - 100 + round(now * 40e6)) % RANGE))


@given(st.lists(st.tuples(st.sampled_from([TRAIN, EVALUATE, COMMUNICATE, IDLE]), st.floats(0.001, 10)), min_size=1))
def test_the_phases_add_up_to_the_whole(steps: list[tuple[str, float]]) -> None:
    readings = clocks([seconds for _, seconds in steps] + [0.5])
    meter = Meter(lambda: next(readings), HUNDRED_WATTS)
    for phase, _ in steps:
        meter.enter(phase)
    taken, passed = meter.take(), sum(seconds for _, seconds in steps) + 0.5
    assert sum(spent.wall_s for spent in taken.values()) == pytest.approx(passed)
    assert sum(spent.total.value for spent in taken.values()) == pytest.approx(passed * 40, abs=1e-4)
    assert {spent.total.tier for spent in taken.values()} == {MEASURED}


def test_a_phase_inside_another_gives_way_to_it_again_and_nothing_is_taken_twice() -> None:
    readings = iter([Reading(second, 0) for second in range(10)])
    meter = Meter(lambda: next(readings), HUNDRED_WATTS)
    meter.enter(TRAIN)
    with meter.phase(COMMUNICATE):
        meter.moved(COMMUNICATE, up=10, down=3)
    taken = meter.take()
    assert {name: spent.wall_s for name, spent in taken.items()} == {IDLE: 1, TRAIN: 2, COMMUNICATE: 1}
    assert (taken[COMMUNICATE].bytes_up, taken[COMMUNICATE].bytes_down) == (10, 3)
    assert {name: spent.wall_s for name, spent in meter.take().items()} == {TRAIN: 1}


def test_packages_and_their_memory_count_and_what_is_inside_a_package_does_not(tmp_path: Path) -> None:
    zone(tmp_path, "0", "package-0", 5)
    zone(tmp_path, "0:0", "core", 4)
    zone(tmp_path, "0:1", "dram", 3)
    zone(tmp_path, "1", "psys", 9)
    assert rapl(tmp_path) == {"intel-rapl:0": Domain(5, RANGE), "intel-rapl:0:1": Domain(3, RANGE)}


@pytest.mark.parametrize("energy", ["", "no number"])
def test_a_counter_that_cannot_be_read_is_none(tmp_path: Path, energy: str) -> None:
    zone(tmp_path, "0", "package-0", 5)
    zone(tmp_path, "1", "package-1", energy)
    assert rapl(tmp_path) is None


def test_a_machine_without_counters_has_none(tmp_path: Path) -> None:
    assert rapl(tmp_path / "absent") is None
    assert nvml("GPU-0", library=str(tmp_path / "libnvidia-ml.so.1")) is None


def test_this_machine_is_metered_without_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    meter = of_this_machine(50.0)
    with meter.phase(TRAIN):
        assert sum(range(300_000)) > 0
    spent = meter.take()[TRAIN]
    assert spent.total.value > 0
    if rapl() is None:
        assert spent.total.tier == MODELLED
        assert spent.total.value == pytest.approx(50 * min(spent.cpu_s, spent.wall_s))


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0.0), (1234.0, 1200.0), (0.00987, 0.0099), (99.6, 100.0)])
def test_two_significant_digits_leave(value: float, expected: float) -> None:
    assert coarse(value) == expected
