"""A running operator for the tests of the link, and one with a run whose work is done by hand."""

from __future__ import annotations

import asyncio
import logging
import threading

import operators
import pytest
import served
from operators import REPLY_BYTES, Federation, World
from peers import joined


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(served.WAIT_S)
    made.close()


@pytest.fixture
def operator(loop, tmp_path):
    made = served.Operator(loop, tmp_path / "server")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = operators.Operator(tmp_path_factory.mktemp("world") / "server")
    honest, elm = made.admit("honest"), made.admit("elm")
    with Federation(made) as federation:
        federation.begin_run(honest, elm, reply_bytes=REPLY_BYTES)
        with joined(honest, made.port) as beside:
            yield World(made, federation, honest, beside, elm)


@pytest.fixture
def nothing_is_lost(world, caplog):
    """After the test the honest institution still completes a message, and the log holds no traceback."""
    caplog.set_level(logging.INFO)
    yield
    assert world.federation.works_with(world.honest, world.beside)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
