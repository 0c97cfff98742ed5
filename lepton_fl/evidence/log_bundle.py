"""A log in one file, `log.json`, with everything that is needed to check it offline but the CA's certificate.

Hostile until checked: bounded, and in one form, so that no byte of it can change unnoticed. The hashes of the entries
stand beside the entries, so that a changed entry can be named; the signed root covers both.

Source: RFC 8785 (the one form of JSON).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_fl.errors import LeptonError
from lepton_fl.evidence import canonical
from lepton_fl.link.signature import Signed

SCHEMA = "lepton-fl/log/1"
LARGEST = 256 << 20  # bytes
MOST_ENTRIES = 1_000_000
_MOST_OTHERS = 10_000  # institutions, contracts
_FIELDS = ["checkpoint", "contracts", "cosigned", "entries", "identities", "leaves", "schema"]


class BadLog(LeptonError):
    """A log that is not what its signatures say, or is another than one that was seen."""

    exit_code = 12


@dataclass(frozen=True)
class Identity:
    """An institution's public key for countersigning, signed by the key of its certificate."""

    institution: str
    key: bytes
    signed: Signed


@dataclass(frozen=True)
class Cosigned:
    """The last head that an institution countersigned."""

    institution: str
    note: bytes


@dataclass(frozen=True)
class ContractOf:
    """A run's contract as the operator signed it."""

    content: bytes
    signed: Signed

    @property
    def sha256(self) -> str:
        """Its name, in hex."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A log; nothing of it was checked yet but its form."""

    entries: tuple[bytes, ...]
    leaves: tuple[bytes, ...]  # their hashes, in order
    checkpoint: bytes  # a note
    cosigned: tuple[Cosigned, ...] = ()
    identities: tuple[Identity, ...] = ()
    contracts: tuple[ContractOf, ...] = ()

    def to_bytes(self) -> bytes:
        """The one form of this bundle."""
        return canonical.to_bytes(
            {
                "schema": SCHEMA,
                "entries": [one.decode() for one in self.entries],
                "leaves": [one.hex() for one in self.leaves],
                "checkpoint": self.checkpoint.decode(),
                "cosigned": [{"institution": one.institution, "note": one.note.decode()} for one in self.cosigned],
                "identities": [
                    {"institution": one.institution, "key": one.key.hex(), **_signed(one.signed)}
                    for one in self.identities
                ],
                "contracts": [{"contract": one.content.decode(), **_signed(one.signed)} for one in self.contracts],
            }
        )


def read(content: bytes) -> Bundle:
    """The bundle that these bytes are the one form of.

    Raises:
        BadLog: too long, or another form.
    """
    if len(content) > LARGEST:
        raise BadLog(f"the log has {len(content)} bytes, and {LARGEST} may be; it was not checked")
    try:
        bundle = _typed(json.loads(content))
        is_one_form = bundle.to_bytes() == content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadLog(f"this is no log ({type(error).__name__}); nothing of it was believed; export it again") from error
    if not is_one_form:
        raise BadLog("the log is not in the one form that logs have; nothing of it was believed; export it again")
    return bundle


def _typed(plain: Any) -> Bundle:
    if not isinstance(plain, dict) or sorted(plain) != _FIELDS or plain["schema"] != SCHEMA:
        raise ValueError("other fields")
    if max(len(plain[name]) for name in ("entries", "leaves")) > MOST_ENTRIES:
        raise ValueError("too many entries")
    if max(len(plain[name]) for name in ("cosigned", "identities", "contracts")) > _MOST_OTHERS:
        raise ValueError("too many parties")
    return Bundle(
        entries=tuple(one.encode() for one in plain["entries"]),
        leaves=tuple(bytes.fromhex(one) for one in plain["leaves"]),
        checkpoint=plain["checkpoint"].encode(),
        cosigned=tuple(Cosigned(str(one["institution"]), one["note"].encode()) for one in plain["cosigned"]),
        identities=tuple(
            Identity(str(one["institution"]), bytes.fromhex(one["key"]), _signature(one)) for one in plain["identities"]
        ),
        contracts=tuple(ContractOf(one["contract"].encode(), _signature(one)) for one in plain["contracts"]),
    )


def _signed(signed: Signed) -> dict[str, str]:
    return {"certificate": signed.certificate.decode(), "signature": base64.b64encode(signed.value).decode()}


def _signature(plain: Mapping[str, str]) -> Signed:
    return Signed(plain["certificate"].encode(), base64.b64decode(plain["signature"], validate=True))
