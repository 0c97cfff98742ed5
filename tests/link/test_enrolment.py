"""Enrolment over real TLS on loopback: one call makes a member, and no failure leaves half of one."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import socket
import stat
import threading
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from lepton_client import enrolment as client
from lepton_client.enrolment import EnrolmentFailed
from lepton_client.home import open_home
from lepton_server import home as server_home
from lepton_server.enrolment import Enrolment
from lepton_server.store import Store

from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.link import certificates, invitation
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.link.invitation import Invitation
from lepton_fl.v1.enrolment_pb2 import EnrollReply
from lepton_fl.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server

WAIT_S = 20.0
DAY = timedelta(days=1)
FEDERATION = ["fl.example.org:7444"]


class Recording(Enrolment):
    """The server's enrolment, and a copy of every request that reached it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.requests = []
        self.lie = None  # a certificate in PEM to answer with instead

    async def Enroll(self, request, context):  # noqa: N802 - gRPC's name
        self.requests.append(request.SerializeToString())
        reply = await super().Enroll(request, context)
        return reply if self.lie is None else EnrollReply(certificate=self.lie, addresses=FEDERATION)


class Server:
    """An operator with one listening enrolment service, on a clock that a test can move."""

    def __init__(self, loop, path, hosts, start):
        self._loop = loop
        self.ahead = timedelta(0)
        self.home = server_home.init(path, "cardiology", server_home.Addresses(hosts, 7444, 0), start)
        self.authority = self.home.authority()
        Store(self.home.database).close()
        self.servicer = Recording(lambda: Store(self.home.database), self.authority, FEDERATION, self.now)
        self._server, self.port = self._run(self._listen(self.home.server_credentials(start)))

    def now(self):
        return datetime.now(UTC) + self.ahead

    async def _listen(self, pair):
        server = grpc.aio.server()
        add_EnrolmentServicer_to_server(self.servicer, server)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        return server, port

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    def stop(self):
        self._run(self._server.stop(grace=None))

    @property
    def requests(self):
        return self.servicer.requests

    def invite(self, name="st-elm", host="127.0.0.1", port=None):
        """What the operator sends, after the trip through its text."""
        now = self.now()
        secret, expires_at = invitation.new_secret(), now + DAY
        with_store(self, lambda store: store.invite(name, secret, expires_at, now))
        made = Invitation(name, (f"{host}:{port or self.port}",), self.authority.certificate, secret, expires_at)
        return invitation.from_text(made.to_text(), now)


def with_store(server, act):
    store = Store(server.home.database)
    try:
        return act(store)
    finally:
        store.close()


def members(server):
    return [found.name for found in with_store(server, lambda store: store.institutions())]


@pytest.fixture
def start_server(loop, tmp_path):
    started = []

    def start(hosts=("127.0.0.1",), now=None):
        server = Server(loop, tmp_path / f"server {len(started)}", hosts, now or datetime.now(UTC))
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.fixture
def home(tmp_path):
    return tmp_path / "client"


def enroll(invited, path, later=timedelta(0)):
    return client.enroll(invited, path, datetime.now(UTC) + later)


def refused(invited, path, kind=EnrolmentFailed):
    """The one sentence that the institution's person reads."""
    with pytest.raises(kind) as raised:
        enroll(invited, path)
    return str(raised.value)


def files(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def is_not_enrolled(path):
    """At most the key is there, and the home says so itself."""
    assert set(files(path)) <= {"institution.key"}
    with pytest.raises(ConfigError, match="not an enrolled home"):
        open_home(path)
    return True


# It works


def test_one_call_makes_a_member(server, home):
    enrolled = enroll(server.invite("st-elm"), home)
    assert (enrolled.institution, enrolled.addresses) == ("st-elm", tuple(FEDERATION))
    assert open_home(home) == enrolled
    assert members(server) == ["st-elm"]
    assert len(server.requests) == 1


def test_the_certificate_is_for_the_key_that_never_left_and_on_the_operators_list(server, home):
    enroll(server.invite("st-elm"), home)
    key = certificates.read_key(home / "institution.key")
    certificate = x509.load_pem_x509_certificate((home / "institution.pem").read_bytes())
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(server.authority.certificate)
    assert certificate.subject.rfc4514_string() == "CN=st-elm"
    identity = certificates.key_hash(key.public_key())
    assert with_store(server, lambda store: store.member(identity)).name == "st-elm"


def test_the_home_holds_four_files_that_only_its_owner_can_read(server, home):
    enroll(server.invite(), home)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in home.iterdir()}
    assert modes == dict.fromkeys(["institution.key", "institution.pem", "ca.pem", "client.json"], 0o600)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_the_home_trusts_the_ca_of_the_invitation(server, home):
    ca, _, _ = enroll(server.invite(), home).credentials()
    assert x509.load_pem_x509_certificate(ca) == server.authority.certificate


