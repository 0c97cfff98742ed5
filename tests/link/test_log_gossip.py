"""The operator's log over real streams: shown before work, countersigned, relayed; a split view is noticed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agreed import Institution, arrays_of, institution, now
from federations import write_rows
from lepton_client.log_heads import LogRefused
from lepton_server.agreements import Agreements, Offered
from lepton_server.grid import HubGrid, Least
from lepton_server.hub import RunTerms
from lepton_server.journal import Inbox, Place
from lepton_server.log import Log
from lepton_server.runs import Asked, Runs
from logs import sha256
from operators import REPLY_BYTES, Federation, Operator
from peers import Member, hello, joined
from proposals import terms
from served import until

from lepton_fl.evidence import note
from lepton_fl.evidence.checking import HEADS, read_heads
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.evidence.verify import verify
from lepton_fl.federation.arrays import sha256_of
from lepton_fl.federation.contract import (
    COHORT_KEY,
    CONTRACT_KEY,
    Contract,
    Parties,
    Purpose,
    digest,
    offer,
    to_bytes,
)
from lepton_fl.flower import ArrayRecord, ConfigRecord, RecordDict
from lepton_fl.link import signature
from lepton_fl.link.certificates import key_hash
from lepton_fl.privacy.units import NoPrivacy

TERMS = terms(privacy=NoPrivacy())


@dataclass
class Logged:
    """An operator that keeps a log, two institutions, and a run that both can agree to."""

    operator: Operator
    members: dict[str, Member]
    run_id: int
    contract: Contract
    arrays: ArrayRecord = field(default_factory=lambda: arrays_of(TERMS))

    @contextmanager
    def serving(self, is_shown: bool = True) -> Iterator[Federation]:
        """The operator's server, from its first connection to its end, with its log or as if there were none."""
        open_log = (lambda: Log(self.operator.home)) if is_shown else None
        with Federation(self.operator, open_log=open_log) as federation:
            place = Place(self.run_id, self.operator.home.checkpoints / str(self.run_id), lambda point: None)
            content = to_bytes(self.contract)
            offered = Offered(content, self.operator.home.signer(now()).sign(signature.CONTRACT, content))
            self.with_agreements(
                lambda agreements: agreements.offered(self.run_id) or agreements.offer(self.run_id, offered)
            )
            terms = RunTerms(self.run_id, offered, REPLY_BYTES, lambda: Inbox(Runs(self.operator.home.database), place))
            federation.hub.begin_run(terms)
            names = {member.node_id: name for name, member in self.members.items()}
            federation.grid = HubGrid(federation.hub, self.run_id, names, Least(1, 1))
            yield federation

    def with_agreements(self, act: Callable[[Agreements], object]) -> None:
        agreements = Agreements(self.operator.home.database)
        try:
            act(agreements)
        finally:
            agreements.close()

    def enter_round(self, round: int, model: str | None = None) -> None:
        """The log has this round of the run, with the model that institutions are sent, or another one."""
        log = Log(self.operator.home)
        model = model or sha256_of({name: array.numpy() for name, array in self.arrays.items()}).hex()
        fields = {"run": str(self.run_id), "round": round, "model": model, "cohort": [], "replied": []}
        log.append("round", {**fields, "refused": {}, "skipped": False, "epsilon": None})
        log.close()

    def ask(self, federation: Federation, name: str, round: int) -> str:
        """Owe the institution the training of this round."""
        said = {"server-round": round, CONTRACT_KEY: digest(self.contract), COHORT_KEY: 2}
        content = RecordDict({"arrays": self.arrays, "config": ConfigRecord(said)})
        message = federation.grid.create_message(content, "train", self.members[name].node_id, str(round))
        (message_id,) = federation.grid.push_messages([message])
        return str(message_id)

    def log(self) -> Log:
        return Log(self.operator.home)

    def rewrite(self, position: int) -> None:
        """The operator edits its own records."""
        with closing(sqlite3.connect(self.operator.home.database)) as db, db:
            other = Entry("revoked", now(), {"institution": "nobody"}).to_bytes()
            db.execute("UPDATE log_entries SET content = ? WHERE position = ?", (other, position))


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    operator = Operator(tmp_path / "server")
    members = {name: operator.admit(name) for name in ("elm", "oak")}
    runs = Runs(operator.home.database)
    run_id = runs.begin(Asked("{}", "", ("elm", "oak"), planned=3), now()).run_id
    runs.close()
    log = Log(operator.home)
    who = Parties(("elm", "oak"), 1, {}, log.public)
    log.close()
    federation = key_hash(operator.authority.certificate.public_key()).hex()
    made = Logged(operator, members, run_id, offer(TERMS, run_id, federation, who, Purpose("a test", 1, "")))
    made.enter_round(0)
    write_rows(tmp_path / "data.csv", ["Cleveland"])
    return made


def agent(logged: Logged, name: str, tmp_path: Path) -> Institution:
    return institution(logged.members[name], tmp_path / name, tmp_path / "data.csv", logged.operator.port)


def connect(federation: Federation, one: Institution) -> None:
    one.connect()
    until(lambda: one.home.institution in federation.hub.consent.accepted)
    until(lambda: one.home.institution in federation.hub.present().values())


