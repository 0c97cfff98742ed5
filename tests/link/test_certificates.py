"""Keys and certificates: who may sign what, for whom, for how long, and what a request cannot ask for."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import stat
import sys
from base64 import b64decode, encodebytes
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.errors import LeptonError
from lepton_fl.files import write_secret
from lepton_fl.link import certificates
from lepton_fl.link.certificates import BadCertificate

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
P256_OID = bytes.fromhex("06082a8648ce3d030107")  # DER of 1.2.840.10045.3.1.7
NO_CURVE_OID = bytes.fromhex("06082a8648ce3d03017f")  # an arc under which no curve is registered
ECDSA_SHA256_OID = bytes.fromhex("06082a8648ce3d040302")
NO_SIGNATURE_OID = bytes.fromhex("06082a8648ce3d04037f")


@pytest.fixture(scope="module")
def authority():
    return certificates.new_authority("cardiology", NOW)


@pytest.fixture
def permissive_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def der(request: bytes) -> bytes:
    return x509.load_pem_x509_csr(request).public_bytes(serialization.Encoding.DER)


def pem(content: bytes) -> bytes:
    """A request's DER in PEM, whatever is inside."""
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + encodebytes(content) + b"-----END CERTIFICATE REQUEST-----\n"


def signed_request(key, digest=None, *extensions) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the operator")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)


def sign_institution(authority, name="st-elm", key=None):
    request = certificates.request_certificate(key or certificates.new_key())
    return certificates.sign_institution(authority, request, name, NOW)


def sign_server(authority, hosts):
    return certificates.sign_server(authority, certificates.new_key().public_key(), hosts, NOW)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


# Keys


def test_a_new_key_is_on_p_256():
    assert isinstance(certificates.new_key().curve, ec.SECP256R1)


def test_two_new_keys_differ():
    first, second = certificates.new_key(), certificates.new_key()
    assert first.private_numbers() != second.private_numbers()


def test_a_key_comes_back_from_its_file(tmp_path):
    key = certificates.new_key()
    certificates.write_key(tmp_path / "a.key", key)
    assert certificates.read_key(tmp_path / "a.key").private_numbers() == key.private_numbers()


def test_a_key_file_is_readable_by_its_owner_alone_at_every_moment(tmp_path, permissive_umask):
    seen = set()

    def look(frame, event, argument):
        with os.scandir(tmp_path) as entries:
            seen.update(stat.S_IMODE(entry.stat().st_mode) for entry in entries)

    key = certificates.new_key()
    sys.setprofile(look)  # called around every function call, so also right after the file appears
    try:
        certificates.write_key(tmp_path / "a.key", key)
    finally:
        sys.setprofile(None)
    assert seen == {0o600}


def test_writing_a_key_over_an_open_file_closes_it_to_others(tmp_path):
    path = tmp_path / "a.key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    certificates.write_key(path, certificates.new_key())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_was_cut_short_earlier_does_not_stop_the_next_or_stay_behind(tmp_path):
    certificates.write_key(tmp_path / "a.key", certificates.new_key())
    first = certificates.read_key(tmp_path / "a.key")
    (tmp_path / ".a.key.partial").write_bytes(b"half a k")
    (tmp_path / ".a.key.partial").chmod(0o666)
    second = certificates.new_key()
    certificates.write_key(tmp_path / "a.key", second)
    assert certificates.read_key(tmp_path / "a.key").private_numbers() == second.private_numbers()
    assert first.private_numbers() != second.private_numbers()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602, 0o610, 0o777])
