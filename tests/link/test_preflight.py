"""The preflight names the one thing that stands between an institution and a run, over real TLS on loopback."""

from __future__ import annotations

import dataclasses
import socket
import threading
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from lepton_client.preflight import Finding, lines, preflight
from served import DAY, WAIT_S, Operator, status_of

from lepton_fl.link import certificates
from lepton_fl.link.certificates import to_pem
from lepton_fl.v1.federation_pb2 import ProbeReply, ProbeRequest
from lepton_fl.v1.federation_pb2_grpc import FederationServicer

LOCAL = ["key", "certificate", "ca", "validity", "purpose"]
ALL = [*LOCAL, "server", "membership", "clock"]


@pytest.fixture
def start(loop, tmp_path):
    """Further operators, each with its own CA."""
    started = []

    def make(hosts=("127.0.0.1",), then=None):
        started.append(Operator(loop, tmp_path / f"operator {len(started)}", hosts, then))
        return started[-1]

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def home(operator, tmp_path):
    return operator.member(tmp_path / "elm")


def look(home, off=timedelta(0)):
    return preflight(home, datetime.now(UTC) + off, wait_s=2.0)


def at(home, *ports):
    return dataclasses.replace(home, addresses=tuple(f"127.0.0.1:{port}" for port in ports))


def the_one(found, name):
    """The finding of this name, all others being in order."""
    (wanted,) = [one for one in found if one.name == name]
    assert [one for one in found if one.state != "ok"] == [wanted]
    return wanted.state, wanted.sentence


# In order


def test_a_member_whose_server_runs_finds_everything_in_order(home):
    found = look(home)
    assert [one.name for one in found] == ALL
    assert {one.state for one in found} == {"ok"}


def test_the_days_left_and_the_day_of_renewal_are_said(home):
    said = {one.name: one.sentence for one in look(home)}
    assert said["validity"].startswith("30.0 days left, until ")
    assert "renews by itself from " in said["validity"]
    assert said["membership"].startswith("st-elm is a member; protocol 1 with lepton-fl")


def test_nothing_in_the_home_is_changed(home):
    before = {entry.name: entry.read_bytes() for entry in home.path.iterdir()}
    look(home)
    assert {entry.name: entry.read_bytes() for entry in home.path.iterdir()} == before


def test_the_lines_have_a_column_each_for_name_state_and_sentence():
    found = [Finding("key", "ok", "can be read by its owner alone"), Finding("server", "warning", "is away")]
    assert list(lines(found)) == [
        "key         ok       can be read by its owner alone",
        "server      warning  is away",
    ]


def test_every_finding_is_one_line(home, operator):
    operator.ahead = timedelta(hours=2)
    for line in lines(look(home)):
        assert line == " ".join(line.splitlines())


# Local files


def spoil(home, name, content):
    certificates.write_secret(home.path / name, content)


def another_key(home, operator):
    certificates.write_key(home.key, certificates.new_key())


def another_ca(home, operator):
    spoil(home, "ca.pem", to_pem(certificates.new_authority("cardiology", datetime.now(UTC)).certificate))


@pytest.mark.parametrize(
    "change, name, reason",
    [
        (lambda home, operator: home.key.chmod(0o640), "key", "can be read by others (mode 0640)"),
        (lambda home, operator: home.key.unlink(), "key", "cannot read the key"),
        (lambda home, operator: spoil(home, "institution.key", b"damaged"), "key", "is not a key"),
        (lambda home, operator: home.certificate.unlink(), "certificate", "cannot be read"),
        (lambda home, operator: spoil(home, "institution.pem", b"damaged"), "certificate", "cannot be read"),
        (lambda home, operator: spoil(home, "ca.pem", b"damaged"), "certificate", "cannot be read"),
        (another_key, "certificate", "is for another key than"),
        (another_ca, "ca", "did not sign this certificate"),
    ],
)
def test_a_home_that_cannot_be_used_is_named_and_nothing_is_sent(home, operator, change, name, reason):
    change(home, operator)
    found = look(home)
    assert "server" not in [one.name for one in found]
    state, sentence = the_one(found, name)
    assert state == "failed"
    assert reason in sentence
    assert "nothing was sent" in sentence


def resigned(home, operator, name, moment):
    """Replace the home's certificate by another for its key."""
    request = certificates.request_certificate(certificates.read_key(home.key))
    spoil(home, "institution.pem", to_pem(certificates.sign_institution(operator.authority, request, name, moment)))


