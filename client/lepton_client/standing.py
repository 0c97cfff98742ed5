"""How this institution stands with its server: what a running agent knows, in its home for `lepton-client status`.

One source for `status` and Prometheus, and nothing in it that the data decides. Rounds, answers and the certificate
are on disk already, and are read there.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_client.ledger import Ledger
from lepton_fl.files import SECRET, replace_file
from lepton_fl.privacy.accounting import GAUSSIAN
from lepton_fl.privacy.books import Round

_EVERY_S = 5.0  # how often it is written down that the server was heard


@dataclass(frozen=True)
class Promise:
    """What a private run promises, as this institution's own accountant was told."""

    unit: str
    epsilon: float  # budget of the whole run
    delta: float
    noise_multiplier: float
    sampling_rate: float
    local_steps: int  # of a round
    law: str = GAUSSIAN  # of the noise; a status from before there was shared noise names none


@dataclass(frozen=True)
class Joined:
    """The run that was joined last."""

    run_id: int
    title: str
    rounds: int
    promise: Promise | None  # None: the run is not private


@dataclass(frozen=True)
class Known:
    """The content of `status.json`."""

    address: str | None = None  # where the server was looked for last
    connected_at: datetime | None = None  # None: no stream is open
    heard_at: datetime | None = None
    news: str = ""  # why there is no stream
    ledger: str | None = None  # its folder
    run: Joined | None = None


class Standing:
    """What is known now, and on disk: changes at once, that the server was heard every 5 s at most.

    Two threads tell it, the agent's and its stream's reader. A disk that takes no more does not stop them here: it
    does where an answer must be kept.
    """

    def __init__(self, home: Path, ledger: Ledger) -> None:
        self._home, self._ledger = home, ledger
        # The run joined last outlives a restart, a stream does not.
        self.known = replace(read(home), connected_at=None, ledger=str(ledger.folder))
        self.sent_bytes = 0  # in frames, over every stream since the start
        self._lock = threading.Lock()
        self._is_calling = False
        self._written_at = 0.0  # on the monotonic clock

    @property
    def round(self) -> Round | None:
        """The last round of the run that was begun here; raises `LedgerDamaged` if the ledger is."""
        run = None if self.known.run is None else self._ledger.run(str(self.known.run.run_id))
        return None if run is None else run.last

    def calls(self, address: str) -> None:
        """The server is looked for here, from now until `left`."""
        with self._lock:
            self._is_calling = True
            self._become(address=address)

    def heard(self) -> None:
        """A frame came."""
        with self._lock:
            if not self._is_calling:
                return  # the last frame of a stream that is over
            now = datetime.now(UTC)
            if self.known.connected_at is None:
                self._become(connected_at=now, heard_at=now, news="")
            elif time.monotonic() - self._written_at < _EVERY_S:
                self.known = replace(self.known, heard_at=now)
            else:
                self._become(heard_at=now)

    def left(self) -> None:
        """The stream is over, or there was none."""
        with self._lock:
            self._is_calling = False
            self._become(connected_at=None)

    def noticed(self, news: str) -> None:
        """Why there is no stream."""
        with self._lock:
            self._become(news=news)

    def joined(self, run: Joined) -> None:
        """This is the run now."""
        with self._lock:
            self._become(run=run)

    def _become(self, **changes: Any) -> None:
        """Change and write; the caller holds the lock."""
        self.known = replace(self.known, **changes)
        self._written_at = time.monotonic()
        content = json.dumps(asdict(self.known), default=datetime.isoformat, indent=2) + "\n"
        with suppress(OSError):
            replace_file(_file(self._home), content.encode(), mode=SECRET, is_durable=False)


def read(home: Path) -> Known:
    """What an agent left in this home; nothing, if there is no such file or it is damaged."""
    try:
        plain = json.loads(_file(home).read_text())
        run = plain.pop("run")
        times = {name: None if plain[name] is None else _moment(plain[name]) for name in ("connected_at", "heard_at")}
        return Known(**{**plain, **times}, run=None if run is None else _joined(run))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Known()


def _file(home: Path) -> Path:
    return home / "status.json"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _joined(plain: dict[str, Any]) -> Joined:
    promise = plain.pop("promise")
    return Joined(**plain, promise=None if promise is None else Promise(**promise))