def test_a_key_that_others_can_touch_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "a.key"
    certificates.write_key(path, certificates.new_key())
    path.chmod(mode)
    with pytest.raises(BadCertificate, match=rf"mode {mode:04o}.*chmod 600"):
        certificates.read_key(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_that_only_its_owner_can_read_is_read(tmp_path, mode):
    path = tmp_path / "a.key"
    certificates.write_key(path, certificates.new_key())
    path.chmod(mode)
    assert isinstance(certificates.read_key(path), ec.EllipticCurvePrivateKey)


def test_a_missing_key_is_refused_by_its_path(tmp_path):
    with pytest.raises(BadCertificate, match=re.escape(str(tmp_path / "no.key"))):
        certificates.read_key(tmp_path / "no.key")


def key_pem(key, encryption=None) -> bytes:
    encryption = encryption or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def on_no_known_curve() -> bytes:
    lines = key_pem(certificates.new_key()).decode().splitlines()
    content = b64decode("".join(lines[1:-1])).replace(P256_OID, NO_CURVE_OID)
    return b"-----BEGIN PRIVATE KEY-----\n" + encodebytes(content) + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\x00 not a key", id="garbage"),
        pytest.param(key_pem(certificates.new_key())[:80], id="cut short"),
        pytest.param(
            key_pem(certificates.new_key(), serialization.BestAvailableEncryption(b"secret")), id="with a passphrase"
        ),
        pytest.param(key_pem(ec.generate_private_key(ec.SECP384R1())), id="P-384"),
        pytest.param(key_pem(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
        pytest.param(on_no_known_curve(), id="an unknown curve"),
    ],
)
def test_a_file_without_a_p_256_key_is_refused(tmp_path, content):
    write_secret(tmp_path / "a.key", content)
    with pytest.raises(BadCertificate, match="nothing was sent"):
        certificates.read_key(tmp_path / "a.key")


# Profiles


def test_the_authority_may_sign_end_certificates_and_nothing_else(authority):
    constraints = extension(authority.certificate, x509.BasicConstraints)
    usage = extension(authority.certificate, x509.KeyUsage)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert usage.value == x509.KeyUsage(False, False, False, False, False, True, True, False, False)


def test_the_authority_is_signed_by_itself_and_lasts_ten_years(authority):
    certificate = authority.certificate
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == authority.key.public_key()
    assert certificate.not_valid_after_utc == NOW + timedelta(days=3650)


def test_an_authority_with_a_long_name_can_be_made():
    certificate = certificates.new_authority("x" * 200, NOW).certificate
    assert len(certificate.subject.rfc4514_string()) == len("CN=") + 64


def test_a_certificate_begins_two_hours_early_for_clocks_that_are_behind(authority):
    begins = {
        certificate.not_valid_before_utc
        for certificate in (authority.certificate, sign_institution(authority), sign_server(authority, ["localhost"]))
    }
    assert begins == {NOW - timedelta(hours=2)}


def test_an_institutions_certificate_lasts_thirty_days_and_the_servers_397(authority):
    assert sign_institution(authority).not_valid_after_utc == NOW + timedelta(days=30)
    assert sign_server(authority, ["localhost"]).not_valid_after_utc == NOW + timedelta(days=397)


@pytest.mark.parametrize("who", ["institution", "server"])
def test_a_leaf_can_sign_messages_but_no_certificates(authority, who):
    leaf = sign_institution(authority) if who == "institution" else sign_server(authority, ["localhost"])
    constraints, usage = extension(leaf, x509.BasicConstraints), extension(leaf, x509.KeyUsage)
    assert (constraints.critical, usage.critical) == (True, True)
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    assert usage.value == x509.KeyUsage(True, False, False, False, False, False, False, False, False)


def test_an_institution_is_a_client_only(authority):
    usage = extension(sign_institution(authority), x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_server_is_a_server_only(authority):
    usage = extension(sign_server(authority, ["localhost"]), x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_an_institutions_certificate_names_it_and_nothing_else(authority):
    alternatives = extension(sign_institution(authority, "st-elm"), x509.SubjectAlternativeName).value
    assert list(alternatives) == [x509.UniformResourceIdentifier("lepton://institution/st-elm")]


@pytest.mark.parametrize("name", ["st-elm", "St Elm", "St. Elm_2"])
def test_an_institutions_alternative_name_is_a_uri_whatever_its_name(authority, name):
    (uri,) = extension(sign_institution(authority, name), x509.SubjectAlternativeName).value
    # RFC 5280, 4.2.1.6: the name must follow RFC 3986, which knows no spaces.
    assert re.fullmatch(r"lepton://institution/(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+", uri.value)


def test_a_servers_certificate_holds_all_its_hosts_by_name_or_address(authority):
    alternatives = extension(
        sign_server(authority, ["fl.example.org", "10.0.0.7", "fd00::7"]), x509.SubjectAlternativeName
    ).value
    assert list(alternatives) == [
        x509.DNSName("fl.example.org"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.7")),
        x509.IPAddress(ipaddress.ip_address("fd00::7")),
    ]


@pytest.mark.parametrize("host", ["köln.example.org", "", "fl.example.org "])
def test_a_host_that_no_client_can_check_is_refused_before_anything_is_signed(authority, host):
    with pytest.raises(LeptonError):
        sign_server(authority, [host])


def test_no_two_certificates_share_a_serial_number(authority):
    assert len({sign_institution(authority).serial_number for _ in range(20)}) == 20


# Verification


def client_verifier(trusted, when=NOW):
    return PolicyBuilder().store(Store([trusted.certificate])).time(when).build_client_verifier()


def server_verifier(trusted, host):
    return PolicyBuilder().store(Store([trusted.certificate])).time(NOW).build_server_verifier(host)


def test_an_institutions_certificate_verifies_against_its_authority(authority):
    leaf = sign_institution(authority)
    assert client_verifier(authority).verify(leaf, []).chain == [leaf, authority.certificate]


def test_an_institutions_certificate_does_not_verify_against_another_of_the_same_name(authority):
    with pytest.raises(VerificationError):
        client_verifier(certificates.new_authority("cardiology", NOW)).verify(sign_institution(authority), [])


@pytest.mark.parametrize("days", [-1, 31])
def test_an_institutions_certificate_does_not_verify_outside_its_time(authority, days):
    with pytest.raises(VerificationError):
        client_verifier(authority, NOW + timedelta(days=days)).verify(sign_institution(authority), [])


def test_an_institutions_certificate_cannot_speak_for_the_server(authority):
    with pytest.raises(VerificationError):
        server_verifier(authority, x509.DNSName("st-elm")).verify(sign_institution(authority), [])


def test_a_servers_certificate_cannot_speak_for_an_institution(authority):
    with pytest.raises(VerificationError):
        client_verifier(authority).verify(sign_server(authority, ["localhost"]), [])


def test_a_servers_certificate_verifies_under_its_own_hosts_only(authority):
    leaf = sign_server(authority, ["fl.example.org", "10.0.0.7"])
    server_verifier(authority, x509.DNSName("fl.example.org")).verify(leaf, [])
    server_verifier(authority, x509.IPAddress(ipaddress.ip_address("10.0.0.7"))).verify(leaf, [])
    with pytest.raises(VerificationError):
        server_verifier(authority, x509.DNSName("other.example.org")).verify(leaf, [])


def test_an_institution_cannot_sign_another(authority):
    key = certificates.new_key()
    middle = sign_institution(authority, key=key)
    below = sign_institution(certificates.Authority(key, middle), "someone-else")
    with pytest.raises(VerificationError):
        client_verifier(authority).verify(below, [middle])


def test_a_leaf_is_signed_by_its_authoritys_key_alone(authority):
    leaf = sign_institution(authority)
    leaf.verify_directly_issued_by(authority.certificate)
    with pytest.raises(InvalidSignature):
        leaf.verify_directly_issued_by(certificates.new_authority("cardiology", NOW).certificate)


# Requests


def test_a_request_yields_the_public_key_that_made_it():
    key = certificates.new_key()
    assert certificates.requested_key(certificates.request_certificate(key)) == key.public_key()


def test_a_request_does_not_hold_the_private_key():
    key = certificates.new_key()
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    assert scalar not in der(certificates.request_certificate(key))


def test_only_the_public_key_is_taken_from_a_request(authority):
    key = certificates.new_key()
    forged = signed_request(
        key,
        hashes.SHA256(),
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("lepton://institution/other")]),
        x509.BasicConstraints(ca=True, path_length=5),
        x509.KeyUsage(True, True, True, True, True, True, True, True, True),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
    )
    plain = sign_institution(authority, "st-elm", key)
    issued = certificates.sign_institution(authority, forged, "st-elm", NOW)
    assert list(issued.extensions) == list(plain.extensions)
    assert (issued.subject, issued.issuer) == (plain.subject, plain.issuer)
    assert issued.subject.rfc4514_string() == "CN=st-elm"
    assert issued.public_key() == key.public_key()


def large_request() -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(f"{number}.example.org") for number in range(400)])
    return signed_request(certificates.new_key(), hashes.SHA256(), names)


