"""The institution's ledger: reserving, refusing, journalling, and what it says when it is damaged."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import DELTA, clock, declared, message, open_at, work
from lepton_client.ledger import Ledger, nothing
from lepton_client.ledger_files import LEDGER_POINTS, LedgerDamaged, Place, append
from opacus.accountants import PRVAccountant

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.privacy.accounting import Segment, epsilon_of_history, epsilon_spent
from lepton_fl.privacy.books import Left, Sent, Step
from lepton_fl.privacy.chain import GENESIS, line
from lepton_fl.privacy.rdp_filter import fixed

LOUD = Step(1.0, 0.5)  # 10 steps cost more than the cap of 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def entries(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def test_a_new_ledger_is_empty_and_its_files_are_its_owners_alone(folder: Path) -> None:
    ledger = open_at(folder)
    assert (ledger.head.position, ledger.hash_at(0), ledger.hash_at(1)) == (0, "0" * 64, None)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("ledger.jsonl", "ledger.key", "head.json", "ledger.lock"), 0o600
    )
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_round_is_on_disk_before_it_begins_and_stays_spent(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    assert [entry["entry"] for entry in entries(folder)] == ["declared", "reserved"]
    again = open_at(folder)
    assert again.head == ledger.head
    assert again.hash_at(1) == ledger.hash_at(1) is not None
    spent = again.spent("heart", "record")
    assert (spent.rounds, spent.steps, spent.runs, spent.delta, spent.cap) == (1, 10, 1, DELTA, 3.0)
    assert spent.epsilon_pld == epsilon_spent(4.0, DELTA, 0.1, 10)
    assert spent.epsilon_rdp >= spent.epsilon_pld


def test_three_unlike_runs_of_three_operators_cost_what_an_independent_accountant_says(folder: Path) -> None:
    unlike = {"one": (Step(1.1, 0.0128), 2000), "two": (Step(0.8, 0.0512), 400), "three": (Step(2.0, 0.1), 300)}
    ledger, independent = open_at(folder), PRVAccountant()
    for name, (step, steps) in unlike.items():
        # In ten rounds, after a restart.
        ledger = open_at(folder)
        run = replace(declared(name, step, rounds=10, cap=60.0), operator=f"operator of {name}")
        ledger.declare(replace(run, steps_per_round=steps // 10))
        for round in range(1, 11):
            ledger.reserve(name, round, f"{name} {round}")
        independent.history.append((step.noise_multiplier, step.sampling_rate, steps))
    spent = open_at(folder).spent("heart", "record")
    assert spent.epsilon_pld == pytest.approx(independent.get_epsilon(1e-5), rel=0.01)
    alone = [epsilon_spent(step.noise_multiplier, 1e-5, step.sampling_rate, steps) for step, steps in unlike.values()]
    assert spent.epsilon_pld < 0.75 * sum(alone)
    assert (spent.runs, spent.rounds, spent.steps) == (3, 30, 2700)


def test_an_account_without_a_run_has_spent_nothing(folder: Path) -> None:
    spent = open_at(folder).spent("heart", "record")
    assert (spent.epsilon_pld, spent.epsilon_rdp, spent.rounds, spent.is_covered) == (0, 0, 0, True)


def test_an_instruction_that_was_never_answered_may_be_carried_out_again_and_costs_once(folder: Path) -> None:
    open_at(folder).declare(declared())
    assert not open_at(folder).reserve("one", 1, "first").is_again
    assert open_at(folder).reserve("one", 1, "first").is_again
    assert open_at(folder).spent("heart", "record").rounds == 1


@pytest.mark.parametrize(
    ("round", "instruction", "why"),
    [
        (2, "other", "was begun before"),
        (1, "first", "was begun before"),
        (11, "late", "none of the 10"),
        (0, "zero", "was begun before"),
        (2, "second", "was begun before"),
    ],
    ids=["another instruction", "an earlier round", "past the declared", "before the first", "its answer left"],
)
def test_a_round_is_refused(folder: Path, round: int, instruction: str, why: str) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    ledger.reserve("one", 2, "second")
    ledger.left(message("one", 2, "second"))
    before = ledger.head
    with pytest.raises(BudgetSpent, match=why):
        ledger.reserve("one", round, instruction)
    assert ledger.head == before


def test_a_run_that_was_never_declared_may_do_nothing(folder: Path) -> None:
    ledger = open_at(folder)
    for act in (
        lambda: ledger.reserve("one", 1, "first"),
        lambda: ledger.left(message("one", 1, "first")),
        lambda: ledger.settle("one", 1, 1.0),
    ):
        with pytest.raises(BudgetSpent, match="never declared"):
            act()


def test_a_round_that_was_never_reserved_cannot_settle(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    with pytest.raises(BudgetSpent, match="never reserved"):
        ledger.settle("one", 1, 1.0)


def test_settling_twice_is_settling_once_and_gives_nothing_back(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    spent = ledger.spent("heart", "record")
    head = ledger.settle("one", 1, 2.5)
    assert ledger.settle("one", 1, 2.5) == head
    assert ledger.spent("heart", "record") == spent
    run = ledger.run("one")
    assert run is not None
    assert (run.settled, run.seconds) == (1, 2.5)


def test_declaring_the_same_again_changes_nothing_and_another_is_refused(folder: Path) -> None:
    ledger = open_at(folder)
    head = ledger.declare(declared())
    assert ledger.declare(declared()) == head
    assert open_at(folder).declare(declared()) == head
    with pytest.raises(ConfigError, match="another mechanism"):
        ledger.declare(declared(mechanism=Step(3.0, 0.1)))


@pytest.mark.parametrize(
    ("name", "value"), [("unit", "patient"), ("delta", 1e-4), ("neighbouring_relation", "replace one record")]
)
def test_what_cannot_be_added_up_is_refused(folder: Path, name: str, value: object) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    other = replace(declared("two"), **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be added up; nothing was read"):
        ledger.declare(other)
    assert ledger.run("two") is None


def test_of_two_runs_that_cannot_be_added_up_the_one_that_begins_first_goes_on(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared("one"))
    ledger.declare(replace(declared("two"), delta=1e-6))
    ledger.reserve("two", 1, "first")
    with pytest.raises(ConfigError, match="with delta 1e-06, and run one asks for 1e-05"):
        ledger.reserve("one", 1, "first")
    assert ledger.spent("heart", "record").delta == 1e-6


@pytest.mark.parametrize("mechanism", [Step(0.0, 0.1), Step(1.0, 0.0), Step(1.0, 1.1), Step(math.nan, 0.1)])
def test_a_mechanism_that_no_accountant_can_use_is_refused(mechanism: Step) -> None:
    with pytest.raises(ConfigError, match="no accountant can use"):
        declared(mechanism=mechanism)


def test_a_first_run_may_use_its_whole_schedule_up_to_the_cap_by_pld(folder: Path) -> None:
    """Its filter's epsilon is past the cap, which is looser and not needed: nothing was chosen after a release."""
    mechanism = Step(1.5, 0.1)
    cap = epsilon_spent(1.5, DELTA, 0.1, 100) + 1e-6
    ledger = open_at(folder)
    ledger.declare(declared(mechanism=mechanism, cap=cap))
    with pytest.raises(BudgetSpent, match="none of the 10"):
        work(ledger, "one")
    spent = ledger.spent("heart", "record")
    assert spent.rounds == 10
    assert spent.epsilon_pld < cap < spent.epsilon_rdp


