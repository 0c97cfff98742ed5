"""What blocks on the disk, in one thread of its own: in order, and heartbeats go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lepton_server.agreements import Agreements
from lepton_server.presence import Presence
from lepton_server.store import Store

_T = TypeVar("_T")


@dataclass(frozen=True)
class Records:
    """Connections to the operator's database, for the one thread that uses them."""

    store: Store
    presence: Presence
    agreements: Agreements

    @classmethod
    def of(cls, database: Path) -> Records:
        """Connections to this file."""
        return cls(Store(database), Presence(database), Agreements(database))


class Disk:
    """One thread with its own connections, opened at the first use."""

    def __init__(self, open_records: Callable[[], Records]) -> None:
        self._open_records = open_records
        self._records: Records | None = None
        self._thread = ThreadPoolExecutor(1, "disk")

    def wait(self, work: Callable[[Records], _T]) -> _T:
        """Do this there, and wait; not in the event loop."""
        return self._thread.submit(lambda: work(self._opened())).result()

    async def aside(self, work: Callable[[Records], _T]) -> _T:
        """Do this there, while the event loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._opened()))

    async def close(self) -> None:
        """Everything is written and closed."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _opened(self) -> Records:
        if self._records is None:
            self._records = self._open_records()
        return self._records

    def _close(self) -> None:
        if self._records is not None:
            self._records.store.close()
            self._records.presence.close()
            self._records.agreements.close()
