"""The heads of the operator's log that this institution saw: kept here, held against each new one, countersigned.

A log that became smaller, that goes on from another past, or that another institution was shown otherwise, ends the
work: nothing is trained for an operator that rewrites what it said.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lepton_client.refused import Refused
from lepton_fl.errors import ConfigError
from lepton_fl.evidence import log_entries, note
from lepton_fl.evidence.checking import HEADS, read_heads
from lepton_fl.evidence.log_entries import BadEntry
from lepton_fl.evidence.merkle import EMPTY, is_consistent, is_included, leaf_hash
from lepton_fl.evidence.note import BadNote, Note
from lepton_fl.federation.contract import Contract
from lepton_fl.files import SECRET, sync_folder
from lepton_fl.v1.federation_pb2 import Checkpoint, Included, Witnessed

EVIDENCE = "refused_heads.jsonl"
_MOST_WITNESSED = 10_000


class LogRefused(Refused):
    """The operator's log is not the one that was seen before, here or by another institution."""

    exit_code = 12


@dataclass(frozen=True)
class Promised:
    """What the run's contract says of the log."""

    run: str
    origin: str
    key: bytes  # that signs heads
    identities: Mapping[str, bytes]  # keys of institutions; empty without secure aggregation


@dataclass(frozen=True)
class Logged:
    """The last round of a run that the log tells of."""

    round: int
    model: bytes  # after it, `federation.arrays.sha256_of`


@dataclass(frozen=True)
class Shown:
    """What a head showed."""

    countersigned: bytes | None  # a note; None: this very head was countersigned before
    last_round: Logged | None  # None: the log has no round of the run


def promised_of(contract: Contract) -> Promised | None:
    """What a contract says of the log; None where it promises none."""
    if not contract.log_key:
        return None
    identities = {name: bytes.fromhex(key) for name, key in contract.identities.items()}
    return Promised(
        str(contract.run_id), note.origin_of(contract.federation), bytes.fromhex(contract.log_key), identities
    )


