"""`kill -9` at every point where something was made safe, and at random ones: with a seed, the run ends bit-equal.

The processes are real: `lepton-server run` and `lepton-client run` with the product's own settings. `crashing.py`
starts the same commands in a process that kills itself when a named point is passed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from federations import PUBLIC, Federation, call
from lepton_client.agent import POINTS as CLIENT_POINTS
from lepton_server.home import open_home
from lepton_server.journal import POINTS as SERVER_POINTS
from lepton_server.log import Log

from lepton_fl.evidence.checking import HEADS, read_heads
from lepton_fl.evidence.verify import verify
from lepton_fl.federation.steps import STEPS

HERE = Path(__file__).resolve().parent
HOSPITALS = ["Cleveland", "Hungary", "VA Long Beach"]
ROUNDS = 10
RUN = [f"rounds={ROUNDS}", "seed=1", "strategy=fedadam", "training.local_steps=60", "training.sampling_rate=0.2"]
RUN += ["evaluation.every=1"]  # so that each round has both its parts
# An institution that is killed has lost its masks with its memory, and of three all must answer.
PLAIN = ["secure_aggregation=off"]
PATIENCE_S = 120


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `lepton-sim` makes of the same three hospitals with the same seed."""
    return simulated(tmp_path_factory)


@pytest.fixture(scope="module")
def undisturbed_plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same without secure aggregation."""
    return simulated(tmp_path_factory, *PLAIN)


def simulated(tmp_path_factory: pytest.TempPathFactory, *settings: str) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    hospitals = (HERE.parent / "lepton_fl" / "tasks" / "data" / "heart.csv").read_text().splitlines()
    kept = [hospitals[0], *(line for line in hospitals[1:] if any(f",{name}," in f",{line}," for name in HOSPITALS))]
    (folder / "three.csv").write_text("\n".join(kept) + "\n")
    done = call("lepton-sim", "task=heart", *RUN, *settings, "data.path=three.csv", "output=out", cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text())
    return found


class Run:
    """A federation of three in which any process may die and is started again with the same command."""

    def __init__(self, around: Federation, settings: list[str]) -> None:
        self._federation, self._settings = around, settings
        self.folder = around.folder
        for hospital in HOSPITALS:
            assert around.enroll(hospital, around.invite(hospital)).returncode == 0
        self.clients: dict[str, subprocess.Popen[str]] = {}
        self.began = 0  # times that a server began to train

    def server(self, *crash: str) -> subprocess.Popen[str]:
        settings = ["home=server", "task=heart", *RUN, *self._settings, "output=out", "quorum_s=60", "round_s=60"]
        return self._start("server.log", "server", crash, settings)

    def client(self, hospital: str, *crash: str) -> subprocess.Popen[str]:
        data = f"data.path={hospital.replace(' ', '_')}.csv"
        process = self._start(f"{hospital}.log", "client", crash, [f"home='client {hospital}'", data, *PUBLIC])
        self.clients[hospital] = process
        return process

    def _start(self, log: str, side: str, crash: tuple[str, ...], settings: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "crashing.py"), side, *(crash or ("never", "1")), *settings]
        with (self.folder / log).open("a") as out:
            process = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, text=True)
        self._federation.processes.append(process)
        return process

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out" / "rounds.jsonl").read_text().splitlines()]

    def wait_until_it_trains(self, server: subprocess.Popen[str]) -> None:
        """Until this server process has told the institutions of the run."""
        before = self.began
        end = time.monotonic() + PATIENCE_S
        while (self.folder / "server.log").read_text().count("federation  ") == before:
            assert server.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)
        self.began = before + 1

    def ends_like(self, undisturbed: dict[str, Any], runs: int | None = 1) -> None:
        """The model is bit-equal, every round is there once, and every institution counted once in each.

        Args:
            runs: so many were finished; None: a kill may have come just after the end of one, so that the next command
                began another.
        """
        result = json.loads((self.folder / "out" / "result.json").read_text())
        assert [line["round"] for line in self.lines()] == list(range(1, ROUNDS + 1))
        assert [line["replied"] for line in self.lines()] == [sorted(HOSPITALS)] * ROUNDS, self.said()
        assert result["model_sha256"] == undisturbed["model_sha256"]
        assert result["metrics"] == undisturbed["metrics"]
        with closing(sqlite3.connect(self.folder / "server" / "server.db")) as db:
            counts = db.execute("SELECT institution, count(*) FROM replies GROUP BY institution ORDER BY 1").fetchall()
            states = db.execute("SELECT state FROM runs").fetchall()
        # One reply to each step of training and of evaluation in each round, whatever was sent twice.
        runs = len(states) if runs is None else runs
        each = 2 if self._settings else 2 * len(STEPS)
        assert counts == [(hospital, each * ROUNDS * runs) for hospital in sorted(HOSPITALS)]
        assert states == [("finished",)] * runs
        assert "Traceback" not in self.said()
        self.the_log_tells_it(runs)

    def the_log_tells_it(self, runs: int) -> None:
        """Every round has its entry once, and every head that an institution kept is of this very log."""
        home = open_home(self.folder / "server")
        kept = [one for hospital in HOSPITALS for one in read_heads(self.folder / f"client {hospital}" / HEADS)]
        log = Log(home)
        found = verify(log.bundle(), home.authority().certificate, kept)
        log.close()
        assert found.problems == ()
        assert len(kept) >= ROUNDS
        rounds = [one.fields["round"] for one in found.entries if one.kind == "round"]
        assert rounds == list(range(ROUNDS + 1)) * runs
        assert [one.kind for one in found.entries].count("run-ended") == runs

    def said(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))


@pytest.fixture
def run(federation: Federation) -> Run:
    return enrolled(federation, [])


@pytest.fixture
def plain_run(federation: Federation) -> Run:
    return enrolled(federation, PLAIN)


def enrolled(federation: Federation, settings: list[str]) -> Run:
    waiting = federation.serve("rounds=1", "institutions=9")  # for enrolment alone; it never begins a run
    federation.wait_for("server.log", "waiting for")
    made = Run(federation, settings)
    waiting.kill()
    waiting.wait(10)
    return made


def kill_server_at(run: Run, *points: tuple[str, int]) -> None:
    """Start the server once for each point; it dies there, and the next one goes on."""
    for point, number in points:
        process = run.server(point, str(number))
        assert process.wait(PATIENCE_S) == -signal.SIGKILL, f"{point} {number}: {run.said()}"


@pytest.mark.slow
def test_a_server_killed_while_replies_come_in_and_rounds_are_committed_ends_bit_equal(
    run: Run, undisturbed: dict[str, Any]
) -> None:
    for hospital in HOSPITALS:
        run.client(hospital)
    # The 17th reply: in the middle of the exchanges of the second round.
    kill_server_at(run, ("reply accepted", 17), ("checkpoint written", 3))
    assert run.server().wait(PATIENCE_S) == 0, run.said()
    run.ends_like(undisturbed)


@pytest.mark.slow
def test_a_client_killed_before_and_after_its_reply_is_kept_counts_once(
    plain_run: Run, undisturbed_plain: dict[str, Any]
) -> None:
    server = plain_run.server()
    crashing = {"Cleveland": "round trained", "Hungary": "reply kept", "VA Long Beach": "reply released"}
    for hospital, point in crashing.items():
        plain_run.client(hospital, point, "3")
    for hospital in HOSPITALS:
        assert plain_run.clients[hospital].wait(PATIENCE_S) == -signal.SIGKILL, plain_run.said()
        plain_run.client(hospital)
    assert server.wait(PATIENCE_S) == 0, plain_run.said()
    plain_run.ends_like(undisturbed_plain)


@pytest.mark.slow
def test_a_server_killed_at_every_named_point_ends_bit_equal(run: Run, undisturbed: dict[str, Any]) -> None:
    for hospital in HOSPITALS:
        run.client(hospital)
    once = {"run begun", "results written", "run ended"}
    kill_server_at(run, *((point, 1) for point in SERVER_POINTS if point not in once | {"run ended"}))
    kill_server_at(run, *((point, 2) for point in SERVER_POINTS if point not in once))
    kill_server_at(run, ("results written", 1), ("run ended", 1))
    run.ends_like(undisturbed)


@pytest.mark.slow
def test_a_client_killed_at_every_named_point_counts_once(plain_run: Run, undisturbed_plain: dict[str, Any]) -> None:
    server = plain_run.server()
    for hospital in HOSPITALS[1:]:
        plain_run.client(hospital)
    for number in (1, 2):
        for point in CLIENT_POINTS:
            process = plain_run.client(HOSPITALS[0], point, str(number))
            assert process.wait(PATIENCE_S) == -signal.SIGKILL, f"{point}: {plain_run.said()}"
    plain_run.client(HOSPITALS[0])
    assert server.wait(PATIENCE_S) == 0, plain_run.said()
    plain_run.ends_like(undisturbed_plain)


@pytest.mark.slow
def test_a_server_killed_at_fifty_random_moments_ends_bit_equal(run: Run, undisturbed: dict[str, Any]) -> None:
    for hospital in HOSPITALS:
        run.client(hospital)
    seed = int(os.environ.get("LEPTON_TEST_SEED", "0"))
    moments, kills = random.Random(seed), 0  # noqa: S311 - a schedule
    while kills < 50:
        process = run.server()
        run.wait_until_it_trains(process)
        try:
            process.wait(moments.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            kills += 1
            continue
        assert process.returncode == 0, run.said()
        run.ends_like(undisturbed, None)
    assert run.server().wait(PATIENCE_S) == 0
    run.ends_like(undisturbed, None)
    sys.stderr.write(f"{kills} kills, schedule {seed}\n")


@pytest.mark.slow
def test_clients_killed_at_fifty_random_moments_count_once(plain_run: Run, undisturbed_plain: dict[str, Any]) -> None:
    for hospital in HOSPITALS:
        plain_run.client(hospital)
    seed = int(os.environ.get("LEPTON_TEST_SEED", "0"))
    moments, kills, runs = random.Random(seed), 0, 0  # noqa: S311 - a schedule
    while kills < 50:
        server = plain_run.server()
        while server.poll() is None:
            time.sleep(moments.uniform(0, 1.5))
            hospital = moments.choice(HOSPITALS)
            plain_run.clients[hospital].kill()
            plain_run.clients[hospital].wait(10)
            kills += 1
            plain_run.client(hospital)
            if kills >= 50:
                break
        assert server.wait(PATIENCE_S) == 0, plain_run.said()
        runs += 1
        plain_run.ends_like(undisturbed_plain, runs)
    sys.stderr.write(f"{kills} kills over {runs} runs, schedule {seed}\n")
