"""What the operator keeps about contracts and ledgers: no older head is taken, and nobody agrees in another's name."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from lepton_server.agreements import Agreements, Seen
from operators import Federation, Operator
from peers import Member, joined

from lepton_fl.link import signature
from lepton_fl.link.ledger_head import LedgerHead
from lepton_fl.link.signature import Signed
from lepton_fl.v1 import federation_pb2
from lepton_fl.v1.federation_pb2 import ClientFrame, Decision, Signature

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OFFERED = b"{}"  # as `Federation.begin_run` offers it


def digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def at(position: int, line: str = "", ledger: str = "first") -> Seen:
    head = LedgerHead(digest(ledger), position, digest(line or str(position)))
    return Seen(head, float(position), Signed(b"certificate", b"value"))


class Book:
    """An operator's records with one member."""

    def __init__(self, operator: Operator) -> None:
        operator.admit("elm")
        self.path = operator.home.database
        self.agreements = Agreements(self.path)

    def sees(self, seen: Seen) -> bool:
        return self.agreements.see("elm", seen, NOW)

    def position(self) -> int:
        last = self.agreements.last_seen("elm")
        return 0 if last is None else last.head.position

    def notes(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute("SELECT kind, detail FROM events WHERE kind LIKE '%ledger%' ORDER BY rowid").fetchall()


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(Operator(tmp_path / "server"))
    yield made
    made.agreements.close()


def test_a_newer_head_takes_the_place_of_an_older_one_and_the_same_is_taken_again(book: Book) -> None:
    assert [book.sees(at(position)) for position in (1, 4, 4)] == [True, True, True]
    assert book.position() == 4
    assert book.notes() == []


def test_an_older_head_is_not_taken_and_is_noted(book: Book) -> None:
    book.sees(at(4))
    assert not book.sees(at(3))
    assert book.position() == 4
    assert book.notes() == [("ledger put back", "4 3")]


def test_another_entry_at_the_same_position_is_not_taken_and_is_noted(book: Book) -> None:
    book.sees(at(4))
    assert not book.sees(at(4, "otherwise"))
    assert book.agreements.last_seen("elm") == at(4)
    assert book.notes() == [("ledger differs", "4")]


def test_another_ledger_is_taken_and_noted(book: Book) -> None:
    book.sees(at(4))
    assert book.sees(at(1, ledger="second"))
    assert book.agreements.last_seen("elm") == at(1, ledger="second")
    assert book.notes() == [("another ledger", digest("second").hex())]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Member, Member]]:
    """A run of two members, who play by hand."""
    operator = Operator(tmp_path_factory.mktemp("run") / "server")
    elm, oak = operator.admit("elm"), operator.admit("oak")
    with Federation(operator) as federation:
        federation.begin_run(elm, oak)
        yield federation, elm, oak


def decision(federation: Federation, signer: Member, content: bytes = OFFERED) -> ClientFrame:
    """The consent of whoever signs, to the contract that is offered."""
    signed = federation.operator.signer_of(signer).sign(signature.CONTRACT, content)
    told = Signature(certificate=signed.certificate, value=signed.value)
    return ClientFrame(decision=Decision(contract_sha256=sha256(OFFERED).digest(), signature=told))


def test_a_decision_that_another_member_signed_is_refused(run: tuple[Federation, Member, Member]) -> None:
    federation, elm, oak = run
    with joined(elm, federation.operator.port) as peer:
        peer.send(decision(federation, oak))
        ending = peer.ending()
    assert ending.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "is signed by another member" in ending.detail
    assert federation.hub.consent.accepted == set()


def test_a_signature_over_another_contract_is_refused(run: tuple[Federation, Member, Member]) -> None:
    federation, elm, _ = run
    with joined(elm, federation.operator.port) as peer:
        peer.send(decision(federation, elm, b"{} "))
        assert peer.ending().code == grpc.StatusCode.INVALID_ARGUMENT
    assert federation.hub.consent.accepted == set()


@pytest.mark.parametrize(
    "head",
    [
        federation_pb2.LedgerHead(),
        federation_pb2.LedgerHead(ledger=b"l" * 32, position=0, sha256=b"s" * 32),
        federation_pb2.LedgerHead(ledger=b"l" * 31, position=1, sha256=b"s" * 32),
        federation_pb2.LedgerHead(ledger=b"l" * 32, position=1, sha256=b"s" * 33),
        federation_pb2.LedgerHead(ledger=b"l" * 32, position=1 << 53, sha256=b"s" * 32),
    ],
    ids=["empty", "no entry", "short ledger", "long digest", "past counting"],
)
def test_a_head_that_is_none_ends_the_stream_and_is_not_kept(
    run: tuple[Federation, Member, Member], head: federation_pb2.LedgerHead
) -> None:
    federation, elm, _ = run
    with joined(elm, federation.operator.port) as peer:
        peer.send(ClientFrame(ledger_head=head))
        ending = peer.ending()
    assert (ending.code, "head is sent that is none" in ending.detail) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    with closing(Agreements(federation.operator.home.database)) as agreements:
        assert agreements.last_seen("elm") is None
