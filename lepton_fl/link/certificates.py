"""Keys and certificates of a federation: one CA, one server, one short-lived certificate per institution.

The operator's CA says who belongs to the federation; it is not a public CA and signs nothing else. Identity is the
public key: its SHA-256 (of the SubjectPublicKeyInfo) is what the operator's list holds, whatever names a
certificate carries.

Source: RFC 5280 (profile), RFC 2986 (certificate requests), NIST SP 800-186 (P-256).
"""

from __future__ import annotations

import ipaddress
import re
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lepton_fl.errors import LeptonError
from lepton_fl.files import write_secret

CA_DAYS, SERVER_DAYS, INSTITUTION_DAYS = 3650, 397, 30
# Clocks differ; a certificate made by a fast one must not be refused by a slow one.
BACKDATED = timedelta(hours=2)
OPERATOR_URI = "lepton://operator"
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]{1,63}(?<!-)(\.[A-Za-z0-9-]{1,63}(?<!-))*")
_LARGEST_REQUEST = 4096  # bytes of PEM; a P-256 request has about 500


class BadCertificate(LeptonError):
    """A key, certificate or request that cannot be used; says which and why."""

    exit_code = 7


@dataclass(frozen=True)
class Authority:
    """The federation's CA, with its key: exists on the operator's machine alone."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return "Authority(key withheld)"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(name: str, now: datetime) -> Authority:
    """A self-signed CA that may sign end certificates only, valid for ten years."""
    key = new_key()
    subject = _name(name)
    builder = _builder(subject, subject, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def sign_server(
    authority: Authority, public_key: ec.EllipticCurvePublicKey, hosts: list[str], now: datetime
) -> x509.Certificate:
    """A certificate for the server under every name or address that institutions may use for it."""
    alternatives: list[x509.GeneralName] = [_host(host) for host in hosts]
    return _sign_leaf(
        authority, public_key, ("lepton server", alternatives, ExtendedKeyUsageOID.SERVER_AUTH), now, SERVER_DAYS
    )


def request_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate request in PEM: proves possession of the key; its name says nothing, the operator decides it."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name("institution"))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sign_institution(authority: Authority, request: bytes, institution: str, now: datetime) -> x509.Certificate:
    """A certificate for an institution, 30 days; only the request's public key is taken from it.

    Raises:
        BadCertificate: not a request, not P-256, or not signed by its own key.
    """
    public_key = requested_key(request)
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(institution_uri(institution))]
    return _sign_leaf(
        authority, public_key, (institution, alternatives, ExtendedKeyUsageOID.CLIENT_AUTH), now, INSTITUTION_DAYS
    )


def sign_operator(authority: Authority, public_key: ec.EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
    """A certificate for the key with which the operator signs contracts and ledger heads; none for connections."""
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(OPERATOR_URI)]
    identity = ("lepton operator", alternatives, ExtendedKeyUsageOID.CODE_SIGNING)
    return _sign_leaf(authority, public_key, identity, now, SERVER_DAYS)


def institution_uri(institution: str) -> str:
    """The name an institution's certificate carries: a URI, whatever characters the name has."""
    return f"lepton://institution/{quote(institution, safe='')}"


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request, after possession was checked; raises `BadCertificate`."""
    if len(request) > _LARGEST_REQUEST:
        raise BadCertificate(f"a certificate request of {len(request)} bytes is too large; nothing was signed")
    try:
        parsed = x509.load_pem_x509_csr(request)
        public_key = parsed.public_key()
        is_own = parsed.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise BadCertificate("this is not a certificate request; nothing was signed") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise BadCertificate("a certificate request must hold a P-256 key; nothing was signed")
    if not is_own:
        raise BadCertificate("the certificate request is not signed by its own key; nothing was signed")
    return public_key


def key_hash(public_key: object) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: an institution's identity."""
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise BadCertificate("only P-256 keys have an identity here")
    encoded = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(encoded)
    return digest.finalize()


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a key readable by its owner alone, whole or not at all."""
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(path, content)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key from a file that nobody else can read.

    Raises:
        BadCertificate: missing, readable by others, or not a P-256 key.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise BadCertificate(f"cannot read the key {path}: {error.strerror}; nothing was sent") from error
    if mode & 0o077:
        raise BadCertificate(f"the key {path} can be read by others (mode {mode:04o}); nothing was sent; chmod 600 it")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadCertificate(f"{path} is not a key; nothing was sent; enroll again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadCertificate(f"{path} is not a P-256 key; nothing was sent; enroll again")
    return key


def _sign_leaf(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    identity: tuple[str, list[x509.GeneralName], x509.ObjectIdentifier],
    now: datetime,
    days: int,
) -> x509.Certificate:
    name, alternatives, purpose = identity
    builder = _builder(_name(name), authority.certificate.subject, public_key, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return builder.add_extension(issuer, critical=False).sign(authority.key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise BadCertificate(
            "a server's name is an IP address or a host name of ASCII letters, digits, dots and dashes (write an "
            "international name in its xn-- form); nothing was made"
        )
    return x509.DNSName(host)
