"""A ledger that is not the one that the operator saw last is noticed at the next stream, and stays noticed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from ledgers import declared
from lepton_client.agent import Agent, Own
from lepton_client.considering import Position
from lepton_client.heads import LedgerPutBack, head_of, seen_of
from lepton_client.home import Home
from lepton_client.ledger import Ledger
from lepton_client.ledger_files import LedgerDamaged
from lepton_client.ledger_repair import Accepted, Decision, accept
from lepton_client.policy import read
from lepton_client.run import _connect
from lepton_server.agreements import Agreements, Seen
from operators import Federation, Operator
from peers import Member, joined

from lepton_fl.link import ledger_head, signature
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.link.ledger_head import LedgerHead
from lepton_fl.link.signature import Signer
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import ClientFrame


def now() -> datetime:
    return datetime.now(UTC)


class Institution:
    """A hospital's home and ledger, and its agent, which comes as far as the contract: nobody signed that here."""

    def __init__(self, member: Member, folder: Path, port: int) -> None:
        self.home: Home = member.home(folder, port)
        self._member, self._port = member, port
        self.folder = folder / "ledger"

    def ledger(self) -> Ledger:
        return Ledger.open(self.folder, now)

    def shows(self) -> LedgerHead:
        """Have the operator countersign the head, by hand."""
        head = head_of(self.ledger())
        assert head is not None
        with joined(self._member, self._port) as peer:
            peer.send(ClientFrame(ledger_head=ledger_head.to_wire(head)))
            assert ledger_head.from_wire(peer.until("countersigned").countersigned.head) == head
        return head

    def connects(self) -> None:
        """The agent has nothing against the ledger."""
        with pytest.raises(BadCertificate, match="there is no signature of"):
            self.connect()

    def connect(self) -> None:
        ledger = self.ledger()
        position = Position(read(self.home.path / "policy.yaml"), {}, ledger, torch.device("cpu"))
        agent = Agent(self.home, Own(DataSource(None, None), position, ledger), lambda point: None)
        _connect(agent, self.home, self.home.addresses[0])

    def spend(self, rounds: int) -> None:
        ledger = self.ledger()
        ledger.declare(declared())
        known = ledger.run("one")
        done = known.rounds if known is not None else 0
        for round in range(done + 1, done + rounds + 1):
            ledger.reserve("one", round, str(round))
            ledger.settle("one", round, 1.0)

    def copy(self, to: str) -> Path:
        return Path(shutil.copytree(self.folder, self.folder.with_name(to)))

    def put_back(self, copy: Path) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)

    def decides(self, forget: bool = True) -> Accepted:
        return accept(self.folder, Decision("the backup of yesterday", "ada", forget), now)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    operator = Operator(tmp_path_factory.mktemp("operator") / "server")
    with Federation(operator) as made:
        made.begin_run(operator.admit("honest"))
        yield made


@pytest.fixture
def elm(federation: Federation, tmp_path: Path) -> Institution:
    member = federation.operator.admit(f"elm {secrets.token_hex(4)}")
    return Institution(member, tmp_path / "elm", federation.operator.port)


def seen(federation: Federation, institution: Institution) -> LedgerHead | None:
    """What the operator's records say about the ledger."""
    agreements = Agreements(federation.operator.home.database)
    try:
        last = agreements.last_seen(institution.home.institution)
    finally:
        agreements.close()
    return None if last is None else last.head


@pytest.fixture
def yesterday(elm: Institution) -> Institution:
    """The operator saw seven entries, and the copy of three is in their place."""
    elm.spend(1)
    copy = elm.copy("yesterday")
    elm.spend(2)
    elm.shows()
    elm.copy("today")
    elm.put_back(copy)
    return elm


def test_a_ledger_that_goes_on_from_what_the_operator_saw_is_not_bothered(elm: Institution) -> None:
    for _ in range(2):
        elm.spend(1)
        elm.connects()  # goes on from what was seen, or from nothing
        assert seen_of(elm.ledger(), elm.shows()) == elm.ledger().head.position
        elm.connects()  # is what was seen
    assert not (elm.folder / "put_back.json").exists()


