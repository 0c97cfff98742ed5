"""A training client under `kill -9`, a thousand times: its ledger is never below what the operator can have of it.

The agent and the server are the product's own, over mutual TLS, in a private run. What was released is told without the
ledger: each answer is copied before its first byte can be sent, and once more where the server takes it.
LEPTON_TEST_KILLS says how often it is killed, LEPTON_TEST_SEED when.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from federations import PATIENCE_S, PLAIN, Federation, policy_text
from lepton_client.agent import POINTS
from lepton_client.ledger import Ledger

from lepton_fl.federation.codec import Route, decode
from lepton_fl.flower import MessageType
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.accounting import Schedule, calibrate, epsilon_spent

LIVES = [sys.executable, str(Path(__file__).resolve().parent / "lives.py")]
HOSPITAL = "Cleveland"
ROUNDS, STEPS, RATE, EPSILON, DELTA = 20_000, 2, 0.05, 8.0, 1e-4
RUN = [
    PLAIN,
    f"rounds={ROUNDS}",
    f"training.local_steps={STEPS}",
    f"training.sampling_rate={RATE}",
    f"privacy.epsilon={EPSILON}",
    f"privacy.delta={DELTA}",
]
LONGEST_S = 30.0  # of a life that is to end at a point
GOES_ON = 20  # rounds of the last life, each with an update and a declined evaluation


@cache
def is_update(answer: Path) -> bool:
    """Whether this is a trained model's update, not a declined evaluation."""
    parts = Spool(answer.parent).find(answer.name)
    assert parts is not None, f"{answer} is torn"
    message = decode(parts, Route(1, 1, 1, answer.name, reply_to=answer.name))
    return not message.has_error() and message.metadata.message_type == MessageType.TRAIN


@dataclass(frozen=True)
class Answers:
    """Instructions, and the contents that they were answered with."""

    folder: Path

    def contents(self) -> dict[str, set[str]]:
        """Digests of all answers to each instruction."""
        found: dict[str, set[str]] = {}
        for answer in self.folder.glob("*/[!.]*"):
            found.setdefault(answer.name, set()).add(answer.parent.name)
        return found

    def updates(self) -> set[str]:
        """The instructions that were answered with a model's update: one for each round that was released."""
        return {answer.name for answer in self.folder.glob("*/[!.]*") if is_update(answer)}


