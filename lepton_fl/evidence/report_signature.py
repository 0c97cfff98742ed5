"""The signature of a report: which bytes belong together, and who says so.

What is signed is a statement with the SHA-256 of `report.json`, of the page, of the model card and of the model. It
also has a short digest of each part of the report. Those locate a change; the whole hashes alone decide that there is
one.

Source: Ed25519, RFC 8032. The domain before the statement keeps a signature from standing for anything else that the
same key signs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lepton_fl.evidence import canonical
from lepton_fl.evidence.report import from_bytes
from lepton_fl.evidence.shown import Plain

SCHEMA = "lepton-fl/report-signature/1"
LARGEST = 1 << 22  # bytes of a signature file
DOMAIN = "lepton-fl/report/1"
_DIGITS = 16  # of a part's digest, hexadecimal
_LISTS = ("facts", "rows", "items")


@dataclass(frozen=True)
class Signed:
    """A statement that was read; nothing in it is trusted before `verify`."""

    statement: Plain
    public_key: bytes
    value: bytes


def sha256(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def statement(report: bytes, page: bytes, card: bytes) -> Plain:
    """What is signed of these bytes, which belong together."""
    document = from_bytes(report)
    return {
        "schema": SCHEMA,
        "edition": document["edition"],
        "status": document["status"],
        "report_sha256": sha256(report),
        "page_sha256": sha256(page),
        "card_sha256": sha256(card),
        "model_sha256": document["model_sha256"],
        "parts": dict(parts(document)),
    }


class Signer(Protocol):
    """Whoever signs reports: the operator's log, or an institution for its own edition."""

    @property
    def public(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""

    def sign(self, domain: str, statement: bytes) -> bytes:
        """64 bytes over the domain, a zero byte, and the statement."""


def sign(stated: Plain, signer: Signer) -> bytes:
    """The content of `report.json.sig`, canonical JSON."""
    value = signer.sign(DOMAIN, canonical.to_bytes(stated))
    return canonical.to_bytes({"statement": stated, "public_key": signer.public.hex(), "signature": value.hex()})


def read(content: bytes) -> Signed:
    """The signed statement in these bytes.

    Raises:
        ValueError: too long, not of this form, or not canonical.
    """
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    document = json.loads(content)
    if not isinstance(document, dict) or {*document} != {"statement", "public_key", "signature"}:
        raise ValueError("not a signature of a report")
    stated = document["statement"]
    if not isinstance(stated, dict) or stated.get("schema") != SCHEMA or not isinstance(stated.get("parts"), dict):
        raise ValueError("not a statement of a kind that is known here")
    if canonical.to_bytes(document) != content:
        raise ValueError("not in its canonical form")
    return Signed(stated, bytes.fromhex(document["public_key"]), bytes.fromhex(document["signature"]))


def is_by(signed: Signed, key: Ed25519PublicKey) -> bool:
    """Whether the holder of this key signed this statement."""
    try:
        key.verify(signed.value, DOMAIN.encode("ascii") + b"\0" + canonical.to_bytes(signed.statement))
    except InvalidSignature:
        return False
    return signed.public_key == key.public_bytes_raw()


def parts(document: Plain) -> Iterator[tuple[str, str]]:
    """Each part of a report by its JSON pointer (RFC 6901), and its digest."""
    for name, value in document.items():
        if name != "sections":
            yield f"/{name}", _digest(value)
    for i, section in enumerate(document["sections"]):
        place = f"/sections/{i}"
        yield place, _digest({name: value for name, value in section.items() if name != "blocks"})
        for j, block in enumerate(section["blocks"]):
            yield from _parts_of_block(block, f"{place}/blocks/{j}")


def _parts_of_block(block: Plain, place: str) -> Iterator[tuple[str, str]]:
    yield place, _digest({name: value for name, value in block.items() if name not in _LISTS})
    for name in _LISTS:
        for k, one in enumerate(block.get(name, ())):
            yield f"{place}/{name}/{k}", _digest(one)


def _digest(value: Any) -> str:
    return sha256(canonical.to_bytes(value))[:_DIGITS]
