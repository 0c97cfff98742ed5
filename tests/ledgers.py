"""A small ledger's runs, for tests and for the processes that they kill.

usage: ledgers.py spend FOLDER RUN ROUNDS         reserve round after round; prints each that began
       ledgers.py die FOLDER                      a child for each line `NAME NUMBER POINT` on stdin: spends at
                                                  FOLDER/NAME until POINT is passed the NUMBERth time, then SIGKILL
       ledgers.py children FOLDER                 a child for each line on stdin; see `children`
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lepton_client.ledger import Ledger, nothing

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.books import Books, Declared, Left, Step
from lepton_fl.privacy.budget import price

SHA256 = "ab" * 32
DELTA = 1e-5
QUIET = Step(4.0, 0.1)


def clock() -> datetime:
    return datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def declared(run: str = "one", mechanism: Step | None = QUIET, rounds: int = 10, cap: float = 3.0) -> Declared:
    return Declared(
        run=run,
        operator="registry",
        data_set="heart",
        unit="record",
        neighbouring_relation="add or remove one record",
        delta=DELTA,
        epsilon_cap=cap,
        mechanism=mechanism,
        steps_per_round=10,
        rounds=rounds,
        data_sha256=SHA256,
        contract_sha256=SHA256,
    )


def cheap(run: str) -> Declared:
    """A run of many rounds that cost little."""
    return declared(run or "none", Step(40.0, 0.01), rounds=20_000, cap=50.0)


def message(run: str, round: int, instruction: str, size: int = 100, epsilon: float | None = 1.0) -> Left:
    return Left(run, round, instruction, "update", size, SHA256, epsilon, "messages.update")


def open_at(folder: Path, reached: Callable[[str], None] = nothing) -> Ledger:
    return Ledger.open(folder, clock, reached)


def work(
    ledger: Ledger, run: str, instruction: str = "{}", released: Callable[[int], None] = lambda round: None
) -> None:
    """Round after round of a run until the budget is spent; tells each that is released."""
    last = known.last.round if (known := ledger.run(run)) and known.last else 0
    while True:
        last += 1
        ledger.reserve(run, last, instruction.format(last))
        ledger.left(message(run, last, instruction.format(last)))
        released(last)
        ledger.settle(run, last, 0.5)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def spend(folder: Path, run: str, rounds: int) -> None:
    ledger = open_at(folder)
    ledger.declare(declared(run, rounds=rounds))
    say("ready")
    sys.stdin.readline()
    try:
        work(ledger, run, released=lambda round: say(str(round)))
    except BudgetSpent:
        return


def die(folder: Path) -> None:
    """Prints how each child ended."""
    price(Books(), declared())  # works out what the children then share
    for line in sys.stdin:
        name, number, point = line.strip().split(" ", 2)
        child = os.fork()
        if child == 0:
            die_at(folder / name, point, int(number))
        say(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def die_at(folder: Path, point: str, number: int) -> None:
    left = number

    def reached(passed: str) -> None:
        nonlocal left
        left -= passed == point
        if left == 0 and passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        ledger = open_at(folder, reached)
        ledger.declare(declared())
        work(ledger, "one")
    finally:
        os._exit(1)  # a child must not come back as its parent


def work_until_killed(folder: Path, run: str, pipe: int) -> None:
    try:
        ledger = open_at(folder)
        ledger.declare(cheap(run))
        work(ledger, run, released=lambda round: os.write(pipe, b"%d\n" % round) and None)
    except BaseException as error:  # a child must not come back as its parent
        os.write(pipe, f"{error!r}\n".encode())
    os._exit(1)


def children(folder: Path) -> None:
    """For each line `RUN SECONDS` on stdin, a child works on that run and is killed after so long.

    stdout gets the rounds that the child released, each before the child went on, then an empty line.
    """
    price(Books(), cheap(""))  # works out what the children then share
    for line in sys.stdin:
        run, seconds = line.split()
        ours, childs = os.pipe()
        child = os.fork()
        if child == 0:
            work_until_killed(folder, run, childs)
        os.close(childs)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(ours) as pipe:
            say(pipe.read())


if __name__ == "__main__":
    verb, folder, *rest = sys.argv[1:]
    if verb == "spend":
        spend(Path(folder), rest[0], int(rest[1]))
    elif verb == "die":
        die(Path(folder))
    else:
        children(Path(folder))
