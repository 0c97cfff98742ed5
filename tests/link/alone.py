"""A server alone in its process, so that its memory and its processor time can be read, and how a test talks to it.

As a program: `alone.py FOLDER`, one JSON command a line on stdin, one JSON answer a line on stdout, the log on stderr.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lepton_server.store import Institution
from operators import Federation, Operator, completes
from peers import WAIT_S, Member, Peer

REPLY_BYTES = 1 << 20
# glibc keeps large blocks that were freed, unless told from which size on to give them back at once; with this, what
# the process has is what it holds.
_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


@dataclass(frozen=True)
class Usage:
    """What the server's process holds and has used."""

    rss_bytes: int
    cpu_s: float
    sessions: int
    tasks: int  # in the event loop
    received_bytes: int  # in frames, since the start


class Served:
    """An operator's server in another process, a run of all its members begun, from `with` to its end."""

    def __init__(self, operator: Operator) -> None:
        self._log = operator.home.path / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(operator.home.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ
                | _GIVEN_BACK
                | {"PYTHONPATH": os.pathsep.join(sys.path)},  # as the tests find their modules
                text=True,
            )

    def __enter__(self) -> Served:
        self._answered()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate(timeout=WAIT_S)

    @property
    def log(self) -> str:
        """Everything the server said so far."""
        return self._log.read_text(errors="replace")

    def ask(self, member: Member, size: int = 0) -> str:
        """See `Federation.ask`."""
        return str(self._do("ask", member.node_id, size))

    def value(self, message_id: str) -> int | None:
        """See `Federation.value`."""
        answer = self._do("value", message_id, WAIT_S)
        return None if answer is None else int(answer)

    def collect(self, message_id: str) -> None:
        """Take the answer away if there is one, and wait no longer if there is none."""
        self._do("collect", message_id)

    def works_with(self, member: Member, peer: Peer) -> bool:
        """See `Federation.works_with`."""
        return completes(peer, lambda: self.ask(member), self.value)

    def usage(self) -> Usage:
        """Now."""
        return Usage(*self._do("usage"))

    def _do(self, command: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answered()

    def _answered(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the server ended:\n{self.log[-5000:]}"
        return json.loads(line)


class _Commands:
    """The other end of the pipe."""

    def __init__(self, federation: Federation, members: dict[int, Institution]) -> None:
        self._federation, self._members = federation, members

    def ask(self, node_id: int, size: int) -> str:
        return self._federation.ask(self._members[node_id], size)

    def value(self, message_id: str, wait_s: float) -> int | None:
        return self._federation.value(message_id)

    def collect(self, message_id: str) -> None:
        self._federation.answer(message_id, wait_s=0)
        self._federation.hub.owing.give_up([message_id])

    def usage(self) -> tuple[int, float, int, int, int]:
        gc.collect()
        pages, federation = int(Path("/proc/self/statm").read_text().split()[1]), self._federation
        hub = federation.hub
        rss, cpu_s = pages * resource.getpagesize(), time.process_time()
        return rss, cpu_s, len(hub.sessions), federation.tasks(), hub.received_bytes


def main() -> None:
    """Serve until stdin ends or the process is ended."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    operator = Operator(Path(sys.argv[1]))
    store = operator.store()
    members = {one.node_id: one for one in store.institutions()}
    store.close()
    with Federation(operator) as federation:
        federation.begin_run(*members.values(), reply_bytes=REPLY_BYTES)
        commands = _Commands(federation, members)
        sys.stdout.write(f"{os.getpid()}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            sys.stdout.write(json.dumps(getattr(commands, command)(*arguments)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
