"""An institution's real agent in this process, and an operator whose contracts and instructions are made by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import torch
from federations import PUBLIC_POLICY, call
from lepton_client.agent import Agent, Own
from lepton_client.considering import Position
from lepton_client.home import Home
from lepton_client.ledger import Ledger
from lepton_client.policy import read
from lepton_client.stream import Ended
from lepton_server.agreements import Agreements, Offered
from lepton_server.grid import HubGrid, Least
from lepton_server.hub import RunTerms
from lepton_server.journal import Inbox, Place
from lepton_server.runs import Asked, Runs
from operators import Federation, Operator
from peers import WAIT_S, Member
from served import until

from lepton_fl.federation.arrays import to_arrays
from lepton_fl.federation.contract import COHORT_KEY, CONTRACT_KEY, Contract, Parties, Purpose, digest, offer, to_bytes
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import ArrayRecord, ConfigRecord, Message, RecordDict
from lepton_fl.link import signature
from lepton_fl.link.certificates import key_hash
from lepton_fl.link.signature import Signer
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import ClientFrame

REPLY_BYTES = 1 << 20


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Institution:
    """An agent that serves one connection in a thread of its own."""

    home: Home
    agent: Agent
    ledger: Ledger
    ended: list[Ended | BaseException] = field(default_factory=list)
    thread: threading.Thread | None = None

    def connect(self, *interceptors: grpc.StreamStreamClientInterceptor) -> None:
        """Serve from now on, until the stream is over or this institution refuses."""
        self.thread = threading.Thread(target=self._serve, args=interceptors, daemon=True)
        self.thread.start()

    def over(self) -> Ended | BaseException:
        """How the connection ended."""
        assert self.thread is not None
        self.thread.join(WAIT_S)
        return self.ended[-1]

    def _serve(self, *interceptors: grpc.StreamStreamClientInterceptor) -> None:
        ca, key, certificate = self.home.credentials()
        credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        try:
            with grpc.secure_channel(self.home.addresses[0], credentials) as channel:
                self.agent.standing.calls(self.home.addresses[0])
                self.ended.append(self.agent.connect(grpc.intercept_channel(channel, *interceptors)))
        except BaseException as error:
            self.ended.append(error)


def institution(member: Member, path: Path, data: Path, port: int, policy: str = PUBLIC_POLICY) -> Institution:
    """A member's home with this policy, and its agent."""
    home = member.home(path, port)
    (path / "policy.yaml").write_text(policy)
    ledger = Ledger.open(path / "ledger", now)
    position = Position(read(path / "policy.yaml"), {}, ledger, torch.device("cpu"))
    own = Own(DataSource(str(data), None), position, ledger)
    return Institution(home, Agent(home, own, lambda point: None), ledger)


@dataclass
class Run:
    """A run that an operator began with a contract."""

    operator: Operator
    federation: Federation
    run_id: int
    grid: HubGrid
    member: Member

    def __post_init__(self) -> None:
        self.federation.grid = self.grid

    def contract(self, asked: Terms, least_cohort: int = 1, institutions: tuple[str, ...] = ("elm", "oak")) -> Contract:
        """The contract of this run for these terms, under which the operator sees each update."""
        return self.contract_of(asked, Parties(institutions, least_cohort, {}))

    def contract_of(self, asked: Terms, who: Parties) -> Contract:
        """The contract of this run for these terms and parties."""
        federation = key_hash(self.operator.authority.certificate.public_key()).hex()
        return offer(asked, self.run_id, federation, who, Purpose("a test", 1, ""))

    def offer(self, contract: Contract, signer: Signer | None = None) -> None:
        """Put this contract before every institution; with a `signer`, under another's signature."""
        content, home = to_bytes(contract), self.operator.home
        offered = Offered(content, (signer or home.signer(now())).sign(signature.CONTRACT, content))
        agreements = Agreements(home.database)
        if agreements.offered(self.run_id) is None:
            agreements.offer(self.run_id, offered)
        agreements.close()
        place = Place(self.run_id, home.checkpoints / str(self.run_id), lambda point: None)
        self.federation.hub.begin_run(
            RunTerms(self.run_id, offered, REPLY_BYTES, lambda: Inbox(Runs(home.database), place))
        )

    def ask(self, kind: str, contract: Contract, arrays: ArrayRecord, config: Mapping[str, Any] | None = None) -> str:
        """Owe the member an instruction; returns its id."""
        said = {"server-round": 1, CONTRACT_KEY: digest(contract), COHORT_KEY: 2, **(config or {})}
        content = RecordDict({"arrays": arrays, "config": ConfigRecord(said)})
        message = self.grid.create_message(content, kind, self.member.node_id, "1")
        (message_id,) = self.grid.push_messages([message])
        return str(message_id)

    def answer(self, message_id: str) -> Message:
        """The answer, which must come."""
        found = self.federation.answer(message_id)
        assert found is not None
        return found


class Capture(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]
    """Keeps every frame that goes out, as bytes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Any) -> Any:
        """See gRPC."""
        return continuation(details, self._kept(requests))

    def _kept(self, requests: Iterator[ClientFrame]) -> Iterator[ClientFrame]:
        for frame in requests:
            self.frames.append(frame.SerializeToString())
            yield frame


def reconnect(elm: Institution, *interceptors: grpc.StreamStreamClientInterceptor) -> None:
    """A new stream is open; gRPC may say for a moment that there is no way."""

    def is_open() -> bool:
        if elm.thread is None or not elm.thread.is_alive():
            elm.connect(*interceptors)
        return elm.agent.standing.known.connected_at is not None

    until(is_open)


def left(elm: Institution, run: Run) -> list[dict[str, Any]]:
    """What the privacy officer's command says of this run."""
    done = call("lepton-client", "ledger", "--left", "--json", "--home", str(elm.home.path), cwd=elm.home.path)
    assert done.returncode == 0, done.stderr
    return [row for row in json.loads(done.stdout)["left"] if row["run"] == str(run.run_id)]


def arrays_of(asked: Terms) -> ArrayRecord:
    """A model of these terms, freshly initialised."""
    return to_arrays(asked.model.build(asked.task.shape()))


@contextmanager
def begun(path: Path) -> Iterator[Run]:
    """An operator with one member and a run that nobody was told of yet."""
    operator = Operator(path / "server")
    member = operator.admit("elm")
    with Federation(operator) as federation:
        runs = Runs(operator.home.database)
        run_id = runs.begin(Asked("{}", "", ("elm",), planned=1), now()).run_id
        runs.close()
        grid = HubGrid(federation.hub, run_id, {member.node_id: member.name}, Least(1, 1))
        yield Run(operator, federation, run_id, grid, member)