class Dying:
    """A run of one hospital whose agent lives as long as it is told."""

    def __init__(self, federation: Federation) -> None:
        self.federation, folder = federation, federation.folder
        self.sent, self.came = Answers(folder / "sent"), Answers(folder / "came")
        self.home = folder / f"client {HOSPITAL}"
        invitation = federation.invite(HOSPITAL)
        waits = ["quorum_s=600", "round_s=600", "grace_s=600", "institutions=1", "output=out"]
        server = [*LIVES, "server", str(self.came.folder), "home=server", "task=heart", *waits, *RUN]
        with (folder / "server.log").open("w") as log:
            federation.processes.append(
                subprocess.Popen(server, cwd=folder, stdout=log, stderr=subprocess.STDOUT, text=True)
            )
        federation.wait_for("server.log", "waiting for ")
        assert federation.enroll(HOSPITAL, invitation).returncode == 0
        (self.home / "policy.yaml").write_text(policy_text("budget: {unit: record, epsilon: 50.0, delta: 1.0e-4}"))
        client = [*LIVES, "client", str(self.sent.folder), str(self.home), str(folder / f"{HOSPITAL}.csv")]
        with (folder / "client.log").open("w") as log:
            self._lives = subprocess.Popen(
                client, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        federation.processes.append(self._lives)

    def live(self, death: str) -> float:
        """One life, in seconds; it does not end by itself."""
        born = time.monotonic()
        self.say(death)
        assert self._lives.stdout
        ended = self._lives.stdout.readline()
        assert ended == "killed\n", f"{death}: {ended} {self.said('client.log')} {self.said('server.log')}"
        return time.monotonic() - born

    def say(self, line: str) -> None:
        assert self._lives.stdin
        self._lives.stdin.write(line + "\n")
        self._lives.stdin.flush()

    def said(self, log: str) -> str:
        return (self.federation.folder / log).read_text()[-2000:]

    def end(self) -> None:
        """Nobody is born any more."""
        self._lives.communicate(timeout=PATIENCE_S)

    def replies(self) -> set[str]:
        """The instructions whose answers the server counted."""
        with closing(sqlite3.connect(self.federation.folder / "server" / "server.db")) as db:
            return {message_id for (message_id,) in db.execute("SELECT message_id FROM replies")}


@dataclass(frozen=True)
class Spent:
    """What one look at everything found."""

    reserved: int
    released: int
    by_ledger: float
    true: float


def never_below(dying: Dying, noise_multiplier: float) -> Spent:
    """The ledger opens, and covers every round of which a byte may have left; none was answered in two ways."""
    came, taken = dying.came.contents(), dying.came.updates()  # first, since an agent's life may not be quite over
    sent, released = dying.sent.contents(), dying.sent.updates() | taken
    assert [contents for contents in (*sent.values(), *came.values()) if len(contents) != 1] == []
    assert all(sent.get(message_id) == contents for message_id, contents in came.items())
    assert dying.replies() <= {*came}
    ledger = Ledger.open(dying.home / "ledger", lambda: datetime.now(UTC))
    spent = ledger.spent("heart", "record")
    true = epsilon_spent(noise_multiplier, DELTA, RATE, STEPS * len(released)) if released else 0.0
    assert spent.rounds >= len(released)
    assert spent.epsilon_pld >= true
    assert spent.epsilon_rdp >= true
    return Spent(spent.rounds, len(released), spent.epsilon_pld, true)


def kill_often(dying: Dying, kills: int, moments: random.Random) -> Iterator[int]:
    """Half of them at points, each point about as often; half at any moment of a life that is as long, or twice."""
    life_s = 1.0
    for kill in range(kills):
        if kill % 2:
            dying.live(f"{moments.uniform(0, 2 * life_s)}")
        else:
            life_s = dying.live(f"{LONGEST_S} {moments.randint(1, 3)} {POINTS[kill // 2 % len(POINTS)]}")
        yield kill


@pytest.fixture
def dying(federation: Federation) -> Iterator[Dying]:
    made = Dying(federation)
    yield made
    made.end()


@pytest.mark.slow
def test_a_training_client_killed_again_and_again_never_spends_more_than_its_ledger_says(dying: Dying) -> None:
    kills = int(os.environ.get("LEPTON_TEST_KILLS", "100"))
    seed = int(os.environ.get("LEPTON_TEST_SEED", "0"))
    noise_multiplier = calibrate(EPSILON, DELTA, Schedule(RATE, STEPS * ROUNDS))
    federation = dying.federation
    dying.live(f"{PATIENCE_S} 1 reply forgotten")
    dying.say("warm")
    began = time.monotonic()
    for kill in kill_often(dying, kills, random.Random(seed)):  # noqa: S311 - a schedule
        if kill % 10 == 9:
            never_below(dying, noise_multiplier)
    spent, seconds, before = never_below(dying, noise_multiplier), time.monotonic() - began, len(federation.rounds())
    assert spent.released > kills / 4  # the lives did work
    assert before <= len(dying.came.updates()) <= before + 1  # each round was released once
    dying.live(f"{PATIENCE_S} {2 * GOES_ON} reply forgotten")
    assert len(federation.rounds()) >= before + GOES_ON - 1
    never_below(dying, noise_multiplier)
    sys.stderr.write(
        f"{kills} kills in {seconds:.0f} s, schedule {seed}: {spent.released} rounds released, {spent.reserved} "
        f"reserved, epsilon {spent.by_ledger:.4f} by the ledger and {spent.true:.4f} in truth\n"
    )