def test_two_institutions_enroll_with_a_name_each(server, tmp_path):
    enroll(server.invite("oak"), tmp_path / "a")
    enroll(server.invite("St. Elm"), tmp_path / "b")
    assert members(server) == ["St. Elm", "oak"]


def test_the_second_address_is_tried_when_nobody_answers_at_the_first(server, home):
    invited = server.invite()
    both = dataclasses.replace(invited, addresses=(f"127.0.0.1:{unused_port()}", *invited.addresses))
    assert enroll(both, home).institution == "st-elm"


def test_a_host_name_works_where_the_servers_certificate_has_it(start_server, home):
    server = start_server(("localhost",))
    assert enroll(server.invite(host="localhost"), home).institution == "st-elm"


def test_no_request_holds_the_private_key_in_any_form(server, home):
    enroll(server.invite(), home)
    key = certificates.read_key(home / "institution.key")
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    plain = serialization.NoEncryption()
    encoded = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain)
    assert len(server.requests) == 1
    for request in server.requests:
        # The request's own base64 is opened too: DER inside PEM would hide the scalar.
        opened = b"".join(base64.b64decode(part) for part in pem_bodies(request))
        assert key.public_key().public_numbers().x.to_bytes(32, "big") in opened
        for secret in (scalar, scalar[:16], scalar.hex().encode(), encoded, str(int.from_bytes(scalar)).encode()):
            assert secret not in request
            assert secret not in opened
        assert (home / "institution.key").read_bytes().splitlines()[1] not in request


def pem_bodies(content):
    _, *parts = content.split(b"-----BEGIN CERTIFICATE REQUEST-----")
    return [part.partition(b"-----END")[0] for part in parts]


# Once more


def test_after_a_lost_answer_the_same_command_gets_the_same_certificate(server, home):
    invited = server.invite()
    enroll(invited, home)
    first = files(home)
    (home / "client.json").unlink()
    (home / "institution.pem").unlink()
    enroll(invited, home)
    assert files(home) == first
    assert members(server) == ["st-elm"]


def test_after_a_lost_answer_the_end_of_the_invitation_does_not_matter(server, home):
    invited = server.invite()
    enroll(invited, home)
    first = files(home)
    (home / "client.json").unlink()
    server.ahead = 2 * DAY
    enroll(invited, home)
    assert files(home) == first


def test_an_enrolled_home_is_not_touched(server, home):
    enroll(server.invite(), home)
    before = files(home)
    again = server.invite("oak")
    assert "is enrolled already; nothing was sent" in refused(again, home, ConfigError)
    assert files(home) == before
    assert len(server.requests) == 1
    assert members(server) == ["st-elm"]


def test_a_key_that_others_can_read_is_not_used(server, home):
    home.mkdir()
    certificates.write_key(home / "institution.key", certificates.new_key())
    (home / "institution.key").chmod(0o644)
    assert "chmod 600" in refused(server.invite(), home, BadCertificate)
    assert server.requests == []


def test_a_home_that_is_a_file_is_refused_before_anything_is_sent(server, home):
    home.write_text("something else")
    assert str(home) in refused(server.invite(), home, LeptonError)
    assert server.requests == []
    assert home.read_text() == "something else"


# The server refuses


