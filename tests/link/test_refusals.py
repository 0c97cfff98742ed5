"""Who is refused before a stream begins or while it is open, and what they are told."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from lepton_client.agent import Agent, Own
from lepton_client.considering import Position
from lepton_client.home import Home
from lepton_client.ledger import Ledger
from lepton_client.policy import read
from lepton_client.run import _connect, _news
from line import Line
from operators import Federation, Operator, World, free_port
from peers import WAIT_S, Member, Peer, connect, hello, joined, tls

from lepton_fl.errors import LeptonError
from lepton_fl.link import certificates
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame

REFUSED = grpc.StatusCode.PERMISSION_DENIED
pytestmark = pytest.mark.usefixtures("nothing_is_lost")


def sentence(home: Home) -> str:
    """What the person at `lepton-client run` reads about one connection."""
    try:
        ledger = Ledger.open(home.path / "ledger", lambda: datetime.now(UTC))
        position = Position(read(home.path / "policy.yaml"), {}, ledger, torch.device("cpu"))
        agent = Agent(home, Own(DataSource(None, None), position, ledger), lambda point: None)
        ended = _connect(agent, home, home.addresses[0])
    except LeptonError as error:
        return f"error: {error}"
    return _news(ended, home, home.addresses[0])


def heard(connection: ssl.SSLSocket) -> bytes:
    """What a server says first; nothing if it closed."""
    with connection:
        try:
            return connection.recv(64)
        except (ssl.SSLError, ConnectionError):
            return b""


# Certificates


def test_a_member_is_greeted_below_grpc_so_silence_means_refusal(world: World) -> None:
    assert heard(tls(world.port, world.elm)) != b""


def test_without_a_certificate_nothing_is_heard(world: World) -> None:
    assert heard(tls(world.port, None)) == b""


def test_a_home_that_lost_its_certificate_says_so(world: World, tmp_path: Path) -> None:
    home = world.elm.home(tmp_path / "home", world.port)
    (home.path / "institution.pem").unlink()
    said = sentence(home)
    assert said.startswith("error: ")
    assert "institution.pem" in said


def of_another_ca(world: World) -> Member:
    """A member by its key, with a certificate that another CA of the same name signed."""
    stranger = certificates.new_authority("cardiology", datetime.now(UTC))
    return world.operator.admit(f"stranger-{time.monotonic_ns()}", signer=stranger)


def expired(world: World) -> Member:
    """A member whose 30 days are over."""
    return world.operator.admit(f"late-{time.monotonic_ns()}", datetime.now(UTC) - timedelta(days=31))


def with_a_servers_certificate(world: World) -> Member:
    """A certificate of the right CA for the wrong purpose, its key on the list."""
    key, _ = world.operator.home.server_credentials(datetime.now(UTC))
    return replace(world.elm, key=key, certificate=(world.operator.home.path / "server.pem").read_bytes())


@pytest.mark.parametrize("made", [of_another_ca, expired, with_a_servers_certificate])
def test_a_certificate_that_tls_cannot_accept_hears_nothing(world: World, made: Any) -> None:
    assert heard(tls(world.port, made(world))) == b""


def test_an_expired_certificate_is_named_before_anything_is_sent(world: World, tmp_path: Path) -> None:
    said = sentence(expired(world).home(tmp_path / "home", world.port))
    assert said.startswith("error: this certificate ended at")
    assert "nothing was sent" in said
    assert "ask the operator for a new invitation" in said


def test_a_certificate_of_another_ca_is_named(world: World, tmp_path: Path) -> None:
    assert "certificate" in sentence(of_another_ca(world).home(tmp_path / "home", world.port))


def test_a_member_revoked_before_it_connects_is_told_so(world: World, tmp_path: Path) -> None:
    gone = world.operator.admit("gone")
    world.operator.revoke("gone")
    said = sentence(gone.home(tmp_path / "home", world.port))
    assert said.startswith("error: ")
    assert "not a member's, or was revoked; nothing more was sent; ask the operator" in said


def test_a_certificate_of_our_ca_that_was_never_enrolled_is_refused(world: World) -> None:
    key = certificates.new_key()
    signed = certificates.sign_institution(
        world.operator.authority, certificates.request_certificate(key), "elm", datetime.now(UTC)
    )
    path = world.operator.home.path / "never.key"
    certificates.write_key(path, key)
    forged = replace(world.elm, key=path.read_bytes(), certificate=certificates.to_pem(signed))
    with Peer(forged, world.port, hello()) as peer:
        assert peer.ending().code == REFUSED


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "in the middle of a reply"])
def test_a_member_revoked_while_connected_is_cut_within_five_seconds(world: World, is_busy: bool) -> None:
    name = f"traitor-{is_busy}"
    traitor = world.operator.admit(name)
    with joined(traitor, world.port) as peer:
        message_id = world.federation.ask(traitor)
        peer.instruction()
        if is_busy:
            peer.send(
                ClientFrame(begin=Begin(reply_to_message_id=message_id, envelope_bytes=1 << 20, sha256=bytes(32)))
            )
            peer.send(*[ClientFrame(chunk=Chunk(data=bytes(1000)))] * 100)
        began = time.monotonic()
        world.operator.revoke(name)
        ending = peer.ending()
        took_s = time.monotonic() - began
    sys.stdout.write(f"cut {took_s:.2f} s after the revocation\n")
    assert (ending.code, ending.detail) == (REFUSED, "this institution was revoked")
    assert took_s < 5
    assert traitor.node_id not in world.federation.hub.sessions
    answer = world.federation.answer(message_id, wait_s=0)
    assert answer is not None
    assert answer.error.reason == "this institution was revoked"


def test_a_member_revoked_while_connected_reads_why(world: World, tmp_path: Path) -> None:
    operator = Operator(tmp_path / "waiting")
    member = operator.admit("leaver")
    home, said = member.home(tmp_path / "home", operator.port), list[str]()
    with Federation(operator) as federation:
        thread = threading.Thread(target=lambda: said.append(sentence(home)))
        thread.start()
        wait_for(lambda: member.node_id in federation.hub.sessions)
        operator.revoke("leaver")
        thread.join(WAIT_S)
    assert said[0].startswith("error: ")
    assert "this institution was revoked; nothing more was sent; ask the operator" in said[0]


def wait_for(holds: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# The wrong server


@pytest.fixture
def elsewhere(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """Another server of the same kind, its certificate for the hosts a test names."""
    operator = Operator(tmp_path / "elsewhere", request.param)
    with Federation(operator):
        yield operator


@pytest.mark.parametrize("elsewhere", [("127.0.0.1",)], indirect=True)
def test_a_server_of_another_ca_is_not_taken_for_ours(world: World, elsewhere: Operator, tmp_path: Path) -> None:
    said = sentence(world.elm.home(tmp_path / "home", elsewhere.port))
    assert "is not of this federation's CA; nothing was sent" in said


@pytest.mark.parametrize("elsewhere", [("fl.example.org",)], indirect=True)
def test_a_server_whose_certificate_is_for_another_host_is_not_taken_for_ours(
    elsewhere: Operator, tmp_path: Path
) -> None:
    said = sentence(elsewhere.admit("elm").home(tmp_path / "home", elsewhere.port))
    assert "is for other names; nothing was sent" in said


@pytest.mark.parametrize("elsewhere", [("fl.example.org",)], indirect=True)
def test_a_server_whose_certificate_is_for_another_host_never_hears_hello(
    elsewhere: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    member = elsewhere.admit("elm")
    with Peer(member, elsewhere.port, hello()) as peer:
        assert peer.ending().code == grpc.StatusCode.UNAVAILABLE
    assert "elm connected" not in caplog.messages


def test_nobody_listening_says_the_address_and_that_it_goes_on(world: World, tmp_path: Path) -> None:
    port = free_port()
    said = sentence(world.elm.home(tmp_path / "home", port))
    assert said == f"no connection to 127.0.0.1:{port}; trying on by itself"


# Below TLS, and old TLS


def test_a_client_without_tls_is_not_spoken_to(world: World) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{world.port}") as channel:
        call = connect(channel, [hello()], timeout_s=WAIT_S)
        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code() == grpc.StatusCode.UNAVAILABLE


def test_http_without_tls_gets_no_answer_but_the_end(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.port), timeout=WAIT_S) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        received = connection.recv(1024)
    assert b"HTTP" not in received
    assert received[:1] in (b"", b"\x15")  # closed, or a TLS alert


@pytest.mark.parametrize("old", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused_by_the_server(world: World, old: str) -> None:
    with Line(world.port) as line, pytest.warns(DeprecationWarning, match="TLSVersion"), pytest.raises(ssl.SSLError):
        tls(line.port, world.elm, getattr(ssl.TLSVersion, old))
    # The offer went out, so the refusal is the server's and not this side's own.
    assert line.up.passed > 50
    assert line.down.passed == 0


def test_tls_1_2_is_still_spoken(world: World) -> None:
    assert heard(tls(world.port, world.elm, ssl.TLSVersion.TLSv1_2)) != b""
