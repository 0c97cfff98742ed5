"""Where an institution's ledger stood, and when its operator saw it so: what a ledger that was put back is told by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from lepton_fl.link import signature
from lepton_fl.link.signature import Signed, Signer
from lepton_fl.v1 import federation_pb2

_DIGEST_BYTES = 32
_LARGEST_POSITION = 1 << 53  # exact in JSON everywhere


@dataclass(frozen=True)
class LedgerHead:
    """The last entry of a ledger."""

    ledger: bytes  # SHA-256 of its first entry: which ledger
    position: int  # of the last entry, from 1
    sha256: bytes  # of the last entry

    def is_sound(self) -> bool:
        """Whether this could be a head: a peer's word is checked before it is kept."""
        return len(self.ledger) == len(self.sha256) == _DIGEST_BYTES and 1 <= self.position < _LARGEST_POSITION


def countersign(signer: Signer, institution: str, head: LedgerHead, at: float) -> Signed:
    """The operator saw this head of this institution's ledger at this time, in seconds since 1970."""
    return signer.sign(signature.LEDGER_HEAD, _statement(institution, head, at))


def check(
    said: federation_pb2.Countersigned, institution: str, ca: x509.Certificate, now: datetime
) -> LedgerHead | None:
    """The head that the operator saw last; None if it saw none yet.

    Raises:
        BadCertificate: the operator did not sign this.
    """
    if not said.HasField("head"):
        return None
    head = from_wire(said.head)
    signed = Signed(said.signature.certificate, said.signature.value)
    by = (signature.OPERATOR, ca)
    signature.check(signed, signature.LEDGER_HEAD, _statement(institution, head, said.at), by, now)
    return head


def from_wire(head: federation_pb2.LedgerHead) -> LedgerHead:
    """As it came."""
    return LedgerHead(head.ledger, head.position, head.sha256)


def to_wire(head: LedgerHead) -> federation_pb2.LedgerHead:
    """As it travels."""
    return federation_pb2.LedgerHead(ledger=head.ledger, position=head.position, sha256=head.sha256)


def _statement(institution: str, head: LedgerHead, at: float) -> bytes:
    return json.dumps([institution, head.ledger.hex(), head.position, head.sha256.hex(), at]).encode()