def test_a_first_run_whose_schedule_passes_the_cap_never_begins(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared(mechanism=LOUD))
    with pytest.raises(
        BudgetSpent, match=r"the 10 rounds of run one cost epsilon 39\.98, past the cap of 3 per record"
    ):
        ledger.reserve("one", 1, "first")
    assert ledger.spent("heart", "record").epsilon_pld == 0


def test_no_other_run_begins_beside_a_first_run_that_relied_on_its_schedule(folder: Path) -> None:
    """Even after one round of it: else what is chosen next could depend on what that round released."""
    cap = epsilon_spent(1.5, DELTA, 0.1, 100) + 1e-6
    ledger = open_at(folder)
    ledger.declare(declared(mechanism=Step(1.5, 0.1), cap=cap))
    ledger.reserve("one", 1, "first")
    ledger.declare(declared("two", Step(100.0, 0.001), rounds=1, cap=cap))
    with pytest.raises(BudgetSpent, match=r"of which 0\.00 is left \(run one counts with all 10 rounds"):
        ledger.reserve("two", 1, "first")
    ledger.reserve("one", 2, "second")


def test_from_the_second_run_on_the_filter_stops_before_the_cap(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared(rounds=2))
    for round in (1, 2):
        ledger.reserve("one", round, str(round))
    ledger.declare(declared("two", Step(3.0, 0.1), rounds=1000))
    promised = ledger.price(declared("two", Step(3.0, 0.1), rounds=1000)).rounds_that_fit
    with pytest.raises(BudgetSpent) as caught:
        work(ledger, "two")
    run = ledger.run("two")
    assert run is not None
    assert 0 < run.rounds == promised < 1000
    spent = ledger.spent("heart", "record")
    filter = fixed(4.0, 0.1, 3.0, DELTA)
    by_hand = filter.divergence((Segment(4.0, 0.1, 20), Segment(3.0, 0.1, 10 * run.rounds)))
    assert spent.epsilon_rdp == filter.epsilon(by_hand)
    assert spent.epsilon_pld <= spent.epsilon_rdp <= 3.0
    assert filter.epsilon(by_hand + filter.divergence((Segment(3.0, 0.1, 10),))) > 3.0
    told = re.fullmatch(
        rf"round {run.rounds + 1} of run two would raise epsilon, by the ledger's filter, from (\S+) to (\S+), "
        r"past the cap of 3 per record "
        r"\(add or remove one record\) at delta 1e-05, of which (\S+) is left; the round was not begun and nothing "
        r"more was released; the model of the last round stands",
        str(caught.value),
    )
    assert told is not None
    now, then, left = map(float, told.groups())
    assert (now, left) == (pytest.approx(spent.epsilon_rdp, abs=0.005), pytest.approx(3 - now, abs=0.011))
    assert now < 3.0 < then