def heads(one: Institution) -> list[int]:
    return [note.read(kept).checkpoint.size for kept in read_heads(one.home.path / HEADS)]


def test_each_round_shows_the_log_and_what_each_saw_is_in_the_bundle(logged: Logged, tmp_path: Path) -> None:
    elm, oak = agent(logged, "elm", tmp_path), agent(logged, "oak", tmp_path)
    with logged.serving() as federation:
        for one in (elm, oak):
            connect(federation, one)
        for round in (1, 2):
            for name in ("elm", "oak"):
                assert not federation.answer(logged.ask(federation, name, round)).has_error()
            logged.enter_round(round)
        # Two institutions came, then the key, round 0, the run and two decisions; then a round.
        assert heads(elm) == heads(oak) == [7, 8]
        log = logged.log()
        until(lambda: len(log.last_heads()) == 2)
        found = verify(log.bundle(), logged.operator.authority.certificate, read_heads(elm.home.path / HEADS))
        log.close()
    assert found.problems == ()
    assert {one.rsplit(", ", 1)[0] for one in found.signed} >= {
        "the log's own head has 9 entries and agrees",
        "the head that elm countersigned has 8 entries and agrees",
        "the head that oak countersigned has 8 entries and agrees",
    }


def test_a_split_view_is_noticed_at_the_next_exchange_of_heads(logged: Logged, tmp_path: Path) -> None:
    elm, oak = agent(logged, "elm", tmp_path), agent(logged, "oak", tmp_path)
    with logged.serving() as federation:
        connect(federation, elm)
        assert not federation.answer(logged.ask(federation, "elm", 1)).has_error()
        until(lambda: heads(elm) == [6])
        until(lambda: "elm" in logged.log().last_heads())
    logged.rewrite(1)
    with logged.serving() as federation:
        connect(federation, elm)
        connect(federation, oak)
        logged.ask(federation, "oak", 1)
        refused = oak.over()
        assert isinstance(refused, LogRefused)
        assert "elm was shown another log of 6 entries" in str(refused)
        assert heads(oak) == []
        # And whoever saw the other one notices it by itself.
        logged.ask(federation, "elm", 2)
        refused = elm.over()
        assert isinstance(refused, LogRefused)
        assert "do not go on from the 6 that were there before" in str(refused)


def test_a_log_that_lost_its_end_is_noticed(logged: Logged, tmp_path: Path) -> None:
    elm = agent(logged, "elm", tmp_path)
    with logged.serving() as federation:
        connect(federation, elm)
        assert not federation.answer(logged.ask(federation, "elm", 1)).has_error()
    with closing(sqlite3.connect(logged.operator.home.database)) as db, db:
        db.execute("DELETE FROM log_entries WHERE position > 3")
    with logged.serving() as federation:
        connect(federation, elm)
        logged.ask(federation, "elm", 2)
        refused = elm.over()
    assert isinstance(refused, LogRefused)
    assert "it has 4 entries, and had 6 before" in str(refused)


def test_a_round_that_the_log_withholds_is_not_followed(logged: Logged, tmp_path: Path) -> None:
    elm = agent(logged, "elm", tmp_path)
    with logged.serving() as federation:
        connect(federation, elm)
        assert not federation.answer(logged.ask(federation, "elm", 1)).has_error()
        logged.ask(federation, "elm", 2)
        refused = elm.over()
    assert isinstance(refused, LogRefused)
    assert "asks for round 2, and its log ends with round 0" in str(refused)


def test_a_model_that_is_not_the_one_in_the_log_is_not_trained(logged: Logged, tmp_path: Path) -> None:
    elm = agent(logged, "elm", tmp_path)
    logged.enter_round(1, sha256("another model"))
    with logged.serving() as federation:
        connect(federation, elm)
        logged.ask(federation, "elm", 2)
        refused = elm.over()
    assert isinstance(refused, LogRefused)
    assert "the model that came is not the one of round 1 in the operator's log" in str(refused)


def test_work_without_the_log_that_the_contract_promises_is_refused(logged: Logged, tmp_path: Path) -> None:
    elm = agent(logged, "elm", tmp_path)
    with logged.serving(is_shown=False) as federation:
        connect(federation, elm)
        logged.ask(federation, "elm", 1)
        refused = elm.over()
    assert isinstance(refused, LogRefused)
    assert "without showing its log" in str(refused)


def test_a_head_that_the_institution_did_not_countersign_ends_its_stream(logged: Logged) -> None:
    from lepton_fl.v1.federation_pb2 import ClientFrame, Cosigned

    head = logged.log().head().note.to_bytes()
    with logged.serving(), joined(logged.members["elm"], logged.operator.port, hello()) as peer:
        peer.send(ClientFrame(cosigned=Cosigned(note=head)))
        assert "did not countersign" in peer.ending().detail
    with logged.serving(), joined(logged.members["elm"], logged.operator.port, hello()) as peer:
        peer.send(ClientFrame(cosigned=Cosigned(note=b"hello")))
        assert "no head of a log" in peer.ending().detail
