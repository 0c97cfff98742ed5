"""Certificates renew themselves over the link, for the same key; ended ones close; an ended member can come back."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from lepton_client import renewal
from lepton_client.enrolment import EnrolmentFailed, enroll
from lepton_client.ledger import Ledger
from lepton_client.renewal import Pace, RenewalFailed, is_due, kept_renewed
from lepton_client.standing import Standing
from lepton_client.stream import Ended, Stream, Take
from lepton_server.enrolment import Enrolment
from lepton_server.store import StoreError
from served import DAY, WAIT_S, channel_of, status_of, until

from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.link import certificates, frames, invitation
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.link.frames import PROTOCOL
from lepton_fl.link.invitation import Invitation
from lepton_fl.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from lepton_fl.v1.federation_pb2 import ClientFrame, Hello, ProbeRequest, RenewReply, RenewRequest
from lepton_fl.v1.federation_pb2_grpc import FederationServicer, FederationStub

DUE = 25 * DAY  # the age of a certificate that is due and works for five more days
HEART = Path(__file__).resolve().parents[2] / "lepton_fl" / "tasks" / "data" / "heart.csv"


def now():
    return datetime.now(UTC)


def kept(home):
    return x509.load_pem_x509_certificate(home.certificate.read_bytes())


def identity(home):
    return certificates.key_hash(certificates.read_key(home.key).public_key())


def renewed(home, at=None):
    with channel_of(home) as channel:
        return renewal.renew(channel, home, at or now())


def connected(operator, home, channel):
    """A stream that the hub has taken in, and the hub's side of it."""
    before = len(operator.hub.shown)
    node_id = operator.with_store(lambda store: store.member(identity(home))).node_id
    standing = Standing(home.path, Ledger.open(home.path / "ledger", now))
    stream = Stream(channel, Hello(protocol=PROTOCOL), Take(1 << 20), standing)
    until(lambda: len(operator.hub.shown) > before and node_id in operator.hub.sessions)
    return stream, operator.hub.sessions[node_id]


def end_of(stream):
    """How the stream ended."""
    while not isinstance(event := stream.next_event(WAIT_S), Ended):
        assert event is not None, "the stream went on"
    return event


def events(operator):
    return operator.rows("SELECT institution, kind FROM events ORDER BY rowid")


# When


def certificate_from(start, end):
    authority = certificates.new_authority("cardiology", start)
    request = certificates.request_certificate(certificates.new_key())
    signed = certificates.sign_institution(authority, request, "st-elm", start + certificates.BACKDATED)
    assert (signed.not_valid_before_utc, signed.not_valid_after_utc) == (start, end)
    return signed


def test_a_renewal_is_due_when_two_thirds_of_its_life_are_over():
    start = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
    certificate = certificate_from(start, start + 30 * DAY + certificates.BACKDATED)
    due = start + 20 * DAY + certificates.BACKDATED * 2 / 3
    assert not is_due(certificate, due - timedelta(seconds=1))
    assert is_due(certificate, due)
    assert renewal.renews_at(certificate) == due


# It works