def test_yesterdays_copy_is_noticed_and_nothing_is_added_to_it(federation: Federation, yesterday: Institution) -> None:
    there = seen(federation, yesterday)
    said = "it ends at entry 3, and the operator countersigned entry 7; nothing was read or sent"
    with pytest.raises(LedgerPutBack, match=said):
        yesterday.connects()
    assert (yesterday.folder / "ledger.jsonl").read_bytes().count(b"\n") == 3
    assert seen(federation, yesterday) == there


def test_a_ledger_put_back_stays_stopped_without_the_server(yesterday: Institution) -> None:
    running = yesterday.ledger()  # of another federation's agent, with the same ledger
    with pytest.raises(LedgerPutBack):
        yesterday.connects()
    named = "entry 7 is not the one that the operator of federation .* countersigned"
    for _ in range(2):
        with pytest.raises(LedgerDamaged, match=named) as caught:
            yesterday.ledger()
        assert caught.value.entry == 7
        with pytest.raises(LedgerDamaged, match=named):
            running.reserve("one", 2, "2")
    assert running.head.position == 3


def test_todays_ledger_brought_back_beside_the_note_is_good_again(yesterday: Institution) -> None:
    with pytest.raises(LedgerPutBack):
        yesterday.connects()
    for file in ("ledger.jsonl", "head.json", "ledger.key"):
        shutil.copy2(yesterday.folder.with_name("today") / file, yesterday.folder / file)
    yesterday.connects()
    yesterday.spend(1)


def test_a_deleted_ledger_is_noticed(yesterday: Institution) -> None:
    shutil.rmtree(yesterday.folder)
    with pytest.raises(LedgerPutBack, match="it ends at entry 0"):
        yesterday.connects()
    with pytest.raises(LedgerDamaged):
        yesterday.ledger()
    assert yesterday.decides(forget=False).spending == "cap"
    yesterday.connects()


def test_after_a_decision_the_next_stream_goes_on_as_a_ledger_of_which_the_operator_saw_nothing(
    federation: Federation, yesterday: Institution
) -> None:
    with pytest.raises(LedgerPutBack):
        yesterday.connects()
    old = seen(federation, yesterday)
    decided = yesterday.decides()
    assert (decided.spending, decided.carried) == ("forgotten", 3)
    assert decided.kept is not None
    assert (decided.kept / "put_back.json").exists()
    ledger = yesterday.ledger()
    # Or a round would be answered before its reservation was seen.
    assert (ledger.head.position, seen_of(ledger, old)) == (4, 0)
    yesterday.connects()
    shown = yesterday.shows()
    assert seen_of(yesterday.ledger(), shown) == shown.position
    yesterday.connects()


def test_the_ledger_that_a_decision_replaced_cannot_come_back(yesterday: Institution) -> None:
    with pytest.raises(LedgerPutBack):
        yesterday.connects()
    yesterday.decides()
    yesterday.shows()
    yesterday.put_back(yesterday.folder.with_name("today"))
    with pytest.raises(LedgerPutBack, match="is not the one that the operator countersigned"):
        yesterday.connects()


def test_a_decision_about_ordinary_damage_is_not_taken_for_a_ledger_put_back(elm: Institution) -> None:
    elm.spend(3)
    elm.shows()
    lines = elm.folder / "ledger.jsonl"
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[::-1]))
    assert elm.decides().spending == "carried"
    elm.connects()
    elm.shows()
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[1:]))  # the first entry is lost
    assert elm.decides().spending == "forgotten"
    elm.connects()
    elm.shows()
    (elm.folder / "ledger.key").unlink()
    assert elm.decides().carried == 0
    elm.connects()


def test_a_countersignature_by_another_key_than_the_operators_is_refused(
    federation: Federation, elm: Institution
) -> None:
    elm.spend(1)
    head = head_of(elm.ledger())
    assert head is not None
    own: Signer = signature.signer(elm.home.key, elm.home.certificate)
    forged = Seen(head, 1.0, ledger_head.countersign(own, elm.home.institution, head, 1.0))
    agreements = Agreements(federation.operator.home.database)
    try:
        assert agreements.see(elm.home.institution, forged, now())
    finally:
        agreements.close()
    with pytest.raises(BadCertificate, match="is signed by another member"):
        elm.connect()
