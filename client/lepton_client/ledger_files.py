"""The folder of a ledger: its lines, its key, its head, and the lock that lets one process write at a time.

A line is on disk before its head is. A process that dies in between leaves one entry beyond the head: a whole one is
kept, a torn one is cut off, since nobody acted upon it. Everything else that does not fit the head is damage.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.files import SECRET, sync_folder, write_secret
from lepton_fl.privacy import chain
from lepton_fl.privacy.chain import GENESIS, Damaged, Head, Verified

LINES, KEY, HEAD, LOCK = "ledger.jsonl", "ledger.key", "head.json", "ledger.lock"
LEDGER_POINTS = ("ledger line written", "ledger head written")
Reached = Callable[[str], None]
"""Told each of `LEDGER_POINTS` as it is passed."""


class LedgerDamaged(LeptonError):
    """The ledger is not what was written, so what was spent is unknown; a person decides."""

    exit_code = 3

    def __init__(self, folder: Path, damage: Damaged) -> None:
        super().__init__(
            f"the ledger in {folder} is damaged: {damage}; nothing is trained or sent until a person decides; see "
            "docs/ledger.md, then lepton-client ledger accept --reason TEXT"
        )
        self.entry, self.what = damage.entry, damage.what


@dataclass(frozen=True)
class Place:
    """Where in the file this process has read to."""

    head: Head
    size: int  # bytes


START = Place(GENESIS, 0)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """This process alone works in the folder; others wait. The kernel lets go however it ends."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, SECRET)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_absent(folder: Path) -> bool:
    """Whether the folder holds no ledger, or one whose making never ended: the key comes last."""
    lines, head = folder / LINES, folder / HEAD
    if (folder / KEY).exists() or (lines.exists() and lines.stat().st_size):
        return False
    return not head.exists() or head.read_bytes().startswith(b'{"position":0,')


def new_key() -> bytes:
    """From the operating system."""
    return secrets.token_bytes(chain.KEY_BYTES)


def make(folder: Path) -> None:
    """An empty ledger with a key of its own; the caller holds the folder."""
    key = new_key()
    write_secret(folder / LINES)
    write_secret(folder / HEAD, chain.head_line(GENESIS, key))
    write_secret(folder / KEY, key)


def read_key(folder: Path) -> bytes:
    """The key; raises `Damaged` if it is not there, `ConfigError` if others can read it."""
    path = folder / KEY
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(0, "its key is missing") from None
    if len(key) != chain.KEY_BYTES:
        raise Damaged(0, "its key was changed")
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others can read {path}; nothing was done; chmod 600 {path}")
    return key


def look(folder: Path, key: bytes, place: Place = START) -> tuple[Verified, Head]:
    """What was written after `place`, and the head; nothing is changed. Raises `Damaged`."""
    try:
        head = chain.read_head((folder / HEAD).read_bytes(), key)
    except FileNotFoundError:
        raise Damaged(0, "its head is missing") from None
    try:
        with (folder / LINES).open("rb") as file:
            if os.fstat(file.fileno()).st_size < place.size:
                raise Damaged(place.head.position, "was there before and is gone")
            file.seek(place.size)
            return chain.verify(file.read(), key, head, place.head), head
    except FileNotFoundError:
        raise Damaged(0, "its file is missing") from None


def settle_end(folder: Path, key: bytes, found: Verified, place: Place, head: Head) -> Place:
    """The file ends with its last whole entry and the head names it: what a killed process left is put right."""
    now = Place(found.entries[-1].head if found.entries else place.head, place.size + found.size)
    if found.torn:
        _cut(folder / LINES, now.size)
    if now.head != head:
        write_secret(folder / HEAD, chain.head_line(now.head, key))
    return now


def append(folder: Path, key: bytes, place: Place, line: bytes, reached: Reached) -> Place:
    """The line is on disk, then its head; where either cannot be written, the ledger is as before or one entry on.

    Raises:
        OSError: the disk is full or gone.
    """
    path = folder / LINES
    descriptor = os.open(path, os.O_WRONLY)
    try:
        written = os.pwrite(descriptor, line, place.size)
        if written == len(line):
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, place.size)
        raise
    finally:
        os.close(descriptor)
    if written < len(line):
        _cut(path, place.size)
        _no_room(path)
    reached(LEDGER_POINTS[0])
    now = Place(chain.after(place.head, line), place.size + len(line))
    write_secret(folder / HEAD, chain.head_line(now.head, key))
    reached(LEDGER_POINTS[1])
    return now


def _cut(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _no_room(path: Path) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def prepare(folder: Path) -> None:
    """The folder is there, for its owner alone."""
    if not folder.is_dir():
        folder.mkdir(parents=True, mode=0o700)
        sync_folder(folder.parent)
