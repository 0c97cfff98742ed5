"""Signatures of a federation's members over what they agree to, checkable long after the connection is gone.

Every statement is signed under a domain of its own, so that a signature for one purpose is none for another, and
carries the certificate it can be checked with: issued by the federation's CA, to the operator or to one institution.

Source: FIPS 186-5 (ECDSA); RFC 5280 (certificates).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from lepton_fl.link.certificates import (
    BACKDATED,
    OPERATOR_URI,
    BadCertificate,
    read_key,
    to_pem,
)

CONTRACT = "lepton-fl/contract/1"
LEDGER_HEAD = "lepton-fl/ledger-head/1"
IDENTITY = "lepton-fl/identity/1"
OPERATOR = OPERATOR_URI
_LARGEST_CERTIFICATE, _LARGEST_VALUE = 4096, 128  # bytes; PEM of a P-256 certificate has about 1,000


@dataclass(frozen=True)
class Signed:
    """A signature, and whose it is."""

    certificate: bytes  # PEM
    value: bytes  # DER


@dataclass(frozen=True)
class Signer:
    """A key with its certificate; lives where it signs."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return "Signer(key withheld)"

    def sign(self, domain: str, statement: bytes) -> Signed:
        """This statement, signed for this purpose."""
        return Signed(to_pem(self.certificate), self.key.sign(_message(domain, statement), ec.ECDSA(SHA256())))


def signer(key: Path, certificate: Path) -> Signer:
    """From files; raises `BadCertificate` if the key is missing, readable by others, or not the certificate's."""
    return Signer(read_key(key), _parsed(certificate.read_bytes(), str(certificate)))


def check(signed: Signed, domain: str, statement: bytes, by: tuple[str, x509.Certificate], now: datetime) -> None:
    """The statement was signed by whom it should be, with a certificate that holds now.

    Args:
        by: the URI that the certificate must carry, `OPERATOR` or `institution_uri(name)`, and the federation's CA.

    Raises:
        BadCertificate: it was not, or it cannot be told.
    """
    uri, ca = by
    if len(signed.certificate) > _LARGEST_CERTIFICATE or not 0 < len(signed.value) <= _LARGEST_VALUE:
        raise BadCertificate(f"there is no signature of {uri}; nothing was agreed to")
    certificate = _parsed(signed.certificate, "its certificate")
    _refuse_stranger(certificate, uri, ca, now)
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise BadCertificate(f"the signature of {uri} is not by a P-256 key; nothing was agreed to")
    try:
        public_key.verify(signed.value, _message(domain, statement), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise BadCertificate(f"what should be signed by {uri} is not; nothing was agreed to") from error


def _refuse_stranger(certificate: x509.Certificate, uri: str, ca: x509.Certificate, now: datetime) -> None:
    try:
        certificate.verify_directly_issued_by(ca)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        carried = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise BadCertificate(f"the signature of {uri} is not by a member of this federation") from error
    if carried != [uri]:
        raise BadCertificate(f"what should be signed by {uri} is signed by another member; nothing was agreed to")
    if not certificate.not_valid_before_utc - BACKDATED <= now < certificate.not_valid_after_utc + BACKDATED:
        raise BadCertificate(
            f"the certificate of {uri} holds from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, which is not now; nothing was agreed to; look at "
            "the clocks"
        )


def _parsed(pem: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise BadCertificate(f"{what} is not a certificate; nothing was agreed to") from error


def _message(domain: str, statement: bytes) -> bytes:
    # The zero byte cannot be in a domain, so no statement can continue one.
    return domain.encode("ascii") + b"\0" + statement
