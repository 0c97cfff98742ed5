"""The hub: every institution's stream, and what is owed on it.

gRPC runs in a thread of its own with one event loop; the strategy runs in the caller's thread. Between them stands the
table of what is owed. An institution that loses its connection keeps its instruction for `grace_s`, and each side goes
on with a transfer where the other has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from lepton_fl.errors import LeptonError
from lepton_fl.flower import Message
from lepton_fl.link import energy_frame, frames
from lepton_fl.link.certificates import key_hash
from lepton_fl.link.energy_frame import Told
from lepton_fl.link.frames import BadFrame, Parts
from lepton_fl.link.ledger_head import from_wire
from lepton_fl.v1.federation_pb2 import (
    Begin,
    ClientFrame,
    Hello,
    ProbeReply,
    ProbeRequest,
    RenewReply,
    RenewRequest,
    ServerFrame,
    Signature,
    Welcome,
)
from lepton_fl.v1.federation_pb2_grpc import FederationServicer
from lepton_server import supervision
from lepton_server.agreements import Offered
from lepton_server.consent import Consent, Office
from lepton_server.disk import Disk, Records
from lepton_server.energy import EnergyBook
from lepton_server.gossip import Gossip
from lepton_server.intake import Intake
from lepton_server.journal import Inbox
from lepton_server.log import Log
from lepton_server.owing import Owing, owed_by
from lepton_server.presence import Presence
from lepton_server.renewal import NOT_A_MEMBERS, Renewal, peer_certificate
from lepton_server.session import Session, frames_of, goodbye, heartbeat

_log = logging.getLogger(__name__)
_HELLO_S = 10.0
_FAREWELL_S = 5.0  # for a stream that ends to take notice
_GLANCE_S = 0.01
_REPLACED = "another process connected with this certificate"


@dataclass(frozen=True)
class Limits:
    """How long the hub waits."""

    quorum_s: float  # for enough institutions to be connected
    round_s: float  # for the answers of one round
    grace_s: float  # for an institution that lost its connection


@dataclass(frozen=True)
class RunTerms:
    """What every institution of a run is told, and where its replies are kept."""

    run_id: int
    offered: Offered  # the contract, signed
    reply_bytes: int  # the most a reply's arrays can have
    open_inbox: Callable[[], Inbox]


class Hub(FederationServicer):
    """Every stream, and what is owed on it."""

    def __init__(
        self,
        open_records: Callable[[], Records],
        limits: Limits,
        renewal: Renewal,
        office: Office,
        open_log: Callable[[], Log] | None = None,
    ) -> None:
        """Args:
        open_log: None where no contract promises a log.
        """
        self.limits = limits
        self.owing = Owing(limits.grace_s)
        self.sessions: dict[int, Session] = {}  # changed in the event loop, with owing.changed held
        self._renewal, self._now = renewal, renewal.clock
        self._run: RunTerms | None = None
        self.sent_bytes = 0  # in frames, since the start; written by the loop's thread alone
        self.received_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._disk = Disk(open_records)
        self._intake = Intake(self.owing, self._disk)
        self.consent = Consent(self.owing, self._disk, office)
        self._gossip = None if open_log is None else Gossip(open_log, self._disk)
        self.energy = EnergyBook()
        self._known: dict[int, str] = {}  # who was connected since this process began
        self._identities: dict[str, bytes] = {}  # their public keys for secure aggregation

    # -- called from the strategy's thread

    def begin_run(self, run: RunTerms) -> None:
        """Offer every connected institution the run's contract, and each one that connects later."""
        self.consent.begin_run(run.run_id, run.offered)
        self._intake.begin_run(self._disk.wait(lambda _: run.open_inbox()), run.reply_bytes)
        with self.owing.changed:
            self._run = run
            sessions = list(self.sessions.values())
        for session in sessions:
            self._post(session, self._welcome(session, run))

    def present(self) -> dict[int, str]:
        """Who can be asked: accepted the contract, and connected or away for no longer than the grace.

        Returns:
            Node id to institution.
        """
        with self.owing.changed:
            here = {node_id: name for node_id, name in self._known.items() if not self.owing.is_away(node_id)}
            return {node_id: name for node_id, name in here.items() if name in self.consent.accepted}

    def identities(self, institutions: Collection[str]) -> dict[str, bytes]:
        """The public keys of these institutions for secure aggregation, of those that told one."""
        with self.owing.changed:
            return {name: self._identities[name] for name in institutions if name in self._identities}

    def undecided(self, institutions: Collection[str]) -> set[str]:
        """Which of these have the contract before them, and have not said yet."""
        with self.owing.changed:
            here = {name for node_id, name in self._known.items() if not self.owing.is_away(node_id)}
            return (here & {*institutions}) - self.consent.accepted - self.consent.refused.keys()

    def push(self, message: Message, parts: Parts) -> str:
        """Owe an institution this message; it goes out now or when the institution is back.

        Args:
            parts: the message, encoded; a round's instructions share them.
        """
        run, node_id = self._run, message.metadata.dst_node_id
        if run is None:
            raise RuntimeError("no run has begun")
        owed = owed_by(node_id, run.run_id, message, parts)
        if self._gossip is not None:
            self._gossip.look(run.run_id)
        taken = self._intake.taken(owed.message_id)
        if taken is not None:
            self.owing.put(owed.message_id, owed.decoded(taken))
            return owed.message_id
        refused = self.consent.refused.get(self._known.get(node_id, ""))
        if refused is not None:
            self.owing.put(owed.message_id, owed.failed(f"it refused the contract: {refused}"))
            return owed.message_id
        with self.owing.changed:
            self.owing.owe(node_id, owed)
            session = self.sessions.get(node_id)
        if session is not None:
            self._post(session, session.announcement(owed.message_id, owed.parts, None))
        return owed.message_id

    def revoked(self) -> set[int]:
        """Node ids of former members, as the records say now."""
        return self._disk.wait(lambda records: records.store.revoked_nodes())

    def end_run(self, reason: str) -> None:
        """Say goodbye to everybody."""
        with self.owing.changed:
            self._run = None
            sessions = list(self.sessions.values())
        for session in sessions:
            self._post(session, goodbye(reason))

    def _post(self, session: Session, item: ServerFrame | tuple[Begin, Parts]) -> None:
        assert self._loop is not None  # noqa: S101 - serving has begun
        self._loop.call_soon_threadsafe(self._offer, session, item)

    # -- in the event loop

    def begin_serving(self) -> None:
        """Start to look after streams; in the event loop that serves them."""
        self._loop = asyncio.get_running_loop()
        self._supervisor = self._loop.create_task(self._supervise())

    async def said(self, patience_s: float) -> None:
        """Nothing that was posted waits in an outbox any more, or so long has passed."""
        end = time.monotonic() + patience_s
        while any(session.outbox for session in self.sessions.values()) and time.monotonic() < end:
            await asyncio.sleep(_GLANCE_S)

    async def end_serving(self) -> None:
        """Nothing of the hub runs any more."""
        self._supervisor.cancel()
        await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._gossip is not None:
            await self._gossip.close()
        await self._disk.close()

    async def Connect(self, request_iterator: AsyncIterator[ClientFrame], context: Any) -> None:  # noqa: N802
        """Serve one institution until it leaves, falls silent, is replaced by a newer stream, or is revoked."""
        session = await self._admitted(request_iterator, context)
        name = session.member.name
        await self._identified(session, context)
        session.post(await self.consent.last_seen(name))
        self._enter(session)
        try:
            await self._noted(lambda presence: presence.connected(name, self._now()))
            await self._carry(session, request_iterator, context)
        finally:
            # Before any farewell: the place is free, and what came of a reply is kept.
            if self._leave(session):
                await self._noted(lambda presence: presence.disconnected(name, self._now()))
        if session.closing is not None:
            # An institution that vanished never learns why; for one that does not read, gRPC keeps the reason.
            with suppress(TimeoutError, grpc.aio.InternalError):
                async with asyncio.timeout(_FAREWELL_S):
                    await context.abort(session.closing.code, session.closing.detail)

    async def _carry(self, session: Session, incoming: AsyncIterator[ClientFrame], context: Any) -> None:
        """Frames go both ways until the stream is over or is to be closed; what was wrong with it is in the log."""
        name = session.member.name
        # A writer may be stuck in a full window; it must not delay the end of a stream.
        work = (self._read(session, incoming), self._write(session, context), session.closed.wait())
        tasks = [asyncio.create_task(one) for one in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except BadFrame as error:
            _log.warning("%s: %s", name, error, extra={"institution": name})
            session.close(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except LeptonError as error:
            # Where the records are and what ails them is the operator's to know.
            _log.warning("%s: %s", name, error, extra={"institution": name})
            session.close(grpc.StatusCode.INTERNAL, "the server cannot write its records")
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
            # The peer vanished while something was being written to it.
            _log.info("%s: %s", name, type(error).__name__)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _admitted(self, incoming: AsyncIterator[ClientFrame], context: Any) -> Session:
        """A member that said hello, or a refusal."""
        await self._renewal.refuse_ended(context)
        certificate = peer_certificate(context)
        identity = key_hash(certificate.public_key())
        try:
            member = await self._disk.aside(lambda records: records.store.member(identity))
        except LeptonError as error:
            _log.warning("membership cannot be looked up: %s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server cannot read its records; try again later")
            raise
        if member is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, NOT_A_MEMBERS)
            raise AssertionError  # abort does not return
        try:
            async with asyncio.timeout(_HELLO_S):
                first = await anext(incoming)
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
            raise
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame is none")
            raise
        self.received_bytes += first.ByteSize()
        said = first.hello if first.WhichOneof("frame") == "hello" else Hello()
        if said.protocol != frames.PROTOCOL:
            theirs = said.protocol or "none"
            detail = f"this server speaks protocol {frames.PROTOCOL}, the institution {theirs}; update the older one"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, detail)
        # While gRPC has a first write under way, which sends them, it cannot end the stream with an error.
        await context.send_initial_metadata(())
        return Session(member, identity, certificate.not_valid_after_utc, said)

    async def _identified(self, session: Session, context: Any) -> None:
        """Note the institution's key for secure aggregation; one that is not its own ends the stream."""
        try:
            identity = self.consent.identified(session, session.hello.identity)
            if identity is not None and self._gossip is not None:
                await self._gossip.greeted(session)
        except BadFrame as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        except LeptonError as error:
            _log.warning("%s cannot be served: %s", session.member.name, error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server cannot read its records; try again later")
            raise
        if identity is not None:
            with self.owing.changed:
                self._identities[session.member.name] = identity

    def _enter(self, session: Session) -> None:
        """Take the institution's place; an older stream of the same institution is closed."""
        node_id = session.member.node_id
        with self.owing.changed:
            run, older = self._run, self.sessions.get(node_id)
            if older is not None:
                self._intake.set_aside(older)
            self.sessions[node_id] = session
            self._known[node_id] = session.member.name
            self.owing.came(node_id)
            session.post(heartbeat() if run is None else self._welcome(session, run))
            owed, came = self.owing.of(node_id)
            if owed is not None:
                self._instruct(session, session.announcement(owed.message_id, owed.parts, came))
        if older is not None:
            self._offer(older, goodbye(_REPLACED, stay_away=True))
            # Behind a backlog that nobody reads, the goodbye would never come.
            asyncio.get_running_loop().call_later(_FAREWELL_S, older.close, grpc.StatusCode.ABORTED, _REPLACED)
        _log.info("%s connected", session.member.name, extra={"institution": session.member.name})

    def _leave(self, session: Session) -> bool:
        """The stream is over; whether the institution has no newer one."""
        node_id = session.member.node_id
        with self.owing.changed:
            is_gone = self.sessions.get(node_id) is session
            if is_gone:
                self._intake.set_aside(session)
                del self.sessions[node_id]
                self.owing.went(node_id)
        _log.info("%s disconnected", session.member.name, extra={"institution": session.member.name})
        return is_gone

    def _offer(self, session: Session, item: ServerFrame | tuple[Begin, Parts]) -> None:
        try:
            if isinstance(item, tuple):
                self._instruct(session, item)
            else:
                session.post(item)
        except BadFrame as error:
            session.close(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    def _instruct(self, session: Session, item: tuple[Begin, Parts]) -> None:
        """An instruction goes out behind the log's head, without which no institution trains."""
        if self._gossip is not None:
            session.post(self._gossip.checkpoint(session))
        session.post(item)

    def _welcome(self, session: Session, run: RunTerms) -> ServerFrame:
        return ServerFrame(
            welcome=Welcome(
                node_id=session.member.node_id,
                run_id=run.run_id,
                institution=session.member.name,
                contract=run.offered.content,
                signature=Signature(certificate=run.offered.signed.certificate, value=run.offered.signed.value),
            )
        )

    async def _write(self, session: Session, context: Any) -> None:
        """Everything that goes out, in order; gRPC allows one write at a time."""
        while True:
            await session.stirred(frames.HEARTBEAT_S)
            for frame in frames_of(session.outbox.popleft() if session.outbox else heartbeat()):
                self.sent_bytes += frame.ByteSize()
                await context.write(frame)
                if frame.goodbye.stay_away:
                    return

    async def _read(self, session: Session, incoming: AsyncIterator[ClientFrame]) -> None:
        async for frame in _parsed(incoming):
            session.last_heard = time.monotonic()
            self.received_bytes += frame.ByteSize()
            if self.sessions.get(session.member.node_id) is not session:
                continue  # replaced: what it still sends is dropped, and it ends once its goodbye is out
            kind = frame.WhichOneof("frame")
            if kind == "begin":
                self._intake.announced(session, frame.begin)
            elif kind == "chunk":
                await self._intake.grown(session, frame.chunk.data)
            elif kind == "decision":
                await self.consent.decided(session, frame.decision)
            elif kind == "ledger_head":
                countersigned = await self.consent.seen(session, from_wire(frame.ledger_head))
                if countersigned is not None:
                    session.post(countersigned)
            elif kind == "cosigned" and self._gossip is not None:
                await self._gossip.cosigned(session, frame.cosigned.note)
            elif kind == "energy":
                await self._told_energy(session, energy_frame.from_wire(frame.energy))
            elif kind != "heartbeat":
                raise BadFrame("a frame of this kind may not come now")

    async def _told_energy(self, session: Session, told: Told) -> None:
        if session.member.name in self.consent.accepted:  # of others nothing was asked
            await self._disk.aside(lambda _: self.energy.told(session.member.name, told))

    async def _supervise(self) -> None:
        heard_at, members = 0.0, set[bytes]()
        while True:
            await asyncio.sleep(supervision.LOOK_S)
            sessions = list(self.sessions.values())
            try:
                members = await self._disk.aside(lambda records: records.store.member_keys())
            except LeptonError as error:
                # For now; before anything is aggregated, the list is read again.
                _log.warning("whoever was a member stays one: %s", error)
                members |= {session.identity for session in sessions}
            for session in sessions:
                is_member = session.identity in members
                if not is_member:
                    self.owing.refuse(session.member.node_id, supervision.REVOKED)
                supervision.look_after(session, is_member, self._now())
            if time.monotonic() - heard_at > supervision.HEARD_S:
                heard_at, names = time.monotonic(), supervision.heard_of_late(sessions)
                await self._noted(partial(Presence.heard, institutions=names, now=self._now()))

    async def _noted(self, note: Callable[[Presence], None]) -> None:
        """Who is here is a courtesy to `lepton-server status`: where it cannot be written, streams go on."""
        try:
            await self._disk.aside(lambda records: note(records.presence))
        except LeptonError as error:
            _log.warning("who is connected cannot be written down: %s", error)

    # -- one question, one answer

    async def Renew(self, request: RenewRequest, context: Any) -> RenewReply:  # noqa: N802
        """See `Renewal.renew`."""
        return await self._renewal.renew(request, context)

    async def Probe(self, request: ProbeRequest, context: Any) -> ProbeReply:  # noqa: N802
        """See `Renewal.probe`."""
        return await self._renewal.probe(request, context)


async def _parsed(incoming: AsyncIterator[ClientFrame]) -> AsyncIterator[ClientFrame]:
    try:
        async for frame in incoming:
            yield frame
    except DecodeError as error:
        raise BadFrame("what came is no frame") from error