class LogHeads:
    """The heads in an institution's home, each on disk before it is countersigned towards anybody."""

    def __init__(self, home: Path, institution: str, key: Ed25519PrivateKey) -> None:
        """Raises `ConfigError` where the file is damaged."""
        self._home, self._name, self._key = home, note.name_of(institution), key
        self._last = self._read()

    @property
    def last(self) -> bytes:
        """The last head that was countersigned here; empty: none."""
        return b"" if self._last is None else self._last.to_bytes()

    def refuse_none(self, promised: Promised | None) -> None:
        """Raise `LogRefused` for a contract without a log where the operator kept one before."""
        if self._last is not None and promised is None:
            raise LogRefused(
                "the contract promises no log, and the operator kept one before; nothing was read or sent; ask the "
                "operator"
            )

    def shown(self, said: Checkpoint, promised: Promised, now: datetime) -> Shown:
        """Hold a head against what was seen before, here and elsewhere; keep and countersign it.

        Raises:
            LogRefused: it is not the same log; both heads are kept as evidence.
            OSError: it cannot be kept.
        """
        try:
            found = note.read(said.note)
        except BadNote as error:
            raise self._refused(said.note, str(error)) from error
        if found.checkpoint.origin != promised.origin or not found.is_signed(promised.key):
            raise self._refused(said.note, "its head is not signed with the key that the contract names")
        self._refuse_other_past(said, found)
        if len(said.cosigned) > _MOST_WITNESSED:
            raise self._refused(said.note, "more heads are relayed than there are institutions")
        for one in said.cosigned:
            self._refuse_split(one, found, promised)
        last_round = self._round(said.last_round, found, promised.run) if said.HasField("last_round") else None
        seen = None if self._last is None else self._last.checkpoint
        if seen == found.checkpoint:
            return Shown(None, last_round)
        made = note.cosign(self._key, self._name, found, int(now.timestamp())).only(self._name)
        self._append(HEADS, {"at": log_entries.as_text(now), "note": made.to_bytes().decode()})
        self._last = made
        return Shown(made.to_bytes(), last_round)

    def _refuse_other_past(self, said: Checkpoint, found: Note) -> None:
        size, root = found.checkpoint.size, found.checkpoint.root
        seen = (0, EMPTY) if self._last is None else (self._last.checkpoint.size, self._last.checkpoint.root)
        if size < seen[0]:
            raise self._refused(said.note, f"it has {size} entries, and had {seen[0]} before")
        if size == seen[0] and root != seen[1]:
            raise self._refused(said.note, f"its {size} entries are not those that were there before")
        if said.from_size != seen[0] or not is_consistent(seen, (size, root), said.consistency):
            raise self._refused(said.note, f"its {size} entries do not go on from the {seen[0]} that were there before")

    def _refuse_split(self, one: Witnessed, found: Note, promised: Promised) -> None:
        """Another institution was shown the beginning of this very log."""
        try:
            theirs = note.read(one.note)
        except BadNote as error:
            raise self._refused(one.note, f"what another institution saw cannot be read: {error}") from error
        pinned = promised.identities.get(one.institution, b"")
        is_theirs = theirs.cosigned_at(note.name_of(one.institution), pinned) is not None
        if theirs.checkpoint.origin != promised.origin or not (is_theirs or theirs.is_signed(promised.key)):
            raise self._refused(one.note, "what another institution saw is signed by nobody who could have seen it")
        seen = (theirs.checkpoint.size, theirs.checkpoint.root)
        if not is_consistent(seen, (found.checkpoint.size, found.checkpoint.root), one.consistency):
            shown = "".join(letter for letter in one.institution[:80] if letter.isprintable())
            raise self._refused(one.note, f"{shown} was shown another log of {seen[0]} entries")

    def _round(self, said: Included, found: Note, run: str) -> Logged:
        leaf, size, root = leaf_hash(said.entry), found.checkpoint.size, found.checkpoint.root
        if not is_included(leaf, said.index, size, said.proof, root):
            raise self._refused(found.to_bytes(), "the entry of the last round is not in it")
        try:
            entry = log_entries.read(said.entry)
        except BadEntry as error:
            raise self._refused(found.to_bytes(), "the entry of the last round is none") from error
        if entry.kind != "round" or entry.fields["run"] != run:
            raise self._refused(found.to_bytes(), "the entry of the last round is of something else")
        return Logged(int(entry.fields["round"]), bytes.fromhex(entry.fields["model"]))

    def _refused(self, shown: bytes, why: str) -> LogRefused:
        """The error; what was shown lies beside the heads that were kept, for whoever looks into it."""
        try:
            text = shown[: note.LARGEST].decode("utf-8", "replace")
            self._append(EVIDENCE, {"why": why, "shown": text, "kept": self.last.decode()})
        except OSError as error:
            why = f"{why} (which could not be written down: {error.strerror})"
        return LogRefused(
            f"the operator's log was changed: {why}; nothing was trained or sent; {self._home / EVIDENCE} has both "
            "heads; ask the other institutions and the operator"
        )

    def _append(self, name: str, line: Mapping[str, str]) -> None:
        path = self._home / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, SECRET)
        try:
            _cut_torn(descriptor)
            content = json.dumps(line).encode() + b"\n"
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self._home)

    def _read(self) -> Note | None:
        kept = read_heads(self._home / HEADS)
        try:
            return note.read(kept[-1]) if kept else None
        except BadNote as error:
            raise ConfigError(
                f"{self._home / HEADS} is damaged: its last line is no head of a log; nothing was trained or sent; "
                "restore it from a backup, or move it away to trust what the operator shows next"
            ) from error


def _cut_torn(descriptor: int) -> None:
    """Drop the end of a line that a crash left unfinished."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)
