"""Files that are whole or absent, whatever moment the power fails.

Source: POSIX rename(2) replaces atomically; the file and its folder are synced so that it also does so durably.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.errors import LeptonError

SECRET = 0o600
READABLE = 0o644
_LOOKS, _LOOK_S = 20, 0.02  # how long a lock may be held by those who only look who holds it


class InUse(LeptonError):
    """Another process works in this home."""

    exit_code = 9


@dataclass(frozen=True)
class Holder:
    """The process that works in a home."""

    process: int | None  # its id where it runs; None: its file does not say
    since: datetime


def replace_file(path: Path, *content: bytes, mode: int = READABLE, is_durable: bool = True) -> None:
    """The file holds `content` and is on disk; a crash leaves what was there before, never a part.

    Args:
        content: piece after piece; large ones are written as they are.
        mode: never wider, not even for a moment; the process's umask may narrow it.
        is_durable: False for what may be lost when the power fails, and is written too often to wait for the disk.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(content)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk its room is needed
        raise
    if is_durable:
        sync_folder(path.parent)


def write_secret(path: Path, *content: bytes) -> None:
    """As `replace_file`, readable by its owner alone."""
    replace_file(path, *content, mode=SECRET)


def sync_folder(path: Path) -> None:
    """Names made, replaced or removed in this folder stay so after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Hold the lock file as the only process; the kernel lets go of it however this one ends.

    Raises:
        InUse: another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, SECRET)
    try:
        if not _locked(descriptor):
            raise InUse(
                f"{path.parent} is in use by process {_process(descriptor) or 'unknown'}; nothing was started; stop "
                "that one, or use another --home"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the lock could be had; whoever only looks (`is_in_use`) holds it for an instant, which is waited out."""
    for _ in range(_LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_S)
        else:
            return True
    return False


def _process(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else None


def is_in_use(path: Path) -> bool:
    """Whether a process holds this lock file now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(path: Path) -> Holder | None:
    """The process that holds this lock file now, and since when; None if there is none."""
    if not is_in_use(path):
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Written once, by the process that took the lock.
        return Holder(_process(descriptor), datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC))
    finally:
        os.close(descriptor)
