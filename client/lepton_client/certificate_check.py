"""Is this certificate ours? One check for what enrolment and renewal bring, and its parts for the preflight."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from lepton_fl.link.certificates import BadCertificate, institution_uri, key_hash


def checked(pem: bytes, ca: x509.Certificate, ours: tuple[str, bytes], now: datetime) -> x509.Certificate:
    """The certificate, if it is for our name and key, from our CA, for a client, and valid now.

    Args:
        pem: what the server answered.
        ours: the institution's name, and the hash of its public key.

    Raises:
        BadCertificate: it is not; nothing of it may be kept.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except (ValueError, TypeError) as error:
        raise BadCertificate("the server's answer is not a certificate of its CA; tell the operator") from error
    if not is_issued_by(ca, certificate):
        raise BadCertificate("the server's answer is not a certificate of its CA; tell the operator")
    name, identity = ours
    if not has_key(certificate, identity) or not is_for_institution(certificate, name):
        raise BadCertificate("the server's certificate is not for this institution and its key; tell the operator")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise BadCertificate(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; this machine says {now:%Y-%m-%d %H:%M}; "
            "set the clock and try again"
        )
    return certificate


def is_issued_by(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    """The CA's own key signed it."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def has_key(certificate: x509.Certificate, identity: bytes) -> bool:
    """Its public key is the one with this hash."""
    try:
        return key_hash(certificate.public_key()) == identity
    except (ValueError, TypeError, BadCertificate):
        return False


def is_for_institution(certificate: x509.Certificate, name: str) -> bool:
    """It names this institution and nobody else, and may open a connection as a client."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return uris == [institution_uri(name)] and ExtendedKeyUsageOID.CLIENT_AUTH in usage
