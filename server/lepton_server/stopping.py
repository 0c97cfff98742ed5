"""SIGTERM as an error like any other, so that files stay whole and every institution hears a goodbye."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lepton_fl.errors import Stopped


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises `Stopped` inside the block; from its end on the process is ending, and a repeat changes nothing.

    Call it in the main thread: Python runs signal handlers nowhere else.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(
        "stopped by SIGTERM; files already written are whole, and the last round's model stays; the same command "
        "continues the run"
    )
