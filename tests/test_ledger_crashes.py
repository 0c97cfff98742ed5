"""`kill -9` under a ledger, and two processes on one: nothing released is unpaid, the file always opens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ledgers import DELTA, declared, open_at
from lepton_client.ledger_files import LEDGER_POINTS

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.accounting import epsilon_spent

PROCESS = [sys.executable, str(Path(__file__).resolve().parent / "ledgers.py")]


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*PROCESS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


def test_two_processes_never_both_spend_the_last_of_a_budget(tmp_path: Path) -> None:
    """Each has a run of its own on one account; alone, either could take twelve rounds and more."""
    spends = [("spend", str(tmp_path), run, "1000") for run in ("one", "two")]
    first = open_at(tmp_path)
    first.declare(declared("zero", rounds=1))
    first.reserve("zero", 1, "first")  # now the filter decides
    with process(*spends[0]) as one, process(*spends[1]) as two:
        both = [one, two]
        assert [each.stdout.readline() for each in both if each.stdout] == ["ready\n"] * 2
        for each in both:
            assert each.stdin
            each.stdin.write("\n")
            each.stdin.flush()
        rounds = [each.stdout.read().split() for each in both if each.stdout]
    ledger = open_at(tmp_path)
    spent = ledger.spent("heart", "record")
    assert [len(each) > 3 for each in rounds] == [True, True]
    assert spent.rounds == 1 + sum(map(len, rounds))
    assert spent.epsilon_pld <= spent.epsilon_rdp <= 3.0
    with pytest.raises(BudgetSpent, match="past the cap"):
        ledger.reserve("one", len(rounds[0]) + 1, "one more")
    alone = open_at(tmp_path / "alone")
    alone.declare(declared("one", rounds=1000))
    assert alone.price(declared("one", rounds=spent.rounds)).epsilon_after <= 3.0


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], Path]]:
    """A ledger whose process was killed when the point was passed so many times."""
    folder = tmp_path_factory.mktemp("dying")
    with process("die", str(folder)) as parent:

        def killed_at(point: str, number: int) -> Path:
            assert parent.stdin
            assert parent.stdout
            name = f"{point}-{number}".replace(" ", "-")
            parent.stdin.write(f"{name} {number} {point}\n")
            parent.stdin.flush()
            assert int(parent.stdout.readline()) == -signal.SIGKILL
            return folder / name

        yield killed_at


@pytest.mark.parametrize("point", LEDGER_POINTS)
@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=["declaring", "reserving", "leaving", "settling"])
def test_a_process_killed_at_a_point_leaves_a_ledger_that_opens_and_has_its_entry(
    dying: Callable[[str, int], Path], point: str, number: int
) -> None:
    ledger = open_at(dying(point, number))
    assert ledger.head.position == number  # the entry was on disk before the point
    assert ledger.spent("heart", "record").rounds == (number >= 2)
    ledger.declare(declared())
    if number < 3:
        assert ledger.reserve("one", 1, "1").is_again == (number == 2)
    else:
        with pytest.raises(BudgetSpent, match="begun before"):
            ledger.reserve("one", 1, "1")


def kill_often(folder: Path, kills: int) -> None:
    """Kill a working child at random moments; what it released is never more than what the ledger has."""
    moments = random.Random(int(os.environ.get("LEPTON_TEST_SEED", "0")))  # noqa: S311 - a schedule
    released: dict[str, set[int]] = {}
    with process("children", str(folder)) as parent:
        assert parent.stdin
        assert parent.stdout
        for kill in range(kills):
            # A new run now and then, so that declaring is interrupted too.
            run = f"run-{kill // 25}"
            parent.stdin.write(f"{run} {moments.uniform(0, 0.08)}\n")
            parent.stdin.flush()
            while (line := parent.stdout.readline()) != "\n":
                released.setdefault(run, set()).add(int(line))
            if kill % 25 == 24:
                never_below(folder, released)
    never_below(folder, released)
    assert sum(map(len, released.values())) > kills / 10  # the children did work


def never_below(folder: Path, released: dict[str, set[int]]) -> None:
    ledger = open_at(folder)
    for run, rounds in released.items():
        known = ledger.run(run)
        assert known is not None
        assert known.last is not None
        assert known.rounds >= len(rounds)
        assert known.last.round >= max(rounds)
    spent = ledger.spent("heart", "record")
    true = epsilon_spent(40.0, DELTA, 0.01, 10 * sum(map(len, released.values())))
    assert spent.epsilon_pld >= true
    assert spent.epsilon_rdp >= true


def test_twenty_kills_at_random_moments_lose_nothing_that_was_spent(tmp_path: Path) -> None:
    kill_often(tmp_path, 20)


@pytest.mark.slow
def test_a_thousand_kills_at_random_moments_lose_nothing_that_was_spent(tmp_path: Path) -> None:
    kill_often(tmp_path, 1000)