def test_a_certificate_that_is_due_is_a_warning_that_says_who_renews_it(home, operator):
    resigned(home, operator, "st-elm", datetime.now(UTC) - 25 * DAY)
    state, sentence = the_one(look(home), "validity")
    assert state == "warning"
    assert sentence.startswith("5.0 days left")
    assert "renewal is due since" in sentence
    assert "lepton-client run renews it" in sentence


def states(found):
    return {one.name: one.state for one in found}


def test_an_ended_certificate_says_so_before_the_server_refuses_it(home, operator):
    resigned(home, operator, "st-elm", datetime.now(UTC) - 31 * DAY)
    found = look(home)
    said = {one.name: one.sentence for one in found}
    assert [one.name for one in found] == [*LOCAL, "server"]
    assert states(found)["validity"] == states(found)["server"] == "failed"
    assert "this certificate ended at" in said["validity"]
    assert "ask the operator for a new invitation" in said["validity"]
    assert "is this federation's server and refused this certificate" in said["server"]


def test_a_clock_before_the_certificates_beginning_says_to_set_it(home):
    state, sentence = next((one.state, one.sentence) for one in look(home, -DAY) if one.name == "validity")
    assert state == "failed"
    assert "set the clock" in sentence


def test_a_certificate_of_another_name_is_named(home, operator):
    resigned(home, operator, "oak", datetime.now(UTC))
    state, sentence = the_one(look(home), "purpose")
    assert state == "failed"
    assert "not for st-elm as a client" in sentence


def test_a_servers_certificate_is_no_institutions(home, operator):
    public_key = certificates.read_key(home.key).public_key()
    signed = certificates.sign_server(operator.authority, public_key, ["localhost"], datetime.now(UTC))
    spoil(home, "institution.pem", to_pem(signed))
    assert states(look(home))["purpose"] == "failed"


# The server


def test_a_server_that_is_not_up_is_a_warning_that_says_when_it_is(home):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = look(at(home, port))
    state, sentence = the_one(found, "server")
    assert state == "warning"
    assert f"127.0.0.1:{port} cannot be reached (nothing listens there)" in sentence
    assert "the server listens only while lepton-server run is up" in sentence
    assert [one.name for one in found] == [*LOCAL, "server"]


def test_the_server_at_the_second_address_is_asked_when_nobody_is_at_the_first(home, operator):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = look(at(home, port, operator.port))
    assert [(one.name, one.state) for one in found[5:]] == [
        ("server", "warning"),
        ("server", "ok"),
        ("membership", "ok"),
        ("clock", "ok"),
    ]


def test_a_server_of_another_ca_is_named(home, start):
    other = start()
    state, sentence = the_one(look(at(home, other.port)), "server")
    assert state == "failed"
    assert f"whoever answers at 127.0.0.1:{other.port} is not of this federation's CA" in sentence


@pytest.mark.parametrize("hosts, asked", [(["localhost"], "127.0.0.1"), (["127.0.0.1"], "localhost")])
def test_a_host_name_that_the_servers_certificate_lacks_is_named(start, tmp_path, hosts, asked):
    home = start(hosts).member(tmp_path / "elm", host=asked)
    state, sentence = the_one(look(home), "server")
    assert state == "failed"
    assert "is for other names; nothing was sent; ask the operator for the right address" in sentence


@pytest.mark.parametrize("off, what", [(-400 * DAY, "has ended"), (DAY, "has not begun")])
def test_a_server_certificate_outside_its_time_points_to_the_clocks(start, tmp_path, off, what):
    home = start(then=datetime.now(UTC) + off).member(tmp_path / "elm")
    state, sentence = the_one(look(home), "server")
    assert state == "failed"
    assert f"{what} at this machine's time; nothing was sent; compare this machine's clock" in sentence


def test_a_service_that_cannot_be_asked_is_named(home, operator):
    state, sentence = the_one(look(at(home, operator.serve(FederationServicer()))), "protocol")
    assert state == "failed"
    assert "cannot be asked" in sentence


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
        (b"", "does not speak TLS"),
        (None, "did not answer TLS in time"),
    ],
)
def test_a_server_without_tls_is_named_and_hears_a_greeting_only(home, answer, reason):
    received = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)

        def listen():
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(WAIT_S)
                received.append(connection.recv(65536))
                if answer is None:
                    connection.recv(65536)  # until the other side gives up
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=listen)
        thread.start()
        state, sentence = the_one(look(at(home, listener.getsockname()[1])), "server")
        thread.join(WAIT_S)
    assert state == "failed"
    assert reason in sentence
    assert received[0][:1] == b"\x16"  # a TLS handshake
    assert b"st-elm" not in b"".join(received)


