"""What a person can decide about a damaged ledger, and what the decision never loses silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import clock, declared, message, open_at
from lepton_client import ledger_view, put_back
from lepton_client.ledger_files import LedgerDamaged
from lepton_client.ledger_repair import Accepted, Decision, accept
from lepton_client.put_back import Countersigned

from lepton_fl.errors import BudgetSpent, ConfigError


def decide(folder: Path, forget: bool = False, reason: str = "the disk failed") -> Accepted:
    return accept(folder, Decision(reason, "ada", forget), clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger of five entries: one run of two rounds, the first of which was answered."""
    made = open_at(tmp_path / "ledger")
    made.declare(declared())
    made.reserve("one", 1, "a")
    made.left(message("one", 1, "a"))
    made.settle("one", 1, 1.0)
    made.reserve("one", 2, "b")
    return tmp_path / "ledger"


def lines(folder: Path) -> list[bytes]:
    return (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def write(folder: Path, content: list[bytes]) -> None:
    (folder / "ledger.jsonl").write_bytes(b"".join(content))


def without(entry: int) -> Callable[[Path], None]:
    def lose(folder: Path) -> None:
        kept = lines(folder)
        del kept[entry - 1]
        write(folder, kept)

    return lose


def test_a_whole_ledger_is_not_decided_about(folder: Path) -> None:
    for forget in (False, True):
        with pytest.raises(ConfigError, match="is whole; nothing was changed"):
            decide(folder, forget)


def test_a_decision_needs_a_reason_and_a_ledger(folder: Path, tmp_path: Path) -> None:
    without(2)(folder)
    before = lines(folder)
    with pytest.raises(ConfigError, match="needs its reason"):
        decide(folder, reason=" ")
    assert lines(folder) == before
    with pytest.raises(ConfigError, match="holds no ledger"):
        decide(tmp_path / "elsewhere")


def test_entries_that_only_moved_are_carried_on_and_everything_stays_spent(folder: Path) -> None:
    before = open_at(folder).spent("heart", "record")
    write(folder, lines(folder)[::-1])
    accepted = decide(folder)
    assert (accepted.damage, accepted.carried, accepted.spending) == ("entry 1 is out of order", 5, "carried")
    after = open_at(folder)
    assert after.spent("heart", "record") == before
    assert after.reserve("one", 2, "b").is_again
    with pytest.raises(BudgetSpent, match="begun before"):
        after.reserve("one", 1, "a")


@pytest.mark.parametrize(
    "lose",
    [
        without(2),
        without(5),
        lambda folder: (folder / "head.json").unlink(),
        lambda folder: (folder / "ledger.key").unlink(),
        lambda folder: (folder / "ledger.jsonl").unlink(),
        lambda folder: (folder / "ledger.jsonl").write_bytes(b"\0" * 5000),
    ],
    ids=["a reservation", "the last entry", "the head", "the key", "the file", "zeros"],
)
def test_where_anything_was_lost_the_cap_is_taken_as_spent(folder: Path, lose: Callable[[Path], None]) -> None:
    lose(folder)
    assert decide(folder).spending == "cap"
    ledger = open_at(folder)
    ledger.declare(declared())
    spent = ledger.spent("heart", "record")
    assert (spent.epsilon_pld, spent.epsilon_rdp, spent.is_known) == (3.0, 3.0, False)
    ledger.declare(declared("two", rounds=1))
    assert ledger.price(declared("two", rounds=1)).rounds_that_fit == 0
    with pytest.raises(BudgetSpent, match="taken as spent"):
        ledger.reserve("two", 1, "c")


def test_what_was_lost_is_forgotten_only_when_it_is_said(folder: Path) -> None:
    without(5)(folder)
    assert decide(folder, forget=True).spending == "forgotten"
    ledger = open_at(folder)
    assert ledger.spent("heart", "record").rounds == 1
    ledger.reserve("one", 2, "b")


def test_a_cap_taken_as_spent_stays_so_through_later_damage_until_it_is_forgotten(folder: Path) -> None:
    without(2)(folder)
    decide(folder)
    write(folder, lines(folder)[::-1])
    assert decide(folder).spending == "carried"
    assert not open_at(folder).spent("heart", "record").is_known
    assert decide(folder, forget=True).spending == "forgotten"
    assert open_at(folder).spent("heart", "record").is_known
    write(folder, lines(folder)[::-1])
    assert decide(folder).spending == "carried"
    assert open_at(folder).spent("heart", "record").is_known


def test_the_first_entry_says_what_was_decided_and_the_damaged_files_are_kept(folder: Path) -> None:
    without(2)(folder)
    found = (folder / "ledger.jsonl").read_bytes()
    accepted = decide(folder)
    first = json.loads(lines(folder)[0])
    assert {name: first[name] for name in ("entry", "reason", "by", "damage", "spending", "former", "carried")} == {
        "entry": "accepted",
        "reason": "the disk failed",
        "by": "ada",
        "damage": "entry 2 is missing",
        "spending": "cap",
        "former": 5,
        "carried": 4,
    }
    assert [json.loads(line)["was"] for line in lines(folder)[1:]] == [1, 3, 4, 5]
    assert accepted.kept is not None
    assert (accepted.kept / "ledger.jsonl").read_bytes() == found
    assert (accepted.kept / "ledger.jsonl").stat().st_mode & 0o777 == 0o600
    without(2)(folder)
    again = decide(folder).kept
    assert again is not None
    assert again != accepted.kept


def test_rounds_of_a_run_whose_declaration_was_lost_are_not_carried_on(folder: Path) -> None:
    without(1)(folder)
    assert decide(folder, forget=True).carried == 1  # what left
    assert open_at(folder).run("one") is None


def test_a_process_that_runs_meanwhile_is_stopped_and_not_deceived(folder: Path) -> None:
    running = open_at(folder)
    without(2)(folder)
    decide(folder, forget=True)
    with pytest.raises(LedgerDamaged):
        running.reserve("one", 3, "c")


def test_a_decision_that_was_interrupted_is_asked_for_again(folder: Path) -> None:
    write(folder, lines(folder)[::-1])
    old_head = (folder / "head.json").read_bytes()
    decide(folder)
    (folder / "head.json").write_bytes(old_head)  # as if killed before the last file was replaced
    with pytest.raises(LedgerDamaged):
        open_at(folder)
    assert decide(folder).spending == "cap"
    open_at(folder)


def countersigned(folder: Path, position: int = 9) -> Countersigned:
    """An operator saw more of this ledger than is here."""
    first = open_at(folder).hash_at(1)
    assert first is not None
    return Countersigned(first, position, "cd" * 32, "ef" * 32)


def test_a_ledger_put_back_is_whole_and_still_its_cap_is_taken_as_spent(folder: Path) -> None:
    seen = countersigned(folder)
    open_at(folder).note_put_back(seen)
    with pytest.raises(
        LedgerDamaged, match=r"entry 9 is not the one that the operator of federation efefefefefefefef c"
    ):
        open_at(folder)
    with pytest.raises(LedgerDamaged, match="entry 9 is not"):
        ledger_view.read(folder)
    accepted = decide(folder)
    assert (accepted.spending, accepted.carried) == ("cap", 5)
    assert accepted.kept is not None
    assert put_back.find(accepted.kept) == seen
    assert put_back.find(folder) is None
    ledger = open_at(folder)
    assert not ledger.spent("heart", "record").is_known
    assert ledger.replaces(seen.ledger)


def test_a_new_chain_names_every_ledger_that_it_stands_for(folder: Path) -> None:
    first = open_at(folder).hash_at(1)
    write(folder, lines(folder)[::-1])
    decide(folder)
    second = open_at(folder).hash_at(1)
    assert first is not None
    assert second is not None
    assert json.loads(lines(folder)[0])["replaces"] == [first]
    other = Countersigned("ab" * 32, 3, "cd" * 32, "ef" * 32)
    open_at(folder).note_put_back(other)
    decide(folder, forget=True)
    assert json.loads(lines(folder)[0])["replaces"] == sorted([second, other.ledger])
    ledger = open_at(folder)
    assert [ledger.replaces(one) for one in (first, second, other.ledger, "ee" * 32)] == [True, True, True, False]


def test_a_note_that_outlives_its_decision_is_settled_and_the_next_one_takes_its_place(folder: Path) -> None:
    old = countersigned(folder)
    open_at(folder).note_put_back(old)
    decide(folder, forget=True)
    put_back.note(folder, old)  # as if killed before it was removed
    ledger = open_at(folder)
    assert not ledger.is_put_back
    ledger.note_put_back(countersigned(folder, 20))
    ledger.note_put_back(old)  # is answered for; the one that stands stays
    with pytest.raises(LedgerDamaged, match="entry 20 is not"):
        ledger.reserve("one", 3, "c")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"ledger":1,"position":"1","sha256":1,"operator":1}', b"\xff", b"[" * 100_000]
)
def test_a_note_that_cannot_be_read_is_damage(folder: Path, content: bytes) -> None:
    (folder / "put_back.json").write_bytes(content)
    with pytest.raises(LedgerDamaged, match="the note about it was changed"):
        open_at(folder)
    assert decide(folder).spending == "cap"
    open_at(folder)
