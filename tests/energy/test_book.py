"""Energy as it travels and as the operator keeps it: only what can be, of rounds that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_server.energy import EnergyBook, OfRun

from lepton_fl.energy import lines
from lepton_fl.energy.settings import Energy
from lepton_fl.energy.spent import COMPONENTS, MEASURED, TIERS, Joules, Spent
from lepton_fl.link.energy_frame import AT_AN_INSTITUTION, Told, from_wire, to_wire
from lepton_fl.link.frames import BadFrame
from lepton_fl.v1 import federation_pb2

SETTINGS = Energy(20.0, 1.0, None, None, None, None, 2)
NUMBERS = st.floats(0, 1e8)
SPENT = st.builds(
    Spent,
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.sampled_from(COMPONENTS), st.builds(Joules, NUMBERS, st.sampled_from(TIERS))),
    st.integers(0, 1 << 40),
    st.integers(0, 1 << 40),
)
TOLD = Told(7, 1, {"train": Spent(1.0, 2.0, {"cpu": Joules(30.0, MEASURED)}, 10, 20)})


@given(st.dictionaries(st.sampled_from(AT_AN_INSTITUTION), SPENT, min_size=1))
def test_what_arrives_is_what_left_to_two_digits(phases: dict[str, Spent]) -> None:
    frame = federation_pb2.Energy.FromString(to_wire(Told(7, 3, phases)).SerializeToString())
    assert from_wire(frame) == Told(7, 3, {name: spent.coarse() for name, spent in phases.items()})


def test_finer_numbers_are_not_kept() -> None:
    frame = to_wire(TOLD)
    frame.phases[0].wall_s = 1.2345
    assert from_wire(frame).phases["train"].wall_s == 1.2


def _no_phase(frame: federation_pb2.Energy) -> None:
    frame.ClearField("phases")


def _other_phase(frame: federation_pb2.Energy) -> None:
    frame.phases[0].name = "aggregate"


def _twice(frame: federation_pb2.Energy) -> None:
    frame.phases.add(name="train")


def _negative(frame: federation_pb2.Energy) -> None:
    frame.phases[0].components[0].joules = -1


def _infinite(frame: federation_pb2.Energy) -> None:
    frame.phases[0].wall_s = float("inf")


def _too_much(frame: federation_pb2.Energy) -> None:
    frame.phases[0].components[0].joules = 1e14


def _other_tier(frame: federation_pb2.Energy) -> None:
    frame.phases[0].components[0].tier = "guessed"


def _two_processors(frame: federation_pb2.Energy) -> None:
    frame.phases[0].components.add(name="cpu", joules=1, tier=MEASURED)


@pytest.mark.parametrize(
    "spoil", [_no_phase, _other_phase, _twice, _negative, _infinite, _too_much, _other_tier, _two_processors]
)
def test_a_frame_that_cannot_be_is_refused(spoil: object) -> None:
    frame = to_wire(TOLD)
    spoil(frame)  # type: ignore[operator]
    with pytest.raises(BadFrame):
        from_wire(frame)


def test_what_was_told_is_there_after_a_crash_and_a_new_run_begins_without_it(tmp_path: Path) -> None:
    book = EnergyBook()
    book.begin(OfRun(7, 2, tmp_path, SETTINGS), is_new=True)
    book.told("elm", TOLD)
    again = EnergyBook()
    account = again.begin(OfRun(7, 2, tmp_path, SETTINGS), is_new=False)
    again.told("elm", TOLD)
    assert [line.spent.wall_s for line in account.lines() if line.institution == "elm"] == [2.0]
    again.end()
    assert [line.spent.bytes_up for line in lines.read(tmp_path) if line.institution == "elm"] == [20]
    fresh = EnergyBook().begin(OfRun(8, 2, tmp_path, SETTINGS), is_new=True)
    assert {line.institution for line in fresh.lines()} == {"(operator)"}


def test_of_another_run_nothing_is_kept_and_a_flood_ends_the_stream(tmp_path: Path) -> None:
    book = EnergyBook()
    account = book.begin(OfRun(8, 2, tmp_path, SETTINGS), is_new=True)
    book.told("elm", TOLD)
    assert {line.institution for line in account.lines()} == {"(operator)"}
    with pytest.raises(BadFrame):
        book.told("elm", Told(8, 3, TOLD.phases))
    for _ in range(23):
        book.told("elm", Told(8, 1, TOLD.phases))
    with pytest.raises(BadFrame):
        book.told("elm", Told(8, 1, TOLD.phases))
