"""Institutions and servers that freeze, come late, or come twice, as real processes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time

import pytest
from federations import HOSPITALS, PATIENCE_S, PLAIN, PUBLIC, Federation
from line import Line

pytestmark = pytest.mark.slow

NEAR, OTHER = TWO = HOSPITALS[:2]
SILENT_S = 20  # longer than a silence may last


def slow_down(line: Line) -> None:
    """Each round takes more than a second from now on, so that there is time in its middle."""
    line.up.delay_s = line.down.delay_s = 0.3


def hurry(line: Line) -> None:
    """The rest of the run takes no longer than it must."""
    line.up.delay_s = line.down.delay_s = 0.0


def freeze(process: subprocess.Popen[str], seconds: float) -> None:
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)


def undisturbed(federation: Federation, hospitals: list[str], *settings: str) -> None:
    """Every institution took part in every round, and the model is the one that nothing disturbs."""
    assert all(one["replied"] == one["cohort"] == hospitals for one in federation.rounds())
    assert federation.result()["model_sha256"] == federation.simulated(hospitals, *settings)
    for log in ("server.log", *(f"{hospital}.log" for hospital in hospitals)):
        assert "Traceback" not in (federation.folder / log).read_text()


@pytest.mark.parametrize(
    ("seconds", "streams"), [(5, 1), pytest.param(SILENT_S, 2, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_an_institution_that_freezes_for_less_than_the_grace_is_waited_for(
    federation: Federation, seconds: float, streams: int
) -> None:
    settings = [PLAIN, "rounds=10", "seed=1"]
    server = federation.gather(TWO, *settings, "output=out", "grace_s=60", "round_s=300")
    with Line(federation.port) as line:
        slow_down(line)
        federation.reroute(NEAR, line.port)
        clients = {hospital: federation.client(hospital, *PUBLIC) for hospital in TWO}
        federation.wait_for("server.log", "round  3/10")
        freeze(clients[OTHER], seconds)
        hurry(line)
        assert server.wait(PATIENCE_S) == 0
    assert (federation.folder / "server.log").read_text().count(f"{OTHER} connected") == streams
    undisturbed(federation, TWO, *settings)


@pytest.mark.slow
def test_an_institution_that_freezes_for_longer_is_left_out_until_it_is_back(federation: Federation) -> None:
    server = federation.gather(TWO, PLAIN, "rounds=60", "seed=1", "output=out", "grace_s=1", "round_s=300")
    with Line(federation.port) as line:
        slow_down(line)
        federation.reroute(NEAR, line.port)
        clients = {hospital: federation.client(hospital, *PUBLIC) for hospital in TWO}
        federation.wait_for("server.log", "round  3/60")
        clients[OTHER].send_signal(signal.SIGSTOP)
        federation.wait_for("server.log", f"{OTHER} left out")
        clients[OTHER].send_signal(signal.SIGCONT)
        federation.wait_for("server.log", f"{OTHER} connected", 2)
        hurry(line)
        assert server.wait(PATIENCE_S) == 0
    replied = [one["replied"] for one in federation.rounds()]
    assert len(replied) == 60
    assert [NEAR] in replied
    assert replied[-1] == TWO
    assert "Traceback" not in (federation.folder / "server.log").read_text()


@pytest.mark.slow
def test_institutions_come_back_by_themselves_to_a_server_that_froze(federation: Federation) -> None:
    settings = [PLAIN, "rounds=10", "seed=1"]
    server = federation.gather(TWO, *settings, "output=out", "round_s=300")
    with Line(federation.port) as line:
        slow_down(line)
        federation.reroute(NEAR, line.port)
        for hospital in TWO:
            federation.client(hospital, *PUBLIC)
        federation.wait_for("server.log", "round  3/10")
        freeze(server, SILENT_S)
        hurry(line)
        assert server.wait(PATIENCE_S) == 0
    for hospital in TWO:
        assert "nothing was heard for 15 s from the server" in (federation.folder / f"{hospital}.log").read_text()
    undisturbed(federation, TWO, *settings)


@pytest.mark.slow
def test_an_institution_that_comes_late_takes_part_from_then_on_and_nothing_is_repeated(
    federation: Federation,
) -> None:
    late = HOSPITALS[3]
    server = federation.gather(HOSPITALS, PLAIN, "rounds=80", "seed=1", "institutions=3", "output=out")
    with Line(federation.port) as line:
        slow_down(line)
        federation.reroute(NEAR, line.port)
        for hospital in HOSPITALS[:3]:
            federation.client(hospital, *PUBLIC)
        federation.wait_for("server.log", "round  3/80")
        federation.client(late, *PUBLIC)
        federation.wait_for("server.log", f"{late} connected")
        before = federation.rounds()
        while not any(late in one["replied"] for one in federation.rounds()):
            time.sleep(0.1)
        hurry(line)
        assert server.wait(PATIENCE_S) == 0
    rounds = federation.rounds()
    assert [one["round"] for one in rounds] == list(range(1, 81))
    assert rounds[: len(before)] == before
    assert all(one["replied"] == one["cohort"] for one in rounds)
    cohorts = [one["cohort"] for one in rounds]
    came = cohorts.index(HOSPITALS)
    assert came >= len(before)
    assert cohorts == came * [HOSPITALS[:3]] + (80 - came) * [HOSPITALS]


def test_of_two_processes_with_one_identity_the_newer_serves_and_the_older_ends(federation: Federation) -> None:
    server = federation.gather(TWO, "rounds=2", PLAIN, "output=out")
    older = federation.client(NEAR)
    federation.wait_for("server.log", f"{NEAR} connected")
    shutil.copytree(federation.folder / f"client {NEAR}", federation.folder / "copy")
    federation.start("copy.log", "lepton-client", "run", "--home", "copy", f"data.path={NEAR}.csv")
    assert older.wait(PATIENCE_S) == 7
    said = (federation.folder / f"{NEAR}.log").read_text().splitlines()[-1]
    assert said.startswith("error: the server closed this stream: another process connected with this certificate; ")
    federation.client(OTHER)
    assert server.wait(PATIENCE_S) == 0
    assert [one["replied"] for one in federation.rounds()] == [TWO, TWO]
    federation.wait_for("copy.log", "the run is finished")


def test_a_second_process_in_one_home_is_refused_and_the_first_goes_on(federation: Federation) -> None:
    federation.gather([NEAR, OTHER], "rounds=1", PLAIN)
    first = federation.client(NEAR)
    federation.wait_for("server.log", f"{NEAR} connected")
    second = federation.start("second.log", "lepton-client", "run", "--home", f"client {NEAR}", f"data.path={NEAR}.csv")
    assert second.wait(PATIENCE_S) == 9
    said = (federation.folder / "second.log").read_text()
    assert said.startswith(f"error: client {NEAR} is in use by process {first.pid}; nothing was started")
    assert len(said.splitlines()) == 1
    assert first.poll() is None