def test_the_first_run_answers_to_the_filter_too_once_another_has_begun(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared(mechanism=Step(3.0, 0.1), rounds=10))
    ledger.reserve("one", 1, "first")
    ledger.declare(declared("two", Step(3.0, 0.1), rounds=1000))
    with pytest.raises(BudgetSpent, match="past the cap"):
        work(ledger, "two")
    with pytest.raises(BudgetSpent, match="past the cap"):
        work(ledger, "one")
    assert ledger.spent("heart", "record").epsilon_rdp <= 3.0


def test_a_price_is_told_and_nothing_is_written(folder: Path) -> None:
    ledger = open_at(folder)
    price = ledger.price(declared())
    whole = epsilon_spent(4.0, DELTA, 0.1, 100)
    assert (price.epsilon_now, price.epsilon_after, price.rounds_that_fit) == (0, whole, 10)
    assert entries(folder) == []
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    of_the_rest = ledger.price(declared())
    assert of_the_rest.epsilon_now == epsilon_spent(4.0, DELTA, 0.1, 10)
    assert of_the_rest.epsilon_after == pytest.approx(whole)
    both = ledger.price(declared("two", Step(6.0, 0.2)))
    assert both.epsilon_after == epsilon_of_history((Segment(4.0, 0.1, 10), Segment(6.0, 0.2, 100)), DELTA)