def test_an_invitation_that_another_key_used_says_so(server, tmp_path):
    invited = server.invite()
    enroll(invited, tmp_path / "first")
    sentence = refused(invited, tmp_path / "second")
    assert "the invitation was used already; if that was not you, tell the operator at once" in sentence
    assert is_not_enrolled(tmp_path / "second")
    assert members(server) == ["st-elm"]


def test_an_expired_invitation_says_so(server, home):
    invited = server.invite()
    server.ahead = DAY
    assert "the invitation expired; ask the operator for another" in refused(invited, home)
    assert is_not_enrolled(home)
    assert members(server) == []


def test_a_withdrawn_invitation_says_so(server, home):
    invited = server.invite()
    with_store(server, lambda store: store.revoke("st-elm", server.now()))
    sentence = refused(invited, home)
    assert "the invitation is unknown or was replaced by a newer one" in sentence
    assert "ask the operator" in sentence
    assert is_not_enrolled(home)


def test_a_replaced_invitation_says_so_and_the_newer_one_works(server, home):
    older, newer = server.invite(), server.invite()
    assert "was replaced by a newer one" in refused(older, home)
    assert is_not_enrolled(home)
    assert enroll(newer, home).institution == "st-elm"


def test_an_unknown_secret_says_so(server, home):
    unknown = dataclasses.replace(server.invite(), secret=invitation.new_secret())
    assert "the invitation is unknown" in refused(unknown, home)
    assert is_not_enrolled(home)
    assert members(server) == []


def test_a_secret_of_another_length_is_refused(server, home):
    short = dataclasses.replace(server.invite(), secret=b"short")
    assert "the invitation is damaged; ask the operator for another" in refused(short, home)
    assert is_not_enrolled(home)


def test_no_refusal_repeats_the_secret(server, home):
    invited = server.invite()
    server.ahead = DAY
    sentence = refused(invited, home)
    assert invited.secret.hex() not in sentence
    assert base64.b64encode(invited.secret).decode()[:20] not in sentence


def test_a_key_that_a_member_has_already_is_refused_with_what_to_do(server, tmp_path):
    enroll(server.invite("st-elm"), tmp_path / "first")
    (tmp_path / "second").mkdir()
    certificates.write_key(
        tmp_path / "second" / "institution.key", certificates.read_key(tmp_path / "first" / "institution.key")
    )
    assert "make another key" in refused(server.invite("oak"), tmp_path / "second")
    assert is_not_enrolled(tmp_path / "second")
    assert members(server) == ["st-elm"]


# The wrong server


def test_a_server_of_another_authority_at_the_same_address_never_sees_the_secret(start_server, home):
    ours, other = start_server(), start_server()
    invited = ours.invite(port=other.port)
    sentence = refused(invited, home)
    assert "is not the server of this invitation; the secret was not sent" in sentence
    assert f"127.0.0.1:{other.port}" in sentence
    assert (ours.requests, other.requests) == ([], [])
    assert is_not_enrolled(home)
    assert enroll(dataclasses.replace(invited, addresses=(f"127.0.0.1:{ours.port}",)), home).institution == "st-elm"


def test_the_other_server_would_have_recorded_a_request(start_server, home):
    other = start_server()
    enroll(other.invite(), home)
    assert len(other.requests) == 1


def test_a_wrong_server_is_named_even_if_nobody_answers_at_the_next_address(start_server, home):
    ours, other = start_server(), start_server()
    addresses = (f"127.0.0.1:{other.port}", f"127.0.0.1:{unused_port()}")
    sentence = refused(dataclasses.replace(ours.invite(), addresses=addresses), home)
    assert "is not the server of this invitation" in sentence
    assert is_not_enrolled(home)


@pytest.mark.parametrize(
    "hosts, asked", [(("127.0.0.1",), "localhost"), (("fl.example.org",), "127.0.0.1"), (("localhost",), "127.0.0.1")]
)
def test_a_host_name_that_the_servers_certificate_lacks_is_refused(start_server, home, hosts, asked):
    server = start_server(hosts)
    sentence = refused(server.invite(host=asked), home)
    assert "is not the server of this invitation; the secret was not sent" in sentence
    assert "ask the operator for the right address" in sentence
    assert server.requests == []
    assert is_not_enrolled(home)