def test_a_renewed_certificate_lasts_thirty_days_more_for_the_same_key_and_name(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    old = kept(home)
    key = home.key.read_bytes()
    new = renewed(home)
    assert kept(home) == new
    assert new.public_key() == old.public_key()
    assert new.subject == old.subject
    assert new.serial_number != old.serial_number
    assert abs(new.not_valid_after_utc - old.not_valid_after_utc - DUE) < timedelta(minutes=5)
    assert home.key.read_bytes() == key
    assert stat.S_IMODE(home.certificate.stat().st_mode) == 0o600
    assert {entry.name for entry in home.path.iterdir()} == {
        "institution.key",
        "institution.pem",
        "ca.pem",
        "client.json",
        "policy.yaml",
    }


def test_the_operator_keeps_the_new_certificate_and_notes_the_renewal(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    renewed(home)
    (row,) = operator.rows("SELECT certificate, not_after FROM keys")
    assert row[0] == home.certificate.read_bytes()
    assert datetime.fromisoformat(row[1]) == kept(home).not_valid_after_utc
    assert events(operator) == [("st-elm", "invited"), ("st-elm", "enrolled"), ("st-elm", "renewed")]


def test_a_due_certificate_is_renewed_and_the_next_connection_uses_it(operator, tmp_path, capsys):
    home = operator.member(tmp_path / "elm", age=DUE)
    old = home.certificate.read_bytes()
    for _ in range(2):
        with channel_of(home) as channel, kept_renewed(channel, home, Pace(now, 3600.0)):
            stream, _ = connected(operator, home, channel)
            stream.close()
    assert operator.hub.shown == [old, home.certificate.read_bytes()]
    assert old != home.certificate.read_bytes()
    said = capsys.readouterr().err
    assert said == f"the certificate was renewed, until {kept(home).not_valid_after_utc:%Y-%m-%d %H:%M} UTC\n"


def test_a_certificate_that_is_not_due_is_left_alone_without_a_word(operator, tmp_path, capsys):
    home = operator.member(tmp_path / "elm", age=19 * DAY)
    old = home.certificate.read_bytes()
    with channel_of(home) as channel, kept_renewed(channel, home, Pace(now, 3600.0)):
        pass
    assert home.certificate.read_bytes() == old
    assert ("st-elm", "renewed") not in events(operator)
    assert capsys.readouterr().err == ""


def test_a_stream_that_is_open_during_a_renewal_goes_on(operator, tmp_path):
    home = operator.member(tmp_path / "elm")
    old = home.certificate.read_bytes()
    days = iter([0, *[22] * 1000])  # by this clock the certificate becomes due while the stream is open
    pace = Pace(lambda: now() + next(days) * DAY, 0.1)
    with channel_of(home) as channel, kept_renewed(channel, home, pace):
        stream, session = connected(operator, home, channel)
        operator.ahead = 22 * DAY
        until(lambda: home.certificate.read_bytes() != old)
        assert operator.hub.sessions[session.member.node_id] is session
        operator.hub.end_run("the run is finished")
        assert end_of(stream) == Ended(None, "the run is finished")
        stream.close()
    assert operator.hub.shown == [old]


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_an_hour_apart_do_not_stop_a_renewal(operator, tmp_path, hours):
    home = operator.member(tmp_path / "elm", age=DUE)
    operator.ahead = timedelta(hours=hours)
    renewed(home)
    # TLS on both sides goes by the true time.
    with channel_of(home) as channel:
        connected(operator, home, channel)[0].close()
    assert operator.hub.shown == [home.certificate.read_bytes()]


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_institutions_clock_an_hour_off_does_not_stop_a_renewal(operator, tmp_path, hours):
    home = operator.member(tmp_path / "elm", age=DUE)
    old = kept(home)
    assert renewed(home, now() + timedelta(hours=hours)).not_valid_after_utc > old.not_valid_after_utc


def test_a_lost_answer_is_made_up_for_by_the_next_renewal(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    request = certificates.request_certificate(certificates.read_key(home.key))
    with channel_of(home) as channel:
        FederationStub(channel).Renew(RenewRequest(certificate_request=request), timeout=WAIT_S)
    assert renewed(home) == kept(home)


# The server refuses


def renewal_refused(home, request):
    code, sentence = status_of(home, lambda stub: stub.Renew(RenewRequest(certificate_request=request), timeout=WAIT_S))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    return sentence


def test_another_key_is_refused(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    oak = operator.member(tmp_path / "oak", "oak", age=DUE)
    before = operator.rows("SELECT * FROM keys")
    for key in (certificates.new_key(), certificates.read_key(oak.key)):
        sentence = renewal_refused(home, certificates.request_certificate(key))
        assert sentence == "a renewal is for the key that asks, and this is another; nothing was signed"
    assert operator.rows("SELECT * FROM keys") == before


@pytest.mark.parametrize(
    "request_pem", [b"", b"\xff garbage", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"x" * 100_000]
)
def test_a_request_that_is_none_is_refused(operator, tmp_path, request_pem):
    home = operator.member(tmp_path / "elm", age=DUE)
    assert "nothing was signed" in renewal_refused(home, request_pem)
    assert ("st-elm", "renewed") not in events(operator)


def test_a_revoked_member_is_refused_and_keeps_what_it_has(operator, tmp_path, capsys):
    home = operator.member(tmp_path / "elm", age=DUE)
    old = home.certificate.read_bytes()
    operator.with_store(lambda store: store.revoke("st-elm", now()))
    with channel_of(home) as channel, kept_renewed(channel, home, Pace(now, 3600.0)):
        pass
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "not renewed: the server refused (this certificate is not a member's, or was revoked" in said
    assert "the old one works until it ends" in said
    assert home.certificate.read_bytes() == old


def test_a_revoked_member_is_refused_even_if_it_is_revoked_while_the_certificate_is_signed(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    operator.with_store(lambda store: store.revoke("st-elm", now()))
    with pytest.raises(StoreError, match="nothing was signed"):
        operator.with_store(lambda store: store.renew(identity(home), b"late", (now(), now() + 30 * DAY)))


def test_a_connection_that_outlives_its_certificate_renews_nothing(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    operator.ahead = 6 * DAY
    with channel_of(home) as channel, pytest.raises(RenewalFailed, match=r"this certificate ended at .*renew it"):
        renewal.renew(channel, home, now())


def test_a_server_that_is_away_is_left_to_the_stream_to_tell(operator, tmp_path, capsys):
    home = operator.member(tmp_path / "elm", age=DUE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"127.0.0.1:{listener.getsockname()[1]}"
    away = dataclasses.replace(home, addresses=(nobody,))
    with channel_of(away) as channel, kept_renewed(channel, away, Pace(now, 3600.0)):
        pass
    assert capsys.readouterr().err == ""


class Liar(FederationServicer):
    """A server of the right CA that answers with somebody else's certificate."""

    def __init__(self, lie):
        self.lie = lie

    async def Renew(self, request, context):  # noqa: N802 - gRPC's name
        return RenewReply(certificate=self.lie)


def lies(operator, home):
    """Each wrong answer, and a part of what is said about it."""
    own, other = certificates.read_key(home.key), certificates.new_key()

    def signed(authority, key, name, moment):
        request = certificates.request_certificate(key)
        return certificates.to_pem(certificates.sign_institution(authority, request, name, moment))

    stranger = certificates.new_authority("cardiology", now())
    yield b"", "not a certificate of its CA"
    yield signed(stranger, own, "st-elm", now()), "not a certificate of its CA"
    yield signed(operator.authority, other, "st-elm", now()), "not for this institution and its key"
    yield signed(operator.authority, own, "oak", now()), "not for this institution and its key"
    yield signed(operator.authority, own, "st-elm", now() - 31 * DAY), "set the clock"
    as_server = certificates.sign_server(operator.authority, own.public_key(), ["localhost"], now())
    yield certificates.to_pem(as_server), "not for this institution and its key"


def test_an_answer_that_is_not_our_certificate_is_not_kept(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    old = home.certificate.read_bytes()
    liar = Liar(b"")
    lied_to = dataclasses.replace(home, addresses=(f"127.0.0.1:{operator.serve(liar)}",))
    for lie, reason in lies(operator, home):
        liar.lie = lie
        with pytest.raises(BadCertificate, match=reason):
            renewed(lied_to)
        assert home.certificate.read_bytes() == old


# The end of a certificate


def test_an_open_stream_is_cut_when_its_certificate_ends_and_a_renewed_one_is_taken(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    end = kept(home).not_valid_after_utc
    with channel_of(home) as channel:
        stream, _ = connected(operator, home, channel)
        renewal.renew(channel, home, now())
        operator.ahead = 6 * DAY
        ended = end_of(stream)
    assert ended.code == grpc.StatusCode.UNAUTHENTICATED
    assert ended.detail == f"this certificate ended at {end:%Y-%m-%d %H:%M} UTC; renew it"
    until(lambda: not operator.hub.sessions)
    with channel_of(home) as channel:
        connected(operator, home, channel)[0].close()


@pytest.mark.slow
def test_a_stream_ends_with_its_certificate_by_the_true_time_too(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=30 * DAY - timedelta(seconds=10))
    with channel_of(home) as channel:
        stream, _ = connected(operator, home, channel)
        ended = end_of(stream)
    assert ended.code == grpc.StatusCode.UNAUTHENTICATED
    assert "this certificate ended at" in ended.detail


def test_a_new_stream_on_an_old_connection_is_refused_after_the_end(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    with channel_of(home) as channel:
        stub = FederationStub(channel)
        probe = ProbeRequest(protocol=frames.PROTOCOL, lepton_version="0.1.0")
        stub.Probe(probe, timeout=WAIT_S)
        operator.ahead = 6 * DAY
        hello = ClientFrame(hello=Hello(protocol=frames.PROTOCOL, lepton_version="0.1.0"))
        for ask in (lambda: list(stub.Connect(iter([hello]), timeout=WAIT_S)), lambda: stub.Probe(probe)):
            with pytest.raises(grpc.RpcError) as refused:
                ask()
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_client_process_renews_is_cut_at_the_end_and_comes_back_by_itself(operator, tmp_path):
    home = operator.member(tmp_path / "elm", age=DUE)
    old = home.certificate.read_bytes()
    command = [Path(sys.executable).parent / "lepton-client", "run", "--home", home.path, f"data.path={HEART}"]
    log = tmp_path / "client.log"
    with log.open("w") as out:
        client = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ, cwd=tmp_path)
    try:
        until_slow(lambda: len(operator.hub.shown) == 1)
        assert home.certificate.read_bytes() != old
        operator.ahead = 6 * DAY
        until_slow(lambda: len(operator.hub.shown) == 2)
        client.send_signal(signal.SIGTERM)
        assert client.wait(WAIT_S) == 0
    finally:
        client.kill()
        client.wait(WAIT_S)
    assert operator.hub.shown == [old, home.certificate.read_bytes()]
    assert "the certificate was renewed, until" in log.read_text()
    assert "closed the stream: this certificate ended at" in log.read_text()
    assert '"kind":"certificate-request"' in (home.path / "ledger" / "ledger.jsonl").read_text()


def until_slow(is_so):
    """A process loads its libraries first."""
    for _ in range(4):
        try:
            return until(is_so)
        except AssertionError:
            continue
    return until(is_so)


# Back again


@pytest.fixture
def enrolment(operator):
    """The port of the operator's enrolment service."""
    addresses = [f"127.0.0.1:{operator.port}"]
    servicer = Enrolment(operator.open_store, operator.authority, addresses, operator.now)
    return operator.serve(servicer, add_EnrolmentServicer_to_server, mutual=False)


def invited(operator, port, name="st-elm"):
    secret, until = invitation.new_secret(), now() + DAY
    operator.with_store(lambda store: store.invite(name, secret, until, now()))
    return Invitation(name, (f"127.0.0.1:{port}",), operator.authority.certificate, secret, until)


def node_ids(operator):
    return {one.name: one.node_id for one in operator.with_store(lambda store: store.institutions())}


def test_an_ended_member_comes_back_with_its_key_and_its_node_id(operator, enrolment, tmp_path):
    home = operator.member(tmp_path / "elm", age=31 * DAY)
    before, key = node_ids(operator), home.key.read_bytes()
    assert enroll(invited(operator, enrolment), home.path, now()) == home
    assert node_ids(operator) == before
    assert home.key.read_bytes() == key
    with channel_of(home) as channel:
        connected(operator, home, channel)[0].close()
    assert events(operator)[-1] == ("st-elm", "enrolled again")


def test_an_ended_member_that_lost_its_home_comes_back_with_another_key_and_the_old_one_is_out(
    operator, enrolment, tmp_path
):
    lost = operator.member(tmp_path / "lost", age=31 * DAY)
    before = node_ids(operator)
    home = enroll(invited(operator, enrolment), tmp_path / "new", now())
    assert node_ids(operator) == before
    assert operator.with_store(lambda store: store.member(identity(lost))) is None
    assert operator.with_store(lambda store: store.member(identity(home))).node_id == before["st-elm"]
    with channel_of(home) as channel:
        connected(operator, home, channel)[0].close()


def test_after_a_lost_answer_the_same_command_brings_the_member_back(operator, enrolment, tmp_path):
    home = operator.member(tmp_path / "elm", age=31 * DAY)
    ended, again = home.certificate.read_bytes(), invited(operator, enrolment)
    enroll(again, home.path, now())
    first = home.certificate.read_bytes()
    certificates.write_secret(home.certificate, ended)
    enroll(again, home.path, now())
    assert home.certificate.read_bytes() == first


def test_a_member_whose_certificate_works_is_not_invited_and_hears_until_when(operator, tmp_path):
    home = operator.member(tmp_path / "elm")
    end = kept(home).not_valid_after_utc
    with pytest.raises(StoreError, match=f"is a member already, with a certificate until {end:%Y-%m-%d %H:%M} UTC"):
        invited(operator, 1)


def test_a_home_whose_certificate_works_is_not_enrolled_again(operator, enrolment, tmp_path):
    home = operator.member(tmp_path / "elm", age=31 * DAY)
    again = invited(operator, enrolment)
    before = home.certificate.read_bytes()
    with pytest.raises(ConfigError, match=r"enrolled already; nothing was sent; its certificate lasts until"):
        enroll(again, home.path, now() - 10 * DAY)
    assert home.certificate.read_bytes() == before


@pytest.mark.parametrize("same_ca", [True, False])
def test_an_ended_home_takes_no_invitation_of_another_name_or_federation(operator, enrolment, tmp_path, same_ca):
    home = operator.member(tmp_path / "elm", age=31 * DAY)
    other = invited(operator, enrolment, "oak" if same_ca else "st-elm")
    if not same_ca:
        other = dataclasses.replace(other, ca_certificate=certificates.new_authority("cardiology", now()).certificate)
    with pytest.raises(ConfigError, match="use another --home for another federation"):
        enroll(other, home.path, now())


@pytest.mark.parametrize("damaged", ["client.json", "ca.pem", "institution.pem"])
def test_a_damaged_home_is_not_enrolled_over(operator, enrolment, tmp_path, damaged):
    home = operator.member(tmp_path / "elm", age=31 * DAY)
    (home.path / damaged).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="enrolled already; nothing was sent; it is damaged"):
        enroll(invited(operator, enrolment), home.path, now())


def test_a_revoked_member_stays_out_after_its_end(operator, tmp_path):
    operator.member(tmp_path / "elm", age=31 * DAY)
    operator.with_store(lambda store: store.revoke("st-elm", now()))
    with pytest.raises(StoreError, match="st-elm was revoked; nobody was invited"):
        invited(operator, 1)


def test_revoking_an_ended_member_withdraws_its_new_invitation_too(operator, enrolment, tmp_path):
    home = operator.member(tmp_path / "elm", age=31 * DAY)
    again = invited(operator, enrolment)
    operator.with_store(lambda store: store.revoke("st-elm", now()))
    with pytest.raises(EnrolmentFailed, match="the invitation is unknown or was replaced"):
        enroll(again, home.path, now())
    assert operator.with_store(lambda store: store.member(identity(home))) is None


def test_a_member_cannot_come_back_with_another_institutions_key(operator, enrolment, tmp_path):
    operator.member(tmp_path / "elm", age=31 * DAY)
    oak = operator.member(tmp_path / "oak", "oak")
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    certificates.write_key(stolen / "institution.key", certificates.read_key(oak.key))
    with pytest.raises(LeptonError, match="this key is another institution's; nothing was enrolled"):
        enroll(invited(operator, enrolment), stolen, now())
    assert operator.with_store(lambda store: store.member(identity(oak))).name == "oak"
