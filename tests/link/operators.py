"""A real operator in this process: its home, its members, its server, and a run whose work is done by hand."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from lepton_server import home as server_home
from lepton_server.agreements import Offered
from lepton_server.consent import Office
from lepton_server.disk import Records
from lepton_server.enrolment import Enrolment, enrol
from lepton_server.grid import HubGrid, Least
from lepton_server.hub import Hub, Limits, RunTerms
from lepton_server.journal import Inbox, Place
from lepton_server.log import Log
from lepton_server.renewal import Renewal
from lepton_server.runs import Asked, Runs
from lepton_server.serving import Endpoint, Serving
from lepton_server.store import Institution, Store
from peers import WAIT_S, Member, Peer, reply_parts

from lepton_fl.flower import ConfigRecord, Message, RecordDict
from lepton_fl.link import certificates, invitation, signature
from lepton_fl.link.certificates import Authority, to_pem, write_key
from lepton_fl.link.signature import Signed, Signer
from lepton_fl.v1.enrolment_pb2 import EnrollRequest

REPLY_BYTES = 32 << 20


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def office_of(home: server_home.Home) -> Office:
    """What this operator signs and checks with."""
    return Office(home.signer(_now()), home.authority().certificate, _now)


class Operator:
    """An initialised home of a server, and the credentials of those it admitted."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ("127.0.0.1",)) -> None:
        if not folder.exists():
            addresses = server_home.Addresses(hosts, free_port(), free_port())
            server_home.init(folder, "cardiology", addresses, _now())
        self.home = server_home.open_home(folder)
        self.authority = self.home.authority()

    @property
    def port(self) -> int:
        """The federation's, with mutual TLS."""
        return self.home.addresses.port

    def store(self) -> Store:
        """A connection to the list of members; the caller closes it."""
        return Store(self.home.database)

    def records(self) -> Records:
        """What a hub keeps open; it closes both."""
        return Records.of(self.home.database)

    def admit(self, name: str, when: datetime | None = None, signer: Authority | None = None) -> Member:
        """An enrolled member; with a `signer`, one whose certificate came from elsewhere."""
        when, key, secret = when or _now(), certificates.new_key(), invitation.new_secret()
        request = certificates.request_certificate(key)
        store = self.store()
        try:
            store.invite(name, secret, when + timedelta(days=1), when)
            _, certificate = enrol(
                store, self.authority, EnrollRequest(secret=secret, certificate_request=request), when
            )
            member = store.member(certificates.key_hash(key.public_key()))
        finally:
            store.close()
        assert member is not None
        if signer is not None:
            certificate = to_pem(certificates.sign_institution(signer, request, name, when))
        path = self.home.path / f"{name}.key"
        write_key(path, key)
        return Member(name, member.node_id, to_pem(self.authority.certificate), path.read_bytes(), certificate)

    def signer_of(self, member: Member) -> Signer:
        """What this member signs with."""
        key = self.home.path / f"{member.name}.key"
        certificate = key.with_suffix(".pem")
        certificate.write_bytes(member.certificate)
        return signature.signer(key, certificate)

    def revoke(self, name: str) -> None:
        """As `lepton-server revoke`."""
        store = self.store()
        try:
            store.revoke(name, _now())
        finally:
            store.close()


class Federation:
    """An operator's server in this process, from `with` to its end; the run begins when a test says so."""

    def __init__(
        self, operator: Operator, limits: Limits | None = None, open_log: Callable[[], Log] | None = None
    ) -> None:
        self.operator = operator
        renewal = Renewal(operator.store, operator.authority, _now)
        self.hub = Hub(
            operator.records,
            limits or Limits(quorum_s=30.0, round_s=30.0, grace_s=30.0),
            renewal,
            office_of(operator.home),
            open_log,
        )
        enrolment = Enrolment(operator.store, operator.authority, [], _now)
        home = operator.home
        self._serving = Serving(
            self.hub,
            enrolment,
            Endpoint(
                federation=f"127.0.0.1:{home.addresses.port}",
                enrolment=f"127.0.0.1:{home.addresses.enrolment_port}",
                credentials=home.server_credentials(_now()),
                ca=to_pem(operator.authority.certificate),
            ),
        )

    def __enter__(self) -> Federation:
        self._serving.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hub.end_run("the test is over")  # who hears it leaves, and the server waits for nobody
        self._serving.stop()

    def begin_run(self, *members: Member | Institution, reply_bytes: int = 1 << 20) -> None:
        """A run of these members whose terms say nothing: a client by hand does not train."""
        names, home = [member.name for member in members], self.operator.home
        runs = Runs(home.database)
        run_id = runs.begin(Asked("{}", "", tuple(names), planned=1), _now()).run_id
        runs.close()
        place = Place(run_id, home.checkpoints / str(run_id), lambda point: None)
        terms = RunTerms(
            run_id, Offered(b"{}", Signed(b"", b"")), reply_bytes, lambda: Inbox(Runs(home.database), place)
        )
        self.grid = HubGrid(self.hub, run_id, {member.node_id: member.name for member in members}, Least(1, 1))
        self.hub.begin_run(terms)

    def ask(self, member: Member | Institution, size: int = 0) -> str:
        """Owe this member an instruction of about so many bytes; returns its id."""
        (message_id,) = self.grid.push_messages([self.message(member, size)])
        return str(message_id)

    def message(self, member: Member | Institution, size: int = 0) -> Message:
        """An instruction that is not sent yet, unlike every other: the same question would be the same instruction."""
        content = RecordDict({"config": ConfigRecord({"filler": secrets.token_bytes(16) + bytes(size)})})
        return self.grid.create_message(content, "train", member.node_id, "1")

    def answer(self, message_id: str, wait_s: float = WAIT_S) -> Message | None:
        """The answer that was taken, each once; None if none came for so long."""
        end = time.monotonic() + wait_s
        while True:
            for message in self.grid.pull_messages([message_id]):
                return message
            if time.monotonic() >= end:
                return None
            time.sleep(0.01)

    def value(self, message_id: str) -> int | None:
        """What the answer says; None if none came, or an error."""
        message = self.answer(message_id)
        return None if message is None or message.has_error() else told(message)

    def tasks(self) -> int:
        """How many run in the server's event loop."""
        assert self.hub._loop is not None
        return len(asyncio.all_tasks(self.hub._loop))

    def works_with(self, member: Member, peer: Peer) -> bool:
        """One instruction goes out and its own answer comes back."""
        return completes(peer, lambda: self.ask(member), self.value)


def completes(peer: Peer, ask: Callable[[], str], value: Callable[[str], int | None]) -> bool:
    """Ask over one side and answer on the other; true if the very answer arrived and was acknowledged."""
    asked, answer = ask(), secrets.randbits(60)
    while (heard := peer.instruction()) != asked:
        pass  # an instruction given up before
    peer.reply(heard, reply_parts(answer))
    return peer.until("ack").ack.reply_to_message_id == asked and value(asked) == answer


def told(message: Message) -> int:
    """The value in an honest reply."""
    return int(message.content.metric_records["metrics"]["value"])


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class World:
    """A server with a run, an honest institution on a stream that stays open, and one that tests play."""

    operator: Operator
    federation: Federation
    honest: Member
    beside: Peer
    elm: Member

    @property
    def port(self) -> int:
        """The federation's."""
        return self.operator.port