def test_a_server_without_tls_never_sees_the_secret(server, home):
    received = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        port = listener.getsockname()[1]

        def listen():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(WAIT_S)
                received.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=listen)
        thread.start()
        invited = server.invite(port=port)
        sentence = refused(invited, home)
        thread.join(WAIT_S)
    assert f"127.0.0.1:{port}" in sentence
    assert received[0][:1] == b"\x16"  # a TLS handshake
    assert invited.secret not in b"".join(received)
    assert is_not_enrolled(home)


def institution_certificate(authority, key):
    request = certificates.request_certificate(key)
    return certificates.to_pem(certificates.sign_institution(authority, request, "st-elm", datetime.now(UTC)))


def server_certificate(authority, key):
    return certificates.to_pem(certificates.sign_server(authority, key.public_key(), ["localhost"], datetime.now(UTC)))


@pytest.mark.parametrize(
    "lie, reason",
    [
        pytest.param(lambda authority, key: b"", "not a certificate", id="nothing"),
        pytest.param(lambda authority, key: b"\xff garbage", "not a certificate", id="garbage"),
        pytest.param(
            lambda authority, key: institution_certificate(
                certificates.new_authority("cardiology", datetime.now(UTC)), key
            ),
            "not a certificate of its CA",
            id="another authority",
        ),
        pytest.param(
            lambda authority, key: institution_certificate(authority, certificates.new_key()),
            "not for this institution and its key",
            id="another key",
        ),
        pytest.param(server_certificate, "not for this institution and its key", id="a server's certificate"),
    ],
)
def test_an_answer_that_is_not_our_certificate_is_not_kept(server, home, lie, reason):
    key = certificates.new_key()
    home.mkdir()
    certificates.write_key(home / "institution.key", key)
    server.servicer.lie = lie(server.authority, key)
    sentence = refused(server.invite(), home)
    assert reason in sentence
    assert "tell the operator" in sentence
    assert is_not_enrolled(home)


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_nobody_listening_says_the_address_and_what_to_do(server, home):
    port = unused_port()
    sentence = refused(server.invite(port=port), home)
    assert f"cannot reach the server at 127.0.0.1:{port}; nothing was enrolled" in sentence
    assert "run the same command again" in sentence
    assert is_not_enrolled(home)


# Clocks


@pytest.mark.parametrize("off", [-DAY, 31 * DAY])
def test_an_institutions_clock_outside_the_certificate_says_to_set_it(server, home, off):
    invited = server.invite()
    with pytest.raises(EnrolmentFailed, match=r"valid from .* this machine says .*set the clock"):
        enroll(invited, home, off)
    assert is_not_enrolled(home)


def test_once_the_clock_is_set_the_same_command_works(server, home):
    invited = server.invite()
    with pytest.raises(EnrolmentFailed, match="set the clock"):
        enroll(invited, home, -DAY)
    assert enroll(invited, home).institution == "st-elm"
    assert members(server) == ["st-elm"]


@pytest.mark.parametrize("off", [timedelta(hours=-1), DAY])
def test_a_clock_that_is_a_little_behind_or_a_day_ahead_does_no_harm(server, home, off):
    assert enroll(server.invite(), home, off).institution == "st-elm"


@pytest.mark.parametrize("off", [DAY, -400 * DAY])
def test_a_server_certificate_outside_its_time_is_not_taken_for_a_wrong_server(start_server, home, off):
    # As this machine sees it: the operator's clock is a day ahead of ours, or the certificate was never renewed.
    server = start_server(now=datetime.now(UTC) + off)
    sentence = refused(server.invite(), home)
    assert "clock" in sentence or "expired" in sentence or "not yet valid" in sentence
    assert server.requests == []
    assert is_not_enrolled(home)


# What is written


def test_the_homes_json_holds_the_name_and_the_addresses_and_no_secret(server, home):
    invited = server.invite()
    enroll(invited, home)
    assert json.loads((home / "client.json").read_text()) == {"institution": "st-elm", "addresses": FEDERATION}
    for content in files(home).values():
        assert invited.secret not in content
        assert invited.secret.hex().encode() not in content
