"""A running operator for the tests of the link."""

from __future__ import annotations

import asyncio
import threading

import pytest
from served import WAIT_S, Operator


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(WAIT_S)
    made.close()


@pytest.fixture
def operator(loop, tmp_path):
    made = Operator(loop, tmp_path / "server")
    yield made
    made.stop()
