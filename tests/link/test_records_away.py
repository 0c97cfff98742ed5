"""While the operator's records cannot be read or written, streams go on, and nothing is believed or forgotten."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from lepton_server.database import StoreError
from operators import Federation, Operator
from peers import WAIT_S, Member, hello, joined, reply_parts
from peers import Peer as Stream


@dataclass
class Scene:
    """A server with a run and two members."""

    federation: Federation
    elm: Member
    oak: Member

    @property
    def port(self) -> int:
        return self.federation.operator.port


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    operator = Operator(tmp_path / "server")
    elm, oak = operator.admit("elm"), operator.admit("oak")
    with Federation(operator) as federation:
        federation.begin_run(elm, oak)
        yield Scene(federation, elm, oak)


@contextmanager
def without(scene: Scene, here: str, there: str) -> Iterator[None]:
    """The records lack a table or a column, under both of these statements."""
    with closing(sqlite3.connect(scene.federation.operator.home.database)) as db:
        db.execute(here)
        yield
        db.execute(there)


@contextmanager
def locked(scene: Scene) -> Iterator[None]:
    """Another process writes, and takes its time."""
    with closing(sqlite3.connect(scene.federation.operator.home.database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def wait_until(holds: object) -> bool:
    assert callable(holds)
    end = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_who_leaves_before_its_coming_is_written_down_keeps_no_place(scene: Scene) -> None:
    sessions = scene.federation.hub.sessions
    with locked(scene):
        with Stream(scene.elm, scene.port, hello()):
            assert wait_until(lambda: scene.elm.node_id in sessions)
        time.sleep(1)
    assert wait_until(lambda: scene.elm.node_id not in sessions)


def test_a_stream_goes_on_while_nobody_can_write_down_who_is_here(scene: Scene) -> None:
    rename = "ALTER TABLE institutions RENAME COLUMN {} TO {}".format
    with (
        without(scene, rename("connected_at", "away"), rename("away", "connected_at")),
        joined(scene.elm, scene.port) as peer,
    ):
        assert scene.federation.works_with(scene.elm, peer)


def test_a_revocation_cuts_even_after_the_records_could_not_be_read(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with joined(scene.elm, scene.port) as peer, joined(scene.oak, scene.port) as other:
        with without(scene, "ALTER TABLE keys RENAME TO away", "ALTER TABLE away RENAME TO keys"):
            assert wait_until(lambda: any("whoever was a member" in line for line in caplog.messages))
            assert scene.federation.works_with(scene.elm, peer)
        scene.federation.operator.revoke("oak")
        assert other.ending().code == grpc.StatusCode.PERMISSION_DENIED
        assert scene.federation.works_with(scene.elm, peer)


def test_a_reply_that_cannot_be_noted_is_not_acknowledged_and_ends_the_run(scene: Scene) -> None:
    asked = scene.federation.ask(scene.elm)
    away, back = "ALTER TABLE replies RENAME TO away", "ALTER TABLE away RENAME TO replies"
    with without(scene, away, back), joined(scene.elm, scene.port) as peer:
        peer.reply(peer.instruction(), reply_parts())
        ending = peer.ending()
    assert scene.federation.answer(asked, wait_s=0) is None
    with joined(scene.elm, scene.port), pytest.raises(StoreError):
        scene.federation.grid.send_and_receive([scene.federation.message(scene.elm)])
    assert (ending.code, ending.detail) == (grpc.StatusCode.INTERNAL, "the server cannot write its records")
