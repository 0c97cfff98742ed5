"""Who is connected and when each institution was last heard, in the operator's database: for `lepton-server status`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lepton_server.database import Database, as_text, as_time


@dataclass(frozen=True)
class Seen:
    """When an institution was here."""

    institution: str
    connected_at: datetime | None  # the last time
    disconnected_at: datetime | None
    last_heard_at: datetime | None

    @property
    def is_connected(self) -> bool:
        """True while a stream is open, if the server that wrote this still runs."""
        return self.connected_at is not None and (
            self.disconnected_at is None or self.connected_at > self.disconnected_at
        )


class Presence:
    """Comings and goings; one connection, used by one thread."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def nobody(self, now: datetime) -> None:
        """A server begins: whoever was connected to one that was killed is not."""
        self._db.execute("UPDATE institutions SET disconnected_at = ? WHERE connected_at IS NOT NULL", (as_text(now),))

    def connected(self, institution: str, now: datetime) -> None:
        """A stream was opened."""
        self._db.execute(
            "UPDATE institutions SET connected_at = ?, last_heard_at = ? WHERE name = ?",
            (as_text(now), as_text(now), institution),
        )

    def disconnected(self, institution: str, now: datetime) -> None:
        """The institution's stream was closed."""
        self._db.execute("UPDATE institutions SET disconnected_at = ? WHERE name = ?", (as_text(now), institution))

    def heard(self, institutions: Iterable[str], now: datetime) -> None:
        """These sent something of late."""
        with self._db.transaction():
            for institution in institutions:
                self._db.execute(
                    "UPDATE institutions SET last_heard_at = ? WHERE name = ?", (as_text(now), institution)
                )

    def all(self) -> list[Seen]:
        """Every member and former member, by name."""
        rows = self._db.execute(
            "SELECT name, connected_at, disconnected_at, last_heard_at FROM institutions ORDER BY name"
        )
        return [Seen(name, *(None if text is None else as_time(text) for text in times)) for name, *times in rows]
