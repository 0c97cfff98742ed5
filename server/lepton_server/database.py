"""One SQLite file, every change durable before it is answered.

Source: SQLite's documentation of write-ahead logging; `synchronous=FULL` survives a power cut.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_fl.errors import LeptonError

_VERSION = 4
_OLDEST = 2  # that is brought up to date here
_APPLICATION = 0x4C455054  # "LEPT": whose SQLite file this is
_SCHEMA = """
CREATE TABLE institutions (
    name TEXT PRIMARY KEY,
    node_id INTEGER NOT NULL UNIQUE CHECK (node_id > 1),
    enrolled_at TEXT NOT NULL,
    revoked_at TEXT,
    connected_at TEXT,
    disconnected_at TEXT,
    last_heard_at TEXT
) STRICT;
CREATE TABLE keys (
    key_hash BLOB PRIMARY KEY CHECK (length(key_hash) = 32),
    institution TEXT NOT NULL REFERENCES institutions (name),
    certificate BLOB NOT NULL,
    not_after TEXT NOT NULL
) STRICT;
CREATE TABLE invitations (
    secret_hash BLOB PRIMARY KEY CHECK (length(secret_hash) = 32),
    institution TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    spent_by BLOB,
    withdrawn_at TEXT
) STRICT;
CREATE TABLE events (
    at TEXT NOT NULL,
    institution TEXT,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE TABLE runs (
    run_id INTEGER PRIMARY KEY,
    settings TEXT NOT NULL,
    output TEXT NOT NULL,
    institutions TEXT NOT NULL,
    planned INTEGER NOT NULL CHECK (planned > 0),
    state TEXT NOT NULL CHECK (state IN ('open', 'finished', 'failed', 'abandoned')),
    began_at TEXT NOT NULL,
    ended_at TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_open_run ON runs (state) WHERE state = 'open';
CREATE TABLE rounds (
    run_id INTEGER NOT NULL REFERENCES runs (run_id),
    round INTEGER NOT NULL CHECK (round >= 0),
    cohort_seed INTEGER,
    members TEXT,
    checkpoint_sha256 BLOB,
    trained TEXT,
    evaluated TEXT,
    PRIMARY KEY (run_id, round)
) STRICT;
CREATE TABLE replies (
    message_id TEXT PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES runs (run_id),
    institution TEXT NOT NULL REFERENCES institutions (name),
    bytes INTEGER NOT NULL,
    accepted_at TEXT NOT NULL
) STRICT;
"""
_ADDED_IN_3 = """
CREATE TABLE contracts (
    run_id INTEGER PRIMARY KEY REFERENCES runs (run_id),
    contract BLOB NOT NULL,
    certificate BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;
CREATE TABLE decisions (
    run_id INTEGER NOT NULL REFERENCES contracts (run_id),
    institution TEXT NOT NULL REFERENCES institutions (name),
    at TEXT NOT NULL,
    refused TEXT,
    certificate BLOB,
    signature BLOB,
    PRIMARY KEY (run_id, institution),
    CHECK ((refused IS NULL) = (signature IS NOT NULL))
) STRICT;
CREATE TABLE ledger_heads (
    institution TEXT PRIMARY KEY REFERENCES institutions (name),
    ledger BLOB NOT NULL CHECK (length(ledger) = 32),
    position INTEGER NOT NULL CHECK (position > 0),
    sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
    at REAL NOT NULL,
    certificate BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;
"""
_ADDED_IN_4 = """
CREATE TABLE log_entries (
    position INTEGER PRIMARY KEY CHECK (position >= 0),
    once TEXT UNIQUE,
    content BLOB NOT NULL
) STRICT;
CREATE TABLE log_heads (
    institution TEXT NOT NULL,
    size INTEGER NOT NULL CHECK (size > 0),
    key BLOB NOT NULL CHECK (length(key) = 32),
    note BLOB NOT NULL,
    PRIMARY KEY (institution, size, key)
) STRICT;
CREATE TABLE log_identities (
    institution TEXT NOT NULL,
    key BLOB NOT NULL CHECK (length(key) = 32),
    certificate BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (institution, key)
) STRICT;
CREATE TABLE log_texts (
    commitment TEXT PRIMARY KEY,
    salt BLOB NOT NULL CHECK (length(salt) = 32),
    text TEXT NOT NULL
) STRICT;
"""
_ADDED = {3: _ADDED_IN_3, 4: _ADDED_IN_4}  # by version


class StoreError(LeptonError):
    """The operator's records cannot be read or written, or do not allow what was asked."""

    exit_code = 9


class Database:
    """The operator's records; one connection, used by one thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
            # Looked at before anything is written: another program's file must stay as it was.
            self._refuse_foreign(path)
            self._switch_to_wal()
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            # What is deleted, a text that a person wants forgotten, is overwritten and not only unlinked.
            self._db.execute("PRAGMA secure_delete = ON")
            self._create()
        except sqlite3.Error as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise StoreError(f"cannot open {path}: {error}; nothing was changed; is this a server's home?") from error

    def _refuse_foreign(self, path: Path) -> None:
        # One read transaction, so that another process cannot create the tables between the two looks.
        self._db.execute("BEGIN")
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        self._db.execute("COMMIT")
        if tables and not (_OLDEST <= version <= _VERSION and application == _APPLICATION):
            self._db.close()
            raise StoreError(
                f"{path} was written by another release or program; nothing was changed; use another --home"
            )

    def _switch_to_wal(self) -> None:
        """SQLite does not wait for the lock that this one statement needs, so it is tried again."""
        for attempt in range(50):
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if attempt == 49:
                    raise
                time.sleep(0.1)
            else:
                return

    def _create(self) -> None:
        with self.transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == _VERSION:
                return
            added = "".join(tables for since, tables in _ADDED.items() if since > version)
            for statement in filter(str.strip, f"{'' if version else _SCHEMA}{added}".split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement; on its own it is a transaction.

        Raises:
            StoreError: the disk is full, the file is damaged, or another process holds the lock.
        """
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"the operator's records cannot be used: {error}; what was committed before is safe; make room or "
                "repair the disk, then run the same command again"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        # IMMEDIATE takes the write lock first, so that what is read cannot change before it is written.
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself where the disk was full.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def note(self, now: datetime, institution: str | None, kind: str, detail: str) -> None:
        """One line in the list of events, which only grows."""
        self.execute(
            "INSERT INTO events (at, institution, kind, detail) VALUES (?, ?, ?, ?)",
            (as_text(now), institution, kind, detail),
        )


def as_text(moment: datetime) -> str:
    """UTC, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def as_time(text: str) -> datetime:
    """The inverse of `as_text`."""
    return datetime.fromisoformat(text)
