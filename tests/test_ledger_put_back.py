"""Yesterday's ledger under today's agent: the process stops, also without a server, until a person decides."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from federations import PATIENCE_S, PLAIN, Federation

HOSPITAL = "Cleveland"
RUN = [PLAIN, "rounds=100000", "institutions=1", "training.sampling_rate=0.01", "output=out"]


def stopped(federation: Federation) -> list[str]:
    """Every line that the agent says; it ends by itself with the exit code for this."""
    process = federation.client(HOSPITAL)
    assert process.wait(PATIENCE_S) == 3
    return (federation.folder / f"{HOSPITAL}.log").read_text().splitlines()


def heads(federation: Federation) -> list[tuple[bytes, int]]:
    with closing(sqlite3.connect(federation.folder / "server" / "server.db")) as db:
        return db.execute("SELECT ledger, position FROM ledger_heads").fetchall()


@pytest.mark.slow
def test_yesterdays_ledger_stops_the_agent_until_a_person_decides(federation: Federation) -> None:
    ledger, copy = federation.folder / f"client {HOSPITAL}" / "ledger", federation.folder / "yesterday"
    server = federation.gather([HOSPITAL], *RUN)
    agent = federation.client(HOSPITAL)
    federation.wait_for("server.log", "round ", times=2)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE_S) == 0
    shutil.copytree(ledger, copy)
    rounds = (federation.folder / "server.log").read_text().count("round ")
    agent = federation.client(HOSPITAL)
    federation.wait_for("server.log", "round ", times=rounds + 3)
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(PATIENCE_S) == 0
    ((was, position),) = heads(federation)
    shutil.rmtree(ledger)
    shutil.copytree(copy, ledger)

    said = stopped(federation)
    assert [line for line in said if "error" in line] == said[-1:]
    assert f"the operator countersigned entry {position}; nothing was read or sent" in said[-1]
    server.kill()
    server.wait(10)
    assert f"entry {position} is not the one that the operator" in stopped(federation)[-1]

    decided = federation.call(
        "lepton-client", "ledger", "accept", "--home", f"client {HOSPITAL}", "--reason", "a backup", "--forget-spending"
    )
    assert decided.returncode == 0, decided.stderr
    assert _first(ledger)["replaces"] == [was.hex()]
    rounds = len(federation.rounds())
    federation.serve(*RUN)
    federation.client(HOSPITAL)
    federation.wait_for("server.log", "round ", times=3)
    assert len(federation.rounds()) >= rounds + 2
    ((now, _),) = heads(federation)
    assert now != was


def _first(ledger: Path) -> dict[str, object]:
    first: dict[str, object] = json.loads((ledger / "ledger.jsonl").read_text().splitlines()[0])
    return first
