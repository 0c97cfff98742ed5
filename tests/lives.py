"""A training client that dies again and again, and the server that it comes back to; both are the product's own code.

usage: lives.py server SEEN SETTING=VALUE ...   `lepton-server run` that copies each answer as it is taken to SEEN
       lives.py client SEEN HOME DATA           a life of `lepton-client run` for each line on stdin, ended by SIGKILL:
                                                `SECONDS` after so long; `SECONDS NUMBER POINT` when POINT is passed the
                                                NUMBERth time, or after so long. Prints `killed` or `ended CODE`.
                                                `warm`: later lives need not work out anew what the contract means

The client copies each answer to SEEN before its first byte can be sent. A life is a fork of a process that has imported
everything, and has neither gRPC nor threads running.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import torch
from lepton_client import policy
from lepton_client import run as client
from lepton_client.considering import Position, consider
from lepton_client.contracts import Contracts
from lepton_client.ledger import Ledger
from lepton_server import run as server
from lepton_server import settings

from lepton_fl.config import App, run_app
from lepton_fl.errors import exit_on_error
from lepton_fl.tasks.task import DataSource


def copying(point: str, spools: Callable[[], list[Path]], seen: Path) -> Callable[[str], None]:
    """When the point is passed, every answer that these spools hold is in the spool `seen/DIGEST` too."""

    def reached(passed: str) -> None:
        if passed != point:
            return
        for spool in spools():
            for path in (path for path in spool.iterdir() if not path.name.startswith(".")):
                content = path.read_bytes()
                copies = seen / sha256(content).hexdigest()
                copies.mkdir(parents=True, exist_ok=True)
                partial = copies / f".{os.getpid()}"
                partial.write_bytes(content)
                partial.rename(copies / path.name)

    return reached


def serve(seen: Path, arguments: list[str]) -> None:
    sys.argv = ["lepton-server run", *arguments]
    spools = lambda: list(Path("server").glob("*/*/replies"))  # noqa: E731
    reached = copying("reply written", spools, seen)
    app = App("server", lambda: settings.ServerConfig, lambda c: server.run(c, reached), settings.register_schemas, "")
    run_app(app, ("task", "model", "strategy", "privacy"))


def live(home: Path, data: Path, seen: Path, death: tuple[str, int]) -> None:
    """The life of one agent, until `death`: a point, and how often it is passed."""
    point, left = death
    copy = copying("reply released", lambda: [home / "spool"], seen)

    def reached(passed: str) -> None:
        nonlocal left
        copy(passed)
        left -= passed == point
        if passed == point and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    source = DataSource(str(data), None)
    config = client.AgentConfig(str(home), source, None, None, device="cpu", log="text", metrics_port=None)
    with exit_on_error():
        client.run(config, reached)


def lives(seen: Path, home: Path, data: Path) -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        if line == "warm\n":
            warm(home)
            continue
        seconds, number, point = [*line.rstrip("\n").split(" ", 2), "0", ""][:3]
        child = os.fork()
        if child == 0:
            try:
                live(home, data, seen, (point, int(number)))
            except SystemExit as error:
                os._exit(int(error.code or 0))
            finally:
                os._exit(70)  # a child must not come back as its parent
        sys.stdout.write(ended(child, float(seconds)) + "\n")
        sys.stdout.flush()


def warm(home: Path) -> None:
    """What every life works out anew about its contract is known before it begins."""
    folder = home / "contracts"
    ledger = Ledger.open(home / "ledger", lambda: datetime.now(UTC))
    position = Position(policy.read(home / "policy.yaml"), {}, ledger, torch.device("cpu"))
    for run in folder.iterdir():
        offered = Contracts(folder).find(int(run.name))
        assert offered is not None
        consider(offered.contract, position, datetime.now(), in_full=False)


def ended(child: int, seconds: float) -> str:
    """How the child ended; after so long, by us."""
    end = time.monotonic() + seconds
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < end:
        time.sleep(0.002)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        done, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return "killed" if code == -signal.SIGKILL else f"ended {code}"


if __name__ == "__main__":
    side, seen, *rest = sys.argv[1:]
    if side == "server":
        serve(Path(seen), rest)
    else:
        lives(Path(seen), Path(rest[0]), Path(rest[1]))
