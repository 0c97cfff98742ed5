"""A server that stops says why to everybody on a stream, and is gone once they are."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from agreed import begun, institution
from federations import write_rows
from lepton_client.stream import Ended
from operators import Federation, Operator
from peers import Peer, hello
from served import until


def test_an_institution_hears_why(tmp_path: Path) -> None:
    write_rows(tmp_path / "data.csv", ["Cleveland"])
    with begun(tmp_path) as run:
        elm = institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port)
        elm.connect()
        until(lambda: run.federation.hub.sessions)
    assert elm.over() == Ended(None, "the test is over")


def test_who_hears_it_and_stays_is_cut_off_soon(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "server")
    member = operator.admit("elm")
    with ExitStack() as after:
        with Federation(operator) as federation:
            peer = after.enter_context(Peer(member, operator.port, hello()))
            until(lambda: federation.hub.sessions)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert peer.until("goodbye").goodbye.reason == "the test is over"
        peer.ending()
