"""`lepton-server run` or `lepton-client run` in a process that kills itself at a named point.

usage: crashing.py server|client POINT NUMBER SETTING=VALUE ...

The process ends as by `kill -9` when POINT is passed for the NUMBERth time: no handler, no flush, no goodbye.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from lepton_client import run as client
from lepton_server import run as server
from lepton_server import settings

from lepton_fl.config import App, run_app


def killing(point: str, number: int) -> Callable[[str], None]:
    left = number

    def reached(passed: str) -> None:
        nonlocal left
        left -= passed == point
        if left == 0 and passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


if __name__ == "__main__":
    side, point, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    reached = killing(point, number)
    sys.argv = [f"lepton-{side} run", *sys.argv[4:]]
    if side == "server":
        app = App(
            "server", lambda: settings.ServerConfig, lambda c: server.run(c, reached), settings.register_schemas, ""
        )
        run_app(app, ("task", "model", "strategy", "privacy"))
    else:
        app = App("client", lambda: client.AgentConfig, lambda c: client.run(c, reached), client.register_schemas, "")
        run_app(app, ("task",))
