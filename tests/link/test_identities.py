"""The operator takes an institution's key for secure aggregation only from the holder of the stream's certificate."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
from operators import Federation, Operator
from peers import Ending, Member, Peer, hello, joined

from lepton_fl.link import certificates, signature
from lepton_fl.link.signature import Signer
from lepton_fl.v1.federation_pb2 import Identity, Signature

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Member, Member]]:
    """A run of two members, who play by hand."""
    operator = Operator(tmp_path_factory.mktemp("run") / "server")
    elm, oak = operator.admit("elm"), operator.admit("oak")
    with Federation(operator) as federation:
        federation.begin_run(elm, oak)
        yield federation, elm, oak


def identity(
    federation: Federation, signer: Member, key: bytes = KEY, signed_key: bytes = KEY, domain: str = signature.IDENTITY
) -> Identity:
    """This key, with the member's signature over one, as a hello has it."""
    signed = federation.operator.signer_of(signer).sign(domain, signed_key)
    return Identity(public_key=key, signature=Signature(certificate=signed.certificate, value=signed.value))


def test_a_key_that_the_streams_certificate_signed_is_the_institutions(run: tuple[Federation, Member, Member]) -> None:
    federation, elm, oak = run
    with joined(elm, federation.operator.port, hello(identity=identity(federation, elm))):
        assert federation.hub.identities(["elm", "oak"]) == {"elm": KEY}
    with joined(oak, federation.operator.port):
        assert federation.hub.identities(["oak"]) == {}  # an institution without one is a member all the same


@pytest.mark.parametrize(
    ("signer", "changes", "said"),
    [
        ("elm", {}, "is signed by another member"),
        ("oak", {"key": KEY[:31], "signed_key": KEY[:31]}, "an identity is sent that is no key"),
        ("oak", {"key": KEY + b"k", "signed_key": KEY + b"k"}, "an identity is sent that is no key"),
        ("oak", {"signed_key": KEY[::-1]}, "what should be signed by"),
        ("oak", {"domain": signature.CONTRACT, "signed_key": KEY}, "what should be signed by"),
    ],
    ids=["another member's", "31 bytes", "33 bytes", "over another key", "for another purpose"],
)
def test_a_key_that_it_did_not_sign_ends_the_stream_and_is_not_kept(
    run: tuple[Federation, Member, Member], signer: str, changes: dict[str, bytes], said: str
) -> None:
    federation, elm, oak = run
    told = identity(federation, {"elm": elm, "oak": oak}[signer], **changes)  # type: ignore[arg-type]
    with Peer(oak, federation.operator.port, hello(identity=told)) as peer:
        ending = peer.receive()  # before anything else
    assert isinstance(ending, Ending)
    assert ending.code == grpc.StatusCode.INVALID_ARGUMENT
    assert said in ending.detail
    assert "oak" not in federation.hub.identities(["oak"])
    assert not [one for one in federation.hub.sessions.values() if one.member.name == "oak"]


def test_a_key_that_another_certificate_of_the_same_institution_signed_ends_the_stream(
    run: tuple[Federation, Member, Member],
) -> None:
    """A certificate of the same name whose key somebody else may hold, say one from before a new enrolment."""
    federation, _, oak = run
    key, authority = certificates.new_key(), federation.operator.authority
    request = certificates.request_certificate(key)
    older = certificates.sign_institution(authority, request, "oak", datetime.now(UTC))
    signed = Signer(key, older).sign(signature.IDENTITY, KEY)
    told = Identity(public_key=KEY, signature=Signature(certificate=signed.certificate, value=signed.value))
    with Peer(oak, federation.operator.port, hello(identity=told)) as peer:
        ending = peer.receive()  # before anything else
    assert isinstance(ending, Ending)
    assert ending.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "another key than this stream's" in ending.detail
    assert federation.hub.identities(["oak"]) == {}


def test_a_key_without_a_signature_ends_the_stream(run: tuple[Federation, Member, Member]) -> None:
    federation, _, oak = run
    with Peer(oak, federation.operator.port, hello(identity=Identity(public_key=KEY))) as peer:
        ending = peer.receive()
    assert isinstance(ending, Ending)
    assert ending.code == grpc.StatusCode.INVALID_ARGUMENT
    assert federation.hub.identities(["oak"]) == {}