@pytest.mark.parametrize("address", ["fl..example.org:7444", "fl.example.org", ""])
def test_an_address_that_is_none_is_named(home, address):
    state, sentence = the_one(look(dataclasses.replace(home, addresses=(address,))), "server")
    assert state == "failed"
    assert "cannot be found" in sentence


# What the server thinks


def test_a_revoked_institution_hears_the_servers_sentence(home, operator):
    operator.with_store(lambda store: store.revoke("st-elm", datetime.now(UTC)))
    state, sentence = the_one(look(home), "membership")
    assert (state, sentence) == ("failed", "the server says: this certificate is not a member's, or was revoked")


def test_a_key_that_was_never_enrolled_hears_the_servers_sentence(home, operator):
    certificates.write_key(home.key, certificates.new_key())
    resigned(home, operator, "st-elm", datetime.now(UTC))
    assert "is not a member's" in the_one(look(home), "membership")[1]


def test_a_certificate_that_ended_by_the_servers_clock_alone_hears_so(home, operator):
    operator.ahead = 31 * DAY
    state, sentence = the_one(look(home), "membership")
    assert state == "failed"
    assert "the server says: this certificate ended at" in sentence


def test_a_server_refuses_another_protocol_by_both_numbers(home):
    probe = ProbeRequest(protocol=99, lepton_version="9.9.9")
    code, sentence = status_of(home, lambda stub: stub.Probe(probe, timeout=WAIT_S))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "speaks protocol 1, the institution 99; update the older one" in sentence


class Answers(FederationServicer):
    """A server of the right CA that answers what a test says."""

    def __init__(self, answer):
        self.answer = answer

    async def Probe(self, request, context):  # noqa: N802 - gRPC's name
        if isinstance(self.answer, ProbeReply):
            return self.answer
        await context.abort(*self.answer)


@pytest.mark.parametrize(
    "answer, name, reason",
    [
        (
            (grpc.StatusCode.FAILED_PRECONDITION, "protocol 2; update"),
            "protocol",
            "the server says: protocol 2; update",
        ),
        ((grpc.StatusCode.PERMISSION_DENIED, "a\x1b[2Jb\n\nc"), "membership", "the server says: a [2Jb c"),
        ((grpc.StatusCode.INTERNAL, "oh"), "membership", "did not answer (INTERNAL); try again"),
    ],
)
def test_a_refusal_is_one_line_that_a_terminal_can_show(home, operator, answer, name, reason):
    state, sentence = the_one(look(at(home, operator.serve(Answers(answer)))), name)
    assert state == "failed"
    assert reason in sentence


def test_a_server_that_takes_us_for_somebody_else_is_named(home, operator):
    mistaken = Answers(ProbeReply(institution="oak", protocol=1, server_time=datetime.now(UTC).timestamp()))
    state, sentence = the_one(look(at(home, operator.serve(mistaken))), "membership")
    assert state == "failed"
    assert "another institution than st-elm" in sentence


@pytest.mark.parametrize("server_time", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_server_without_a_usable_time_is_named(home, operator, server_time):
    strange = Answers(ProbeReply(institution="st-elm", protocol=1, server_time=server_time))
    state, sentence = the_one(look(at(home, operator.serve(strange))), "clock")
    assert state == "failed"
    assert "no usable time" in sentence


# Clocks


@pytest.mark.parametrize(
    "seconds, state",
    [
        (20, "ok"),
        (-20, "ok"),
        (100, "warning"),
        (-100, "warning"),
        (3500, "warning"),
        (3700, "failed"),
        (-3700, "failed"),
    ],
)
@pytest.mark.parametrize("whose", ["the server's", "ours"])
def test_clocks_apart_are_judged_by_how_far(home, operator, seconds, state, whose):
    off = timedelta(seconds=seconds)
    if whose == "the server's":
        operator.ahead = off
    found = look(home, off if whose == "ours" else timedelta(0))
    assert states(found)["clock"] == state
    assert {one.state for one in found if one.name != "clock"} == {"ok"}


def test_clocks_apart_are_said_with_both_times(home, operator):
    operator.ahead = timedelta(minutes=30)
    state, sentence = the_one(look(home), "clock")
    assert state == "warning"
    here, there = (
        datetime.strptime(part.split(" UTC")[0][-19:], "%Y-%m-%d %H:%M:%S")
        for part in sentence.split("; set")[0].split(", at the server ")
    )
    assert abs(there - here - timedelta(minutes=30)) < timedelta(seconds=10)
