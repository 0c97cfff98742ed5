"""An institution answers each planned round once, in order, whatever an operator asks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_client.rounds import OnDisk

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.rounds_spent import InMemory, begin_round


def begun(*rounds: int) -> InMemory:
    spent = InMemory()
    for round in rounds:
        begin_round(spent, "North", round, planned=10)
    return spent


def test_planned_rounds_are_begun_in_order_with_gaps_where_others_were_asked() -> None:
    assert begun(1, 2, 5, 10).last("North") == 10


@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_round_that_was_begun_or_passed_over_is_refused_and_changes_nothing(again: int) -> None:
    spent = begun(1, 3)
    with pytest.raises(BudgetSpent, match="nothing was released"):
        begin_round(spent, "North", again, planned=10)
    assert spent.last("North") == 3


def test_a_round_past_the_plan_is_refused_and_changes_nothing() -> None:
    spent = begun(1)
    with pytest.raises(BudgetSpent, match="past the 10 rounds that the noise was made for"):
        begin_round(spent, "North", 11, planned=10)
    assert spent.last("North") == 1


def test_each_institution_counts_for_itself() -> None:
    spent = begun(1, 2)
    begin_round(spent, "South", 1, planned=10)
    assert (spent.last("North"), spent.last("South")) == (2, 1)


def on_disk(folder: Path, instruction: str) -> OnDisk:
    """As a process that starts and is asked."""
    spent = OnDisk(folder, run_id=7)
    spent.carry_out(instruction)
    return spent


def test_a_count_on_disk_is_there_in_the_next_process(tmp_path: Path) -> None:
    begin_round(on_disk(tmp_path, "a"), "North", 1, planned=10)
    assert on_disk(tmp_path, "b").last("North") == 1


def test_a_round_that_nobody_answered_is_carried_out_again_for_the_same_instruction_alone(tmp_path: Path) -> None:
    begin_round(on_disk(tmp_path, "a"), "North", 3, planned=10)  # and the process died
    with pytest.raises(BudgetSpent):
        begin_round(on_disk(tmp_path, "other"), "North", 3, planned=10)
    begin_round(on_disk(tmp_path, "a"), "North", 3, planned=10)
    with pytest.raises(BudgetSpent):
        begin_round(on_disk(tmp_path, "a"), "North", 2, planned=10)


def test_a_round_whose_answer_was_released_is_never_carried_out_again(tmp_path: Path) -> None:
    first = on_disk(tmp_path, "a")
    begin_round(first, "North", 3, planned=10)
    first.answered("a")
    with pytest.raises(BudgetSpent, match="nothing was released"):
        begin_round(on_disk(tmp_path, "a"), "North", 3, planned=10)


@pytest.mark.parametrize("content", ["", "{}", "3", '{"round": "x", "instruction": "a", "is_answered": false}', "\x00"])
def test_a_damaged_count_stops_the_work_and_says_why(tmp_path: Path, content: str) -> None:
    begin_round(on_disk(tmp_path, "a"), "North", 3, planned=10)
    (tmp_path / "7").write_text(content)
    with pytest.raises(BudgetSpent, match="what was spent is unknown"):
        begin_round(on_disk(tmp_path, "b"), "North", 4, planned=10)


def test_the_count_is_its_owners_alone(tmp_path: Path) -> None:
    begin_round(on_disk(tmp_path / "rounds", "a"), "North", 1, planned=10)
    assert (tmp_path / "rounds" / "7").stat().st_mode & 0o777 == 0o600


ASKED = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from("abcd"), st.sampled_from(["released", "crashed before", "answered"])),
    max_size=25,
)


@settings(deadline=None, max_examples=60)  # every step is on disk before the next
@given(ASKED)
def test_no_sequence_of_instructions_and_crashes_releases_a_round_twice(asked: list[tuple[int, str, str]]) -> None:
    released: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for round, instruction, what_happens in asked:
            spent = on_disk(Path(folder), instruction)
            try:
                begin_round(spent, "North", round, planned=5)
            except BudgetSpent:
                continue
            if what_happens == "crashed before":
                continue
            spent.answered(instruction)
            if what_happens == "released":
                released.append(round)
    assert released == sorted(set(released))
    assert all(round <= 5 for round in released)
