"""Who is no member gets nothing from the federation's port, whatever certificate is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from federations import Federation
from lepton_server.home import open_home

from lepton_fl.link import frames
from lepton_fl.link.certificates import (
    Authority,
    new_authority,
    new_key,
    request_certificate,
    sign_institution,
    sign_server,
    to_pem,
)
from lepton_fl.v1.federation_pb2 import ClientFrame, Hello
from lepton_fl.v1.federation_pb2_grpc import FederationStub

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a server that waits for an institution; nobody who is refused changes anything for the next one."""
    federation = Federation(tmp_path_factory.mktemp("strangers"))
    try:
        federation.invite("Cleveland")
        federation.serve("rounds=1", "quorum_s=600")
        federation.wait_for("server.log", "waiting for 1 institution")
        yield federation.folder / "server"
    finally:
        federation.end()


def port_of(home: Path) -> int:
    return int(json.loads((home / "server.json").read_text())["port"])


def refusal(home: Path, key: bytes | None, certificate: bytes | None) -> grpc.StatusCode:
    """How the server ends a stream that says hello with these credentials."""
    credentials = grpc.ssl_channel_credentials((home / "ca" / "ca.pem").read_bytes(), key, certificate)

    def hello() -> Iterator[ClientFrame]:
        yield ClientFrame(hello=Hello(protocol=frames.PROTOCOL, lepton_version="0"))

    with grpc.secure_channel(f"127.0.0.1:{port_of(home)}", credentials) as channel:
        heard = []
        with pytest.raises(grpc.RpcError) as caught:
            heard.extend(FederationStub(channel).Connect(hello(), timeout=20))
        assert heard == []
        return caught.value.code()


def issued(authority: Authority, now: datetime, purpose: str = "institution") -> tuple[bytes, bytes]:
    key = new_key()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if purpose == "server":
        return pem, to_pem(sign_server(authority, key.public_key(), ["localhost"], now))
    return pem, to_pem(sign_institution(authority, request_certificate(key), "Cleveland", now))


def test_without_a_certificate_there_is_no_stream(home: Path) -> None:
    assert refusal(home, None, None) == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_of_the_same_name_is_refused(home: Path) -> None:
    assert refusal(home, *issued(new_authority("lepton federation", NOW), NOW)) == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_ended_is_refused(home: Path) -> None:
    ended = issued(open_home(home).authority(), NOW - timedelta(days=31))
    assert refusal(home, *ended) == grpc.StatusCode.UNAVAILABLE


def test_a_servers_certificate_is_refused(home: Path) -> None:
    assert refusal(home, *issued(open_home(home).authority(), NOW, "server")) == grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_the_authority_for_a_key_that_never_enrolled_is_refused(home: Path) -> None:
    assert refusal(home, *issued(open_home(home).authority(), NOW)) == grpc.StatusCode.PERMISSION_DENIED


def test_without_tls_there_is_no_stream(home: Path) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port_of(home)}") as channel, pytest.raises(grpc.RpcError) as caught:
        list(FederationStub(channel).Connect(iter([ClientFrame(hello=Hello())]), timeout=20))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