def request_for_someone_elses_key() -> bytes:
    """My signature around another's public key."""
    mine, theirs = certificates.new_key(), certificates.new_key()
    form = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    content = der(certificates.request_certificate(mine))
    return pem(content.replace(mine.public_key().public_bytes(*form), theirs.public_key().public_bytes(*form)))


def request_with(old: bytes, new: bytes) -> bytes:
    content = der(certificates.request_certificate(certificates.new_key()))
    assert old in content
    return pem(content.replace(old, new))


@pytest.mark.parametrize(
    "request_pem, reason",
    [
        pytest.param(b"", "not a certificate request", id="empty"),
        pytest.param(b"\x00\xffgarbage", "not a certificate request", id="garbage"),
        pytest.param(pem(b"\x30\x03\x02\x01\x05"), "not a certificate request", id="another structure"),
        pytest.param(key_pem(certificates.new_key()), "not a certificate request", id="a key"),
        pytest.param(b"A" * 4097, "4097 bytes is too large", id="4097 bytes"),
        pytest.param(large_request(), "too large", id="oversized"),
        pytest.param(
            signed_request(rsa.generate_private_key(65537, 2048), hashes.SHA256()), "must hold a P-256 key", id="RSA"
        ),
        pytest.param(
            signed_request(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
            "must hold a P-256 key",
            id="P-384",
        ),
        pytest.param(
            signed_request(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
            "must hold a P-256 key",
            id="secp256k1",
        ),
        pytest.param(signed_request(ed25519.Ed25519PrivateKey.generate()), "must hold a P-256 key", id="Ed25519"),
        pytest.param(request_with(P256_OID, NO_CURVE_OID), "nothing was signed", id="an unknown curve"),
        pytest.param(request_with(ECDSA_SHA256_OID, NO_SIGNATURE_OID), "nothing was signed", id="an unknown signature"),
        pytest.param(request_for_someone_elses_key(), "not signed by its own key", id="someone else's key"),
    ],
)
def test_a_request_that_cannot_be_used_is_refused_with_its_reason(authority, request_pem, reason):
    with pytest.raises(BadCertificate, match=reason):
        certificates.sign_institution(authority, request_pem, "st-elm", NOW)


def test_a_request_with_any_bit_flipped_yields_no_other_key():
    key = certificates.new_key()
    content = der(certificates.request_certificate(key))
    refused = 0
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        try:
            found = certificates.requested_key(pem(bytes(changed)))
        except BadCertificate:
            refused += 1
        else:
            assert found == key.public_key()
    assert refused > len(content) * 8 * 0.99


@given(st.binary(max_size=300))
def test_random_bytes_are_no_request(content):
    for text in (content, pem(content)):
        with pytest.raises(BadCertificate):
            certificates.requested_key(text)


# Identity


def test_an_identity_is_the_sha_256_of_the_subject_public_key_info():
    # Appendix of RFC 5480: the SubjectPublicKeyInfo of a P-256 key is this header and the uncompressed point.
    header = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
    key = certificates.new_key()
    numbers = key.public_key().public_numbers()
    encoded = header + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    assert certificates.key_hash(key.public_key()) == hashlib.sha256(encoded).digest()


def test_an_identity_stays_across_certificates_of_one_key(authority):
    key = certificates.new_key()
    other = certificates.new_authority("oncology", NOW)
    issued = [sign_institution(authority, "a", key), sign_institution(authority, "b", key), sign_institution(other)]
    first, second, another = (certificates.key_hash(certificate.public_key()) for certificate in issued)
    assert first == second == certificates.key_hash(key.public_key())
    assert another != first


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="Ed25519"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
    ],
)
def test_only_a_p_256_key_has_an_identity(key):
    with pytest.raises(BadCertificate, match="P-256"):
        certificates.key_hash(key.public_key())


# What is shown


@dataclass
class Around:
    authority: certificates.Authority


def test_no_key_is_shown_with_the_authority(authority):
    scalar = authority.key.private_numbers().private_value
    for shown in (repr(authority), str(authority), f"{authority}", repr(Around(authority))):
        assert "withheld" in shown
        assert str(scalar) not in shown
        assert f"{scalar:064x}" not in shown.lower()


def test_no_key_is_shown_in_an_error(tmp_path):
    key = certificates.new_key()
    path = tmp_path / "a.key"
    certificates.write_key(path, key)
    body = path.read_text().splitlines()[1]
    path.chmod(0o644)
    with pytest.raises(BadCertificate) as refused:
        certificates.read_key(path)
    assert body not in str(refused.value)
    assert f"{key.private_numbers().private_value:064x}" not in str(refused.value).lower()
