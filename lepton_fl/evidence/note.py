"""Checkpoints of the log, signed and countersigned, as text that other programs can read.

A note is a text, an empty line, and signature lines: an em dash, the signer's name, and base64 of four bytes that name
the key and the signature. A checkpoint's text is the log's name, the number of entries and the root.

Source: C2SP signed-note, tlog-checkpoint and tlog-cosignature (Ed25519 and cosignature/v1); RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lepton_fl.evidence.merkle import HASH_BYTES

LARGEST = 64 << 10  # bytes of a note: with the cosignatures of some three hundred institutions
LARGEST_SIZE = 1 << 53  # entries; exact in JSON everywhere
_DASH = "\N{EM DASH} "
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_ED25519, _COSIGNATURE = b"\x01", b"\x04"  # types of a key
_MOST_LINES = 1000


class BadNote(ValueError):
    """A text that is no checkpoint, or not one of this log; says why."""


@dataclass(frozen=True)
class Line:
    """One signature of a note."""

    name: str
    key_id: bytes  # 4 bytes
    value: bytes


@dataclass(frozen=True)
class Checkpoint:
    """The log at one moment."""

    origin: str  # the log's name
    size: int  # entries
    root: bytes  # 32 bytes

    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A checkpoint and the signatures that came with it; none was checked yet."""

    checkpoint: Checkpoint
    lines: tuple[Line, ...]

    def to_bytes(self) -> bytes:
        """The one form of this note."""
        lines = (f"{_DASH}{one.name} {base64.b64encode(one.key_id + one.value).decode()}\n" for one in self.lines)
        return f"{self.checkpoint.text()}\n{''.join(lines)}".encode()

    def is_signed(self, public: bytes) -> bool:
        """Whether the log's key signed it."""
        return any(
            _is_signed(public, self.checkpoint.text().encode(), one.value)
            for one in self._by(self.checkpoint.origin, public, _ED25519)
        )

    def cosigned_at(self, name: str, public: bytes) -> int | None:
        """When the holder of this key said to have seen it, in seconds since 1970; None if it did not."""
        for one in self._by(name, public, _COSIGNATURE):
            at, value = int.from_bytes(one.value[:8], "big"), one.value[8:]
            if _is_signed(public, _cosigned(at, self.checkpoint), value):
                return at
        return None

    def only(self, name: str) -> Note:
        """With the log's lines and those under this name alone."""
        kept = tuple(one for one in self.lines if one.name in (self.checkpoint.origin, name))
        return Note(self.checkpoint, kept)

    def _by(self, name: str, public: bytes, kind: bytes) -> list[Line]:
        key_id = _key_id(name, public, kind)
        return [one for one in self.lines if (one.name, one.key_id) == (name, key_id)]


def origin_of(federation: str) -> str:
    """The name of a federation's log.

    Args:
        federation: hex SHA-256 of the CA's public key.
    """
    return f"lepton-fl/log/{federation}"


def name_of(institution: str) -> str:
    """Under which name an institution countersigns, whatever characters its own has."""
    return f"lepton-fl/institution/{quote(institution, safe='')}"


def sign(key: Ed25519PrivateKey, checkpoint: Checkpoint) -> Note:
    """The checkpoint, signed with the log's key."""
    key_id = _key_id(checkpoint.origin, key.public_key().public_bytes_raw(), _ED25519)
    return Note(checkpoint, (Line(checkpoint.origin, key_id, key.sign(checkpoint.text().encode())),))


def cosign(key: Ed25519PrivateKey, name: str, note: Note, at: int) -> Note:
    """The note, with the word of `name` that it saw it at this time, in seconds since 1970."""
    key_id = _key_id(name, key.public_key().public_bytes_raw(), _COSIGNATURE)
    value = at.to_bytes(8, "big") + key.sign(_cosigned(at, note.checkpoint))
    others = tuple(one for one in note.lines if one.name != name)
    return Note(note.checkpoint, (*others, Line(name, key_id, value)))


def read(content: bytes) -> Note:
    """The note that these bytes are the one form of; raises `BadNote`."""
    if len(content) > LARGEST:
        raise BadNote(f"a head of {len(content)} bytes is too long")
    try:
        text, _, signatures = content.decode().partition("\n\n")
        origin, size, root, *more = text.split("\n")
        checkpoint = Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
        rows = signatures.splitlines()
        if more or len(rows) > _MOST_LINES:
            raise ValueError("more lines than a head has")
        note = Note(checkpoint, tuple(_line(row) for row in rows))
    except (ValueError, binascii.Error) as error:
        raise BadNote("it is no head of a log") from error
    is_sound = 0 <= checkpoint.size < LARGEST_SIZE and len(checkpoint.root) == HASH_BYTES
    if not is_sound or not _is_name(origin) or note.to_bytes() != content:
        raise BadNote("it is no head of a log")
    return note


def _line(row: str) -> Line:
    if not row.startswith(_DASH):
        raise ValueError("no signature")
    name, value = row.removeprefix(_DASH).split(" ")
    decoded = base64.b64decode(value, validate=True)
    if not _is_name(name) or len(decoded) not in (4 + _SIGNATURE_BYTES, 12 + _SIGNATURE_BYTES):
        raise ValueError("no signature")
    return Line(name, decoded[:4], decoded[4:])


def _is_name(name: str) -> bool:
    return bool(name) and name.isascii() and name.isprintable() and " " not in name and "+" not in name


def _key_id(name: str, public: bytes, kind: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def _cosigned(at: int, checkpoint: Checkpoint) -> bytes:
    return f"cosignature/v1\ntime {at}\n{checkpoint.text()}".encode()


def _is_signed(public: bytes, message: bytes, value: bytes) -> bool:
    if len(public) != _KEY_BYTES or len(value) != _SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(value, message)
    except (InvalidSignature, ValueError):
        return False
    return True
