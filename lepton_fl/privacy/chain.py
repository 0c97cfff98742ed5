"""An append-only file in which no entry can be changed, dropped, moved or cut off unnoticed.

Every line is one JSON object in one exact form. It names its position, holds the SHA-256 of the line before it, and
ends with an HMAC-SHA256 under the file's key over everything else in it. The *head*, kept apart and authenticated too,
names the last line; without it a file that ends early would look whole.

Pure: bytes in, entries out. Who holds the key can write any file; a head that another party countersigned is what
stands against that, and against an older file put back together with its older head.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

KEY_BYTES = 32
_OWN = ("n", "previous", "mac")  # the fields that make the chain; all others are its user's


@dataclass(frozen=True)
class Head:
    """Where a chain ends."""

    position: int  # of its last entry, from 1; 0: it has none
    sha256: str  # of that entry's line without the line break, in hex


GENESIS = Head(0, "0" * 64)


@dataclass(frozen=True)
class Entry:
    """One line."""

    head: Head  # of the chain up to this entry
    previous: str
    fields: Mapping[str, Any]  # its user's


@dataclass(frozen=True)
class Verified:
    """What a file holds that is as it was written."""

    entries: tuple[Entry, ...]
    size: int  # bytes of them
    torn: int  # bytes after them of an entry that was being written when the process ended


class Damaged(Exception):
    """A file is not what was written."""

    def __init__(self, entry: int, what: str) -> None:
        """`entry` is the first bad one; 0: the head itself."""
        super().__init__(f"entry {entry} {what}" if entry else what)
        self.entry, self.what = entry, what


def line(before: Head, fields: Mapping[str, Any], key: bytes) -> bytes:
    """The line that follows `before`, with its line break.

    Args:
        fields: JSON values; none is called n, previous or mac.
    """
    if clash := set(_OWN) & set(fields):
        raise ValueError(f"{sorted(clash)} belong to the chain")
    body = {"n": before.position + 1, "previous": before.sha256, **fields}
    return _encoded({**body, "mac": _mac(key, b"entry", body)}) + b"\n"


def after(before: Head, written: bytes) -> Head:
    """The head once this line was written."""
    return Head(before.position + 1, _sha256(written.removesuffix(b"\n")))


def head_line(head: Head, key: bytes) -> bytes:
    """The head as a file's content."""
    body = {"position": head.position, "sha256": head.sha256}
    return _encoded({**body, "mac": _mac(key, b"head", body)}) + b"\n"


def read_head(content: bytes, key: bytes) -> Head:
    """The head that this content names; raises `Damaged` if it is not as it was written."""
    found = _decoded(content.removesuffix(b"\n"), b"head", key)
    if found is None or not content.endswith(b"\n") or set(found) != {"position", "sha256", "mac"}:
        raise Damaged(0, "its head was changed")
    return Head(found["position"], found["sha256"])


def verify(content: bytes, key: bytes, head: Head, start: Head = GENESIS) -> Verified:
    """The entries after `start`, each as it was written, up to the head.

    A process that dies between writing a line and its head leaves one whole entry beyond the head, which counts, or a
    torn one, which does not: it was never acted upon.

    Args:
        content: the file after `start`.
        head: as it was read.

    Raises:
        Damaged: with the first bad entry.
    """
    *lines, rest = content.split(b"\n")
    entries: list[Entry] = []
    last, size = start, 0
    for text in lines:
        entry = _following(last, text, lines, key)
        last, size = entry.head, size + len(text) + 1
        if last.position == head.position and last != head:
            raise Damaged(last.position, "is not the one that the head names")
        entries.append(entry)
    _refuse_other_end(last, head, start, rest)
    return Verified(tuple(entries), size, len(rest))


def _refuse_other_end(last: Head, head: Head, start: Head, rest: bytes) -> None:
    if head.position < start.position or (head.position == start.position and head != start):
        raise Damaged(head.position + 1, "was there before, and the head is older than it")
    if last.position < head.position:
        was = "is cut short" if rest else "is missing"
        raise Damaged(last.position + 1, f"{was}: the file ends early, its head names entry {head.position}")
    beyond = last.position - head.position + bool(rest)
    if beyond > 1:
        raise Damaged(head.position + 2, f"is not known to the head, which names entry {head.position}")


def genuine(content: bytes, key: bytes) -> Iterator[Entry]:
    """Every line that was written under this key, wherever it stands: what can be read of a damaged file."""
    for text in content.split(b"\n"):
        entry = _entry(text, key)
        if entry is not None:
            yield entry


def _following(before: Head, text: bytes, lines: list[bytes], key: bytes) -> Entry:
    due = before.position + 1
    entry = _entry(text, key)
    if entry is None:
        raise Damaged(due, "was changed")
    if entry.head.position > due:
        _missing_or_moved(due, lines, key)
    if entry.head.position < due:
        raise Damaged(due, f"is out of order: entry {entry.head.position} stands in its place")
    if entry.previous != before.sha256:
        raise Damaged(due, "does not follow the one before it")
    return entry


def _missing_or_moved(due: int, lines: list[bytes], key: bytes) -> NoReturn:
    start = b'{"n":%d,' % due
    is_here = any(text.startswith(start) and _entry(text, key) is not None for text in lines)
    raise Damaged(due, "is out of order" if is_here else "is missing")


def _entry(text: bytes, key: bytes) -> Entry | None:
    found = _decoded(text, b"entry", key)
    if found is None:
        return None
    fields = {name: value for name, value in found.items() if name not in _OWN}
    return Entry(Head(found["n"], _sha256(text)), found["previous"], fields)


def _decoded(text: bytes, purpose: bytes, key: bytes) -> dict[str, Any] | None:
    """The object if it is in its one exact form and authentic."""
    try:
        found = json.loads(text)
        # What does not encode to the same bytes was not written here.
        if not isinstance(found, dict) or _encoded(found) != text:
            return None
        body = {name: value for name, value in found.items() if name != "mac"}
        is_authentic = hmac.compare_digest(str(found.get("mac")).encode(), _mac(key, purpose, body).encode())
    except (ValueError, RecursionError):
        return None
    return found if is_authentic else None


def _encoded(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode("ascii")


def _mac(key: bytes, purpose: bytes, body: Mapping[str, Any]) -> str:
    # The purpose keeps an entry from passing for a head.
    return hmac.digest(key, purpose + b"\n" + _encoded(body), "sha256").hex()


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
