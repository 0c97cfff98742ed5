"""A federation of real processes survives a network that vanishes, breaks, or is slow and far away."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime

import pytest
from federations import PATIENCE_S, PLAIN, PUBLIC, Federation
from line import Line, Way

NEAR, FAR = TWO = ["Switzerland", "VA Long Beach"]  # FAR is reached through the line
LARGE = [PLAIN, "model=mlp", "model.hidden=[1600,1600]", "training.physical_batch=16", "seed=1"]  # a model of 10 MB
HALF = 5_000_000
LEAST_AGAIN = 0.05  # of a transfer: so little is sent twice


def run(federation: Federation, line: Line, settings: list[str]) -> Callable[[], None]:
    """A run of both begins, one through the line; call what is returned to see it end well."""
    server = federation.gather(TWO, *settings, "output=out", "round_s=300")
    federation.reroute(FAR, line.port)
    for hospital in TWO:
        federation.client(hospital, *PUBLIC)

    def ends_well() -> None:
        assert server.wait(3 * PATIENCE_S) == 0, (federation.folder / "server.log").read_text()
        assert all(one["replied"] == one["cohort"] == TWO for one in federation.rounds())
        for log in ("server.log", f"{FAR}.log"):
            assert "Traceback" not in (federation.folder / log).read_text()
        assert federation.result()["model_sha256"] == federation.simulated(TWO, *settings)

    return ends_well


def streams(federation: Federation, hospital: str) -> int:
    return (federation.folder / "server.log").read_text().count(f"{hospital} connected")


def model_bytes(federation: Federation) -> int:
    return (federation.folder / "out" / "model.safetensors").stat().st_size


def until_passed(way: Way, size: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while way.passed < size:
        assert time.monotonic() < end, f"only {way.passed} bytes passed"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("direction", "transfers"),
    [
        pytest.param("up", 2, id="upload", marks=pytest.mark.slow),
        # Two rounds of training and evaluation each begin with the model.
        pytest.param("down", 4, id="download", marks=pytest.mark.slow),
    ],
)
def test_a_transfer_that_is_cut_goes_on_where_it_stopped(
    federation: Federation, direction: str, transfers: int
) -> None:
    with Line(federation.port) as line:
        way = line.up if direction == "up" else line.down
        way.bytes_per_s = 4e6
        ends_well = run(federation, line, [*LARGE, "privacy=none", "rounds=2"])
        until_passed(way, HALF)
        line.cut()
        ends_well()
    assert streams(federation, FAR) == 2
    assert way.passed <= (transfers + LEAST_AGAIN) * model_bytes(federation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("direction", "privacy", "rounds", "transfers"),
    [("up", "none", 2, 2), ("down", "none", 2, 4), ("up", "record", 1, 1)],
    ids=["upload", "download", "private upload"],
)
def test_a_transfer_goes_on_after_the_network_was_away_for_twenty_seconds(
    federation: Federation, direction: str, privacy: str, rounds: int, transfers: int
) -> None:
    with Line(federation.port) as line:
        way = line.up if direction == "up" else line.down
        way.bytes_per_s = 3e6
        ends_well = run(federation, line, [*LARGE, f"privacy={privacy}", f"rounds={rounds}"])
        until_passed(way, HALF)
        line.drop()
        time.sleep(20)
        before = list(way.of_each)
        line.restore()
        ends_well()
    assert streams(federation, FAR) == 2
    # What the sender's kernel held on the old connection still arrives, and nobody counts on it.
    late = sum(way.of_each[: len(before)]) - sum(before)
    assert late < 8 << 20
    assert way.passed - late <= (transfers + LEAST_AGAIN) * model_bytes(federation)


@pytest.mark.slow
def test_on_a_slow_and_long_line_heartbeats_pass_and_the_others_wait_for_nothing_but_the_end_of_a_round(
    federation: Federation,
) -> None:
    with Line(federation.port) as line:
        for way in (line.up, line.down):
            way.bytes_per_s, way.delay_s = 500e3, 0.2  # 4 Mbit/s: each transfer takes longer than a silence may
        ends_well = run(federation, line, [*LARGE, "privacy=none", "rounds=1"])
        ends_well()
    assert streams(federation, NEAR) == streams(federation, FAR) == 1
    begun, (near, far), (near_again, far_again) = accepted(federation)
    assert near - begun < (far - begun) / 3
    assert near_again - far < (far_again - far) / 3


def accepted(federation: Federation) -> tuple[float, list[float], list[float]]:
    """When the run began, and when the answers to training and to evaluation were taken, the near one's first."""

    def seconds(text: str) -> float:
        return datetime.fromisoformat(text).timestamp()

    with closing(sqlite3.connect(federation.folder / "server" / "server.db")) as db:
        ((began_at,),) = db.execute("SELECT began_at FROM runs").fetchall()
        rows = db.execute("SELECT institution, accepted_at FROM replies ORDER BY accepted_at").fetchall()
    assert [name for name, _ in rows] == 2 * TWO
    times = [seconds(at) for _, at in rows]
    return seconds(began_at), times[:2], times[2:]
