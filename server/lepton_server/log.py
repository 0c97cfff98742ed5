"""The operator's log: what happened, in an order that it cannot change later without being noticed.

Entries lie in the operator's database, durable before anything that depends on them leaves; a key of its own signs
heads, and the operator's certificate signs that key in the first entry. Who replaces the key leaves an entry.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lepton_fl.errors import ConfigError
from lepton_fl.evidence import log_entries, note
from lepton_fl.evidence.log_bundle import Bundle, ContractOf, Cosigned, Identity
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.evidence.merkle import Tree, leaf_hash
from lepton_fl.evidence.note import Checkpoint, Note
from lepton_fl.evidence.verify import LOG_KEY
from lepton_fl.files import write_secret
from lepton_fl.link.certificates import key_hash
from lepton_server import log_rows
from lepton_server.database import Database
from lepton_server.home import Home


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Head:
    """The log at one moment; the tree may grow meanwhile, and is asked for this size alone."""

    note: Note
    tree: Tree
    last_rounds: Mapping[str, tuple[int, bytes]]  # run: index and content of its last round's entry

    @property
    def size(self) -> int:
        """Entries."""
        return self.note.checkpoint.size


class Log:
    """One federation's log; one connection, used by one thread."""

    def __init__(self, home: Home, clock: Callable[[], datetime] = _utc_now) -> None:
        """Open the log; its key is made, and entered, at the first use.

        Raises:
            ConfigError: the key can be read by others, or is damaged.
        """
        self._clock = clock
        self._db = Database(home.database)
        self._key = key_of(home.path / "log.key")
        self._origin = note.origin_of(key_hash(home.authority().certificate.public_key()).hex())
        self._tree, self._last_rounds, self._log_key = Tree(), dict[str, tuple[int, bytes]](), ""
        self._signed: Note | None = None
        self._grow()
        if self._log_key != self.public.hex():
            signed = home.signer(clock()).sign(LOG_KEY, self.public)
            value = base64.b64encode(signed.value).decode()
            fields = {"key": self.public.hex(), "certificate": signed.certificate.decode(), "signature": value}
            self.append("log-key", fields, f"log-key/{len(self._tree)}")

    @property
    def public(self) -> bytes:
        """The key that signs heads, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, domain: str, statement: bytes) -> bytes:
        """64 bytes: the statement, signed with the log's key for this purpose; no head can be made of it."""
        return self._key.sign(domain.encode("ascii") + b"\0" + statement)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def append(self, kind: str, fields: Mapping[str, Any], once: str | None = None) -> int:
        """Enter this; it is on disk when this returns its index, from 0.

        Args:
            fields: exactly those of `log_entries.FIELDS[kind]`.
            once: names what may be entered once; of a second time, the first one's index is returned.

        Raises:
            BadEntry: the log has no such kind or field.
            StoreError: the disk is full.
        """
        entry = Entry(kind, self._clock(), fields)
        entry.to_bytes()  # refused before the lock is taken
        with self._db.transaction():
            return log_rows.enter(self._db, entry, once)

    def commit(self, text: str) -> str:
        """A commitment to what a person said or who it was, to stand in an entry; text and salt stay outside."""
        salt = os.urandom(log_entries.SALT_BYTES)
        commitment = log_entries.commitment(text, salt)
        log_rows.keep_text(self._db, commitment, salt, text)
        return commitment

    def opened(self, commitment: str) -> str | None:
        """The text of a commitment; None once it was forgotten."""
        found = log_rows.text_of(self._db, commitment)
        return None if found is None else found[1]

    def forget(self, commitment: str) -> bool:
        """Nobody can tell any more what this commitment stands for; the entry stays as it is. Whether anybody could."""
        return log_rows.forget_text(self._db, commitment)

    def head(self) -> Head:
        """The log as it is now, signed."""
        self._grow()
        if self._signed is None or self._signed.checkpoint.size != len(self._tree):
            self._signed = note.sign(self._key, Checkpoint(self._origin, len(self._tree), self._tree.root()))
        return Head(self._signed, self._tree, dict(self._last_rounds))

    def keep_head(self, institution: str, public: bytes, countersigned: Note) -> None:
        """Remember a head that this institution countersigned with this key."""
        head = (countersigned.checkpoint.size, public, countersigned.to_bytes())
        log_rows.keep_head(self._db, institution, head)

    def keep_identity(self, identity: Identity) -> None:
        """Remember whose key countersigns."""
        log_rows.keep_identity(self._db, identity)

    def last_heads(self) -> dict[str, tuple[bytes, bytes]]:
        """Each institution's largest countersigned head, as its public key and the note."""
        return log_rows.last_heads(self._db)

    def bundle(self) -> Bundle:
        """The whole log, to be checked anywhere."""
        head = self.head()
        contents = log_rows.entries(self._db)[: head.size]
        heads = self.last_heads()
        used = {(name, key) for name, (key, _) in heads.items()}
        runs = {fields["contract"] for kind, fields in map(_parsed, contents) if kind == "run"}
        return Bundle(
            entries=tuple(contents),
            leaves=tuple(map(leaf_hash, contents)),
            checkpoint=head.note.to_bytes(),
            cosigned=tuple(Cosigned(name, content) for name, (_, content) in sorted(heads.items())),
            identities=tuple(one for one in log_rows.identities(self._db) if (one.institution, one.key) in used),
            contracts=tuple(one for one in self._contracts() if one.sha256 in runs),
        )

    def _contracts(self) -> list[ContractOf]:
        return [ContractOf(content, signed) for content, signed in log_rows.contracts(self._db)]

    def _grow(self) -> None:
        """The tree has every entry that is on disk."""
        for content in log_rows.entries(self._db, len(self._tree)):
            kind, fields = _parsed(content)
            if kind == "round":
                self._last_rounds[str(fields["run"])] = (len(self._tree), content)
            elif kind == "log-key":
                self._log_key = str(fields["key"])
            self._tree.add(leaf_hash(content))


def log_of(home: Home) -> bytes:
    """The home's whole log, in the form of `log.json`."""
    log = Log(home)
    try:
        return log.bundle().to_bytes()
    finally:
        log.close()


def _parsed(content: bytes) -> tuple[str, dict[str, Any]]:
    """Kind and fields of an entry of one's own, which was checked when it was written."""
    plain = json.loads(content)
    return plain["kind"], plain["fields"]


def key_of(path: Path) -> Ed25519PrivateKey:
    """The log's key; made here, mode 0600, when it is first asked for.

    Raises:
        ConfigError: others can read it, or it is damaged.
    """
    if not path.exists():
        write_secret(path, os.urandom(32).hex().encode() + b"\n")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"the key {path} can be read by others (mode {mode:04o}); nothing was sent; chmod 600 it")
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not a key; nothing was signed; restore it from a backup, or move it away to get another, which "
            "the log then tells everybody"
        ) from error
