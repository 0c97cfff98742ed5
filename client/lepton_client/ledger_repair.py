"""A person decides about a damaged ledger: it is kept aside, and a new chain goes on from what can be read of it.

Whatever was lost may have been spending. Unless everything up to the head can be read, every cap is taken as spent
until somebody says, by name and with a reason, that what is missing is to be forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_client import ledger_files as files
from lepton_client import put_back
from lepton_client.ledger_files import START
from lepton_client.put_back import PUT_BACK
from lepton_fl.errors import ConfigError
from lepton_fl.files import sync_folder, write_secret
from lepton_fl.privacy import chain
from lepton_fl.privacy.books import books_of
from lepton_fl.privacy.chain import GENESIS, Damaged, Entry, Head


@dataclass(frozen=True)
class Decision:
    """What a person says about a damaged ledger."""

    reason: str
    by: str  # the account that said so
    forget_spending: bool  # what cannot be read is not counted


@dataclass(frozen=True)
class Accepted:
    """What came of it."""

    damage: str
    kept: Path | None  # where the damaged files are; None: nothing was damaged
    carried: int  # entries
    spending: str  # carried: all of it is known; cap: every cap is taken as spent; forgotten: only what could be read


@dataclass(frozen=True)
class _Readable:
    entries: tuple[Entry, ...]  # by position
    head: Head | None  # None: it cannot be read
    is_complete: bool  # nothing up to the head is missing, nor anything that an operator saw


def accept(folder: Path, decision: Decision, clock: Callable[[], datetime]) -> Accepted:
    """The ledger can be opened again, and its first entry says why.

    Raises:
        ConfigError: no reason is given, or there is no ledger, or it is whole and nothing of it is unknown.
    """
    if not decision.reason.strip():
        raise ConfigError("a decision about the ledger needs its reason; nothing was changed; add --reason TEXT")
    if not folder.is_dir() or files.is_absent(folder):
        raise ConfigError(f"{folder} holds no ledger; nothing was changed; see --ledger and --home")
    with files.held(folder):
        try:
            return _accept_unknown(folder, decision, clock())
        except Damaged as damage:
            return _accept_damage(folder, decision, clock(), str(damage))


def _accept_unknown(folder: Path, decision: Decision, now: datetime) -> Accepted:
    """A whole ledger of which an earlier decision left the spending unknown: it may be forgotten now."""
    key = files.read_key(folder)
    found, head = files.look(folder, key)
    books = books_of(found.entries)
    put_back.refuse_noted(folder, _digests(found.entries).get, books.replaced)
    if not (books.cap_is_spent and decision.forget_spending):
        raise ConfigError(f"the ledger in {folder} is whole; nothing was changed; lepton-client ledger shows it")
    place = files.settle_end(folder, key, found, START, head)
    fields = _decided(decision, now, "forgotten") | {"damage": "", "former": place.head.position, "carried": 0}
    files.append(folder, key, place, chain.line(place.head, fields, key), lambda point: None)
    return Accepted("", None, 0, "forgotten")


def _accept_damage(folder: Path, decision: Decision, now: datetime, damage: str) -> Accepted:
    kept = _keep_aside(folder, now)
    try:
        key = files.read_key(folder)
        readable = _readable(folder, key)
    except Damaged:
        key, readable = files.new_key(), _Readable((), None, is_complete=False)
    carried = _with_their_runs(readable.entries)
    spending = "carried" if readable.is_complete else "forgotten" if decision.forget_spending else "cap"
    former = readable.head.position if readable.head is not None else None
    first = _decided(decision, now, spending) | {"damage": damage, "former": former, "carried": len(carried)}
    first["replaces"] = _replaced(folder, readable.entries)
    content, head = b"", GENESIS
    for fields in (first, *carried):
        line = chain.line(head, fields, key)
        content, head = content + line, chain.after(head, line)
    # Killed between these, the folder is damaged still, and the decision is asked for again.
    write_secret(folder / files.KEY, key)
    write_secret(folder / files.LINES, content)
    write_secret(folder / files.HEAD, chain.head_line(head, key))
    # Settled by what the new ledger replaces, so it may stay if the process is killed here.
    (folder / PUT_BACK).unlink(missing_ok=True)
    sync_folder(folder)
    return Accepted(damage, kept, len(carried), spending)


def _decided(decision: Decision, now: datetime, spending: str) -> dict[str, Any]:
    return {
        "at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "entry": "accepted",
        "reason": decision.reason.strip(),
        "by": decision.by,
        "spending": spending,
    }


def _keep_aside(folder: Path, now: datetime) -> Path:
    """The files as they were found, in a folder of their own."""
    name = f"damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    number = 1
    while (kept := folder / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    kept.mkdir(mode=0o700)
    for file in (files.LINES, files.HEAD, files.KEY, PUT_BACK):
        if (folder / file).exists():
            write_secret(kept / file, (folder / file).read_bytes())
    sync_folder(folder)
    return kept


def _readable(folder: Path, key: bytes) -> _Readable:
    lines = folder / files.LINES
    content = lines.read_bytes() if lines.exists() else b""
    # The same line twice is one entry; two lines at one position are two, since either may have been spent.
    entries = {entry.head: entry for entry in chain.genuine(content, key)}
    by_position = tuple(sorted(entries.values(), key=lambda entry: entry.head.position))
    try:
        head = chain.read_head((folder / files.HEAD).read_bytes(), key)
    except (Damaged, FileNotFoundError):
        return _Readable(by_position, None, is_complete=False)
    return _Readable(by_position, head, _is_complete(by_position, head) and not _is_put_back(folder, by_position))


def _digests(entries: tuple[Entry, ...]) -> dict[int, str]:
    return {entry.head.position: entry.head.sha256 for entry in entries}


def _is_put_back(folder: Path, entries: tuple[Entry, ...]) -> bool:
    """Whether an operator saw what these lack; true too where the note about it cannot be read."""
    replaced = {ledger for entry in entries for ledger in entry.fields.get("replaces", ())}
    try:
        put_back.refuse_noted(folder, _digests(entries).get, replaced)
    except Damaged:
        return True
    return False


def _replaced(folder: Path, entries: tuple[Entry, ...]) -> list[str]:
    """Every ledger that the new one stands for: the one that was here, and the one that an operator saw.

    By the SHA-256 of the first entry. Where that was lost, the second still names it; where the key was, the file does.
    """
    named = {entry.head.sha256 for entry in entries if entry.head.position == 1}
    named |= {entry.previous for entry in entries if entry.head.position == 2}
    lines = folder / files.LINES
    first = lines.read_bytes().partition(b"\n")[0] if lines.exists() and not entries else b""
    if first:
        named.add(hashlib.sha256(first).hexdigest())
    try:
        seen = put_back.find(folder)
    except Damaged:
        seen = None  # the operator names it again at the next connection
    return sorted(named | ({seen.ledger} if seen is not None else set()))


def _is_complete(entries: tuple[Entry, ...], head: Head) -> bool:
    """Whether these are one chain to the head, or one entry beyond it: nothing was lost, only moved or repeated."""
    last = GENESIS
    for entry in entries:
        if (entry.head.position, entry.previous) != (last.position + 1, last.sha256):
            return False
        if entry.head.position == head.position and entry.head != head:
            return False
        last = entry.head
    return head.position <= last.position <= head.position + 1


def _with_their_runs(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    """The entries to carry on; what belongs to a run whose declaration was lost says nothing any more."""
    declared, carried = set(), []
    for entry in entries:
        fields = dict(entry.fields)
        if fields["entry"] == "declared":
            declared.add(fields["run"])
        if fields["entry"] in ("reserved", "settled") and fields["run"] not in declared:
            continue
        carried.append(fields | {"was": entry.head.position})
    return carried
