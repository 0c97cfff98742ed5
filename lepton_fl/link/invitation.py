"""Invitations: a line of text that lets one institution join, once.

It carries the federation's CA certificate, so the first connection already knows whom to trust and nothing is
ever accepted unverified; and a 256-bit secret, of which the operator keeps only the SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import DecodeError

from lepton_fl.errors import LeptonError
from lepton_fl.v1.enrolment_pb2 import Invitation as Wire

LIFETIME = timedelta(hours=24)
SECRET_BYTES = 32
_PREFIX = "lepton-invitation-1:"
_CHECKSUM_BYTES = 4
_LONGEST = 8192  # characters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}[A-Za-z0-9]|[A-Za-z0-9]")


class BadInvitation(LeptonError):
    """An invitation that cannot be used; says why and what to ask for."""

    exit_code = 8


@dataclass(frozen=True)
class Invitation:
    """What an invitation says."""

    institution: str
    addresses: tuple[str, ...]  # host:port of the enrolment service
    ca_certificate: x509.Certificate
    secret: bytes
    expires_at: datetime

    def __repr__(self) -> str:
        return f"Invitation({self.institution!r}, secret withheld)"

    def to_text(self) -> str:
        """One line to send to the institution over a channel that the operator trusts."""
        wire = Wire(
            institution=self.institution,
            addresses=self.addresses,
            ca_certificate=self.ca_certificate.public_bytes(serialization.Encoding.DER),
            secret=self.secret,
            expires_at=int(self.expires_at.timestamp()),
        )
        body = wire.SerializeToString()
        return _PREFIX + _encoded(body + _checksum(body))


def new_secret() -> bytes:
    """256 bits from the operating system."""
    return os.urandom(SECRET_BYTES)


def check_name(name: str) -> str:
    """An institution's name, if it can stand in certificates, tables and file names.

    Raises:
        BadInvitation: empty, too long, or with other characters than letters, digits, space, dot, dash, underscore.
    """
    if not _NAME.fullmatch(name):
        raise BadInvitation(
            "an institution's name has 1 to 64 letters, digits, spaces, dots, dashes or underscores, and begins and "
            "ends with a letter or digit; nobody was invited"
        )
    return name


def from_text(text: str, now: datetime) -> Invitation:
    """The invitation a line holds.

    Raises:
        BadInvitation: not one, cut short or mistyped, or expired.
    """
    text = "".join(text.split())
    if not text.startswith(_PREFIX) or len(text) > _LONGEST:
        raise BadInvitation(f"this is no invitation; nothing was sent; it begins with {_PREFIX} and is one line")
    try:
        code = text.removeprefix(_PREFIX)
        raw = base64.urlsafe_b64decode(code + "==")
        if _encoded(raw) != code:
            raise BadInvitation("the invitation is cut short or mistyped; nothing was sent; copy the whole line again")
        body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if checksum != _checksum(body):
            raise BadInvitation("the invitation is cut short or mistyped; nothing was sent; copy the whole line again")
        wire = Wire.FromString(body)
        certificate = x509.load_der_x509_certificate(wire.ca_certificate)
        expires_at = datetime.fromtimestamp(wire.expires_at, UTC)
    except (binascii.Error, DecodeError, ValueError, OverflowError, OSError) as error:
        raise BadInvitation("the invitation is damaged; nothing was sent; ask the operator for another") from error
    if len(wire.secret) != SECRET_BYTES or not wire.addresses:
        raise BadInvitation("the invitation is not complete; nothing was sent; ask the operator for another")
    if now >= expires_at:
        raise BadInvitation(
            f"the invitation expired at {expires_at:%Y-%m-%d %H:%M} UTC; nothing was sent; ask the operator for another"
        )
    if not _NAME.fullmatch(wire.institution):
        raise BadInvitation("the invitation names no institution; nothing was sent; ask the operator for another")
    return Invitation(wire.institution, tuple(wire.addresses), certificate, wire.secret, expires_at)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    """Against typing errors; against anyone else the secret protects."""
    return hashlib.sha256(b"lepton-fl/invitation" + body).digest()[:_CHECKSUM_BYTES]