def test_what_no_epsilon_covers_is_noted_and_private_runs_on_that_data_stop(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    open_run = replace(declared("open", None), unit="none", neighbouring_relation=None)
    ledger.declare(open_run)
    assert ledger.price(open_run).epsilon_after == math.inf
    assert ledger.spent("heart", "record").is_covered
    ledger.reserve("open", 1, "first")
    spent = ledger.spent("heart", "record")
    assert (spent.is_covered, spent.epsilon_pld, spent.epsilon_rdp) == (False, math.inf, math.inf)
    with pytest.raises(BudgetSpent, match="no epsilon covers"):
        ledger.reserve("one", 2, "second")
    ledger.declare(declared("two"))
    with pytest.raises(BudgetSpent, match="no epsilon covers"):
        ledger.reserve("two", 1, "first")
    ledger.declare(declared("three"), may_follow_uncovered=True)
    ledger.reserve("three", 1, "first")
    assert not ledger.spent("heart", "record").is_covered


def test_messages_without_an_epsilon_are_counted(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.left(replace(message("one", 1, "counts"), kind="evaluation", epsilon=None))
    ledger.left(message("one", 1, "first"))
    assert ledger.spent("heart", "record").uncovered == 1


def test_the_bytes_of_a_run_add_up_to_what_the_transport_counted(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.left(message("one", 1, "first", size=1000))
    # Cut off after 700 bytes; 3 heartbeats of 4.
    ledger.closed("one", "a", [Sent("heartbeat", 3, 12), Sent("answer", 2, 700)])
    # Sent again from where the server has it.
    ledger.left(message("one", 1, "first", size=310))
    ledger.closed("one", "b", [Sent("answer", 1, 310), Sent("hello", 1, 50)])
    ledger.closed("one", "c", [])
    counted = [entry["bytes"] for entry in entries(folder) if entry["entry"] in ("left", "connection")]
    assert counted == [1000, 12 + 700 - 1000, 310, 50, 0]
    assert sum(map(int, map(str, counted))) == 712 + 360


def test_messages_of_no_run_are_journalled_too(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.left(replace(message("", 0, "hello"), kind="enrolment", epsilon=None))
    assert entries(folder)[0]["entry"] == "left"


def test_a_second_process_is_heard_before_every_decision(folder: Path) -> None:
    here, there = open_at(folder), open_at(folder)
    here.declare(declared())
    assert there.reserve("one", 1, "first").is_again is False
    assert here.reserve("one", 1, "first").is_again is True
    with pytest.raises(BudgetSpent, match="was begun before"):
        here.reserve("one", 1, "other")
    assert here.head == there.head


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text.replace(b'"round":1', b'"round":2', 1), "entry 2 was changed"),
        (lambda text: b"".join(text.splitlines(keepends=True)[1:]), "entry 1 is missing"),
        (lambda text: b"".join(text.splitlines(keepends=True)[:2]), "entry 3 is missing"),
        (lambda text: text[:-5], "entry 3 is cut short"),
        (lambda text: b"", "entry 1 is missing"),
        (lambda text: text + text[-300:], "entry 4 was changed"),
    ],
    ids=["edited", "without its first", "without its last", "cut short", "emptied", "grown"],
)
def test_a_damaged_ledger_is_not_opened_and_the_first_bad_entry_is_named(
    folder: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    running = open_at(folder)
    running.declare(declared())
    running.reserve("one", 1, "first")
    running.settle("one", 1, 0.5)
    lines = folder / "ledger.jsonl"
    lines.write_bytes(damage(lines.read_bytes()))
    with pytest.raises(LedgerDamaged, match=rf"{told}.*nothing is trained or sent until a person decides") as caught:
        open_at(folder)
    assert (caught.value.exit_code, caught.value.entry) == (3, int(told.split()[1]))


@pytest.mark.parametrize("name", ["ledger.jsonl", "ledger.key", "head.json"])
def test_a_missing_file_is_damage_and_never_a_new_ledger(folder: Path, name: str) -> None:
    running = open_at(folder)
    running.declare(declared())
    (folder / name).unlink()
    with pytest.raises(LedgerDamaged, match="is missing"):
        open_at(folder)
    if name != "ledger.key":  # read once
        with pytest.raises(LedgerDamaged):
            running.reserve("one", 1, "first")


def test_a_ledger_put_back_under_a_running_process_is_noticed(folder: Path) -> None:
    running = open_at(folder)
    running.declare(declared())
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    running.reserve("one", 1, "first")
    for path, content in kept.items():
        path.write_bytes(content)
    with pytest.raises(LedgerDamaged, match="entry 2 was there before and is gone"):
        running.reserve("one", 2, "second")


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    open_at(folder)
    (folder / "ledger.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_at(folder)


def test_making_a_ledger_can_be_interrupted_anywhere(folder: Path) -> None:
    """The key comes last; without it, and without an entry, there was no ledger yet."""
    open_at(folder)
    for names in (["ledger.key"], ["ledger.key", "head.json"], ["ledger.key", "head.json", "ledger.jsonl"]):
        for name in names:
            (folder / name).unlink()
        assert open_at(folder).head.position == 0


def test_a_full_disk_reserves_nothing_and_the_ledger_goes_on_when_there_is_room(folder: Path) -> None:
    """The line is on disk, its head is not: the round is spent, and was not begun."""
    full = [True]

    def reached(point: str) -> None:
        if point == LEDGER_POINTS[0] and full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    open_at(folder).declare(declared())
    ledger = Ledger.open(folder, clock, reached)
    with pytest.raises(OSError, match="No space"):
        ledger.reserve("one", 1, "first")
    full[0] = False
    assert ledger.reserve("one", 1, "first").is_again
    assert open_at(folder).spent("heart", "record").rounds == 1


def test_a_message_that_cannot_be_noted_does_not_count_as_left(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.reserve("one", 1, "first")
    full = [True]

    def reached(point: str) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    watched = Ledger.open(folder, clock, reached)
    with pytest.raises(OSError, match="No space"):
        watched.left(message("one", 1, "first"))
    full[0] = False
    # The line may be there: then the answer is known as released, and is sent again without another charge.
    assert open_at(folder).spent("heart", "record").rounds == 1
    watched.left(message("one", 1, "first"))
    assert [entry["entry"] for entry in entries(folder)][-1] == "left"


def test_an_entry_of_a_later_version_stops_this_one(folder: Path) -> None:
    open_at(folder)
    key, place = (folder / "ledger.key").read_bytes(), Place(GENESIS, 0)
    append(folder, key, place, line(GENESIS, {"entry": "lent"}, key), nothing)
    with pytest.raises(ConfigError, match="a later one"):
        open_at(folder)


def test_a_line_that_is_not_whole_beyond_the_head_is_cut_off(folder: Path) -> None:
    open_at(folder).declare(declared())
    lines = folder / "ledger.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(whole + whole[:50])
    ledger = open_at(folder)
    assert lines.read_bytes() == whole
    ledger.reserve("one", 1, "first")
    assert open_at(folder).head.position == 2


def test_a_message_is_an_entry_with_every_fact_that_an_officer_asks_for(folder: Path) -> None:
    ledger = open_at(folder)
    ledger.declare(declared())
    ledger.left(Left("one", 3, "id", "update", 5, "cd" * 32, 0.5, "messages.update"))
    entry = entries(folder)[-1]
    del entry["previous"], entry["mac"]
    assert entry == {
        "n": 2,
        "at": "2026-03-01T09:30:00+00:00",
        "entry": "left",
        "run": "one",
        "round": 3,
        "message_id": "id",
        "kind": "update",
        "bytes": 5,
        "sha256": "cd" * 32,
        "epsilon": 0.5,
        "rule": "messages.update",
    }
