"""The hub: every institution's stream, and what is owed on it.

gRPC runs in a thread of its own with one event loop; the strategy runs in the caller's thread. Between them stand a
lock with a condition and, for each institution, the instruction it still owes an answer to. An institution that loses
its connection keeps its instruction for `grace_s` and gets it again when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
from cryptography import x509

from lepton_fl.federation.codec import LARGEST_ENVELOPE, BadMessage, Route, decode, encode
from lepton_fl.flower import NODE_UNAVAILABLE, Error, Message
from lepton_fl.link import frames
from lepton_fl.link.certificates import key_hash
from lepton_fl.link.frames import Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import (
    Ack,
    Begin,
    Chunk,
    ClientFrame,
    Goodbye,
    Heartbeat,
    ServerFrame,
    Welcome,
)
from lepton_fl.v1.federation_pb2_grpc import FederationServicer
from lepton_server.store import Institution, Store

_log = logging.getLogger(__name__)
_HELLO_S = 10.0
_REVOCATION_S = 2.0  # how often membership of open streams is looked up


@dataclass(frozen=True)
class Limits:
    """How long the hub waits, and how much it takes."""

    quorum_s: float  # for enough institutions to be connected
    round_s: float  # for the answers of one round
    grace_s: float  # for an institution that lost its connection


@dataclass(frozen=True)
class RunTerms:
    """What every institution of a run is told."""

    run_id: int
    terms: str  # JSON
    members: Mapping[int, str]  # node id: institution
    reply_bytes: int  # the most a reply's arrays can have


@dataclass
class Owed:
    """An instruction that one institution has not answered yet."""

    message_id: str
    message: Message
    parts: Parts


@dataclass
class Session:
    """One open stream."""

    member: Institution
    outbox: asyncio.Queue[ServerFrame | tuple[Begin, Parts]] = field(default_factory=asyncio.Queue)
    last_heard: float = field(default_factory=time.monotonic)


class Hub(FederationServicer):
    """Every stream, and what is owed on it."""

    def __init__(self, open_store: Callable[[], Store], limits: Limits) -> None:
        self._open_store = open_store
        self.limits = limits
        self.changed = threading.Condition()
        self.sessions: dict[int, Session] = {}
        self._gone_since: dict[int, float] = {}
        self._owed: dict[int, Owed] = {}
        self.replies: dict[str, Message] = {}
        self._run: RunTerms | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    # -- called from the strategy's thread

    def begin_run(self, run: RunTerms) -> None:
        """Tell every connected member of the run, and each one that connects later."""
        with self.changed:
            self._run = run
            for node_id in run.members:
                self._gone_since.setdefault(node_id, time.monotonic())
            sessions = list(self.sessions.values())
        for session in sessions:
            self._post(session, self._welcome(session))

    def push(self, message: Message) -> str:
        """Owe an institution this message; it goes out now or when the institution is back."""
        message_id, node_id = uuid4().hex, message.metadata.dst_node_id
        owed = Owed(message_id, message, encode(message, message_id))
        with self.changed:
            self._owed[node_id] = owed
            session = self.sessions.get(node_id)
        if session is not None:
            self._post(session, _announced(owed))
        return message_id

    def give_up(self, message_ids: Iterable[str]) -> None:
        """These instructions are no longer waited for; an answer that still comes is dropped."""
        wanted = set(message_ids)
        with self.changed:
            for node_id in [node for node, owed in self._owed.items() if owed.message_id in wanted]:
                del self._owed[node_id]

    def fail_the_long_gone(self) -> None:
        """Answer for institutions that have been away longer than the grace; call with `changed` held."""
        now = time.monotonic()
        for node_id, owed in list(self._owed.items()):
            away = now - self._gone_since.get(node_id, now) if node_id not in self.sessions else 0.0
            if away > self.limits.grace_s:
                error = Error(NODE_UNAVAILABLE, f"not connected for {away:.0f} s")
                self.replies[owed.message_id] = Message(error, reply_to=owed.message)
                del self._owed[node_id]

    def end_run(self, reason: str) -> None:
        """Say goodbye to everybody."""
        with self.changed:
            self._run = None
            sessions = list(self.sessions.values())
        for session in sessions:
            self._post(session, ServerFrame(goodbye=Goodbye(reason=reason)))

    def _post(self, session: Session, item: ServerFrame | tuple[Begin, Parts]) -> None:
        assert self.loop is not None  # noqa: S101 - serving has begun
        self.loop.call_soon_threadsafe(session.outbox.put_nowait, item)

    def _welcome(self, session: Session) -> ServerFrame:
        run = self._run
        if run is None or session.member.node_id not in run.members:
            return ServerFrame(heartbeat=Heartbeat())
        return ServerFrame(
            welcome=Welcome(
                node_id=session.member.node_id,
                run_id=run.run_id,
                institution=session.member.name,
                terms=run.terms,
                institutions=len(run.members),
            )
        )

    # -- one stream, in the event loop

    async def Connect(self, request_iterator: AsyncIterator[ClientFrame], context: Any) -> None:  # noqa: N802
        """Serve one institution until it leaves, falls silent, is replaced by a newer stream, or is revoked."""
        identity = _identity(context)
        member = await asyncio.to_thread(self._member, identity)
        if member is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate is not a member's, or was revoked")
        assert member is not None  # noqa: S101 - abort does not return
        await self._greeted(request_iterator, context)
        session = Session(member)
        self._enter(session)
        _log.info("%s connected", member.name)
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._write(session, context),
                self._read(session, request_iterator),
                self._watch(session, context, identity),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except BadFrame as error:
            _log.warning("%s broke the protocol: %s", member.name, error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except grpc.aio.UsageError as error:
            # The peer vanished while something was being written to it.
            _log.info("%s: %s", member.name, type(error).__name__)
        finally:
            for task in tasks:
                task.cancel()
            self._leave(session)
            _log.info("%s disconnected", member.name)

    async def _greeted(self, incoming: AsyncIterator[ClientFrame], context: Any) -> None:
        try:
            first = await asyncio.wait_for(anext(incoming), _HELLO_S)
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
            raise
        if first.WhichOneof("frame") != "hello" or first.hello.protocol != frames.PROTOCOL:
            theirs = first.hello.protocol if first.WhichOneof("frame") == "hello" else "none"
            detail = f"this server speaks protocol {frames.PROTOCOL}, the institution {theirs}; update the older one"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, detail)

    def _enter(self, session: Session) -> None:
        """Take the institution's place; an older stream of the same institution is closed."""
        node_id = session.member.node_id
        with self.changed:
            older = self.sessions.get(node_id)
            self.sessions[node_id] = session
            self._gone_since.pop(node_id, None)
            session.outbox.put_nowait(self._welcome(session))
            owed = self._owed.get(node_id)
            if owed is not None:
                session.outbox.put_nowait(_announced(owed))
            self.changed.notify_all()
        if older is not None:
            taken = Goodbye(reason="another process connected with this certificate", stay_away=True)
            older.outbox.put_nowait(ServerFrame(goodbye=taken))

    def _leave(self, session: Session) -> None:
        node_id = session.member.node_id
        with self.changed:
            if self.sessions.get(node_id) is session:
                del self.sessions[node_id]
                self._gone_since[node_id] = time.monotonic()
            self.changed.notify_all()

    async def _write(self, session: Session, context: Any) -> None:
        """Everything that goes out, in order; gRPC allows one write at a time."""
        while True:
            try:
                item = await asyncio.wait_for(session.outbox.get(), frames.HEARTBEAT_S)
            except TimeoutError:
                item = ServerFrame(heartbeat=Heartbeat())
            if isinstance(item, ServerFrame):
                await context.write(item)
                if item.WhichOneof("frame") == "goodbye" and self.sessions.get(session.member.node_id) is not session:
                    return
                continue
            announced, parts = item
            await context.write(ServerFrame(begin=announced))
            for data in frames.chunks(parts):
                await context.write(ServerFrame(chunk=Chunk(data=data)))

    async def _read(self, session: Session, incoming: AsyncIterator[ClientFrame]) -> None:
        assembler: Assembler | None = None
        async for frame in incoming:
            session.last_heard = time.monotonic()
            kind = frame.WhichOneof("frame")
            if kind == "begin":
                if assembler is not None:
                    raise BadFrame("a message begins inside another")
                if not self._is_owed(session, frame.begin.reply_to_message_id):
                    # Late or never asked for: the institution is told to stop, and nothing of it is kept.
                    session.outbox.put_nowait(_ack(frame.begin.reply_to_message_id))
                    assembler = Assembler(frame.begin, self._most_bytes())
                    continue
                assembler = Assembler(frame.begin, self._most_bytes())
            elif kind == "chunk":
                if assembler is None:
                    raise BadFrame("a chunk comes without a message")
                parts = assembler.add(frame.chunk.data)
                if parts is not None:
                    reply_to, assembler = assembler.announced.reply_to_message_id, None
                    await asyncio.to_thread(self._take, session, reply_to, parts)
                    session.outbox.put_nowait(_ack(reply_to))
            elif kind != "heartbeat":
                raise BadFrame("a frame of this kind may not come now")

    async def _watch(self, session: Session, context: Any, identity: bytes) -> None:
        """Close the stream of an institution that fell silent or was revoked."""
        while True:
            await asyncio.sleep(_REVOCATION_S)
            if time.monotonic() - session.last_heard > frames.SILENCE_S:
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was heard for {frames.SILENCE_S:.0f} s"
                )
            if await asyncio.to_thread(self._member, identity) is None:
                with self.changed:
                    self._owed.pop(session.member.node_id, None)
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this institution was revoked")

    def _member(self, identity: bytes) -> Institution | None:
        store = self._open_store()
        try:
            return store.member(identity)
        finally:
            store.close()

    def _most_bytes(self) -> int:
        return LARGEST_ENVELOPE + (self._run.reply_bytes if self._run else 0)

    def _is_owed(self, session: Session, message_id: str) -> bool:
        with self.changed:
            owed = self._owed.get(session.member.node_id)
            return owed is not None and owed.message_id == message_id

    def _take(self, session: Session, message_id: str, parts: Parts) -> None:
        """Believe a reply: only from the stream that owes it, its identity taken from the certificate."""
        node_id = session.member.node_id
        with self.changed:
            owed = self._owed.get(node_id)
            if owed is None or owed.message_id != message_id or self.sessions.get(node_id) is not session:
                return
        asked = owed.message.metadata
        try:
            reply = decode(parts, Route(asked.run_id, node_id, asked.src_node_id))
        except BadMessage as error:
            reply = Message(Error(NODE_UNAVAILABLE, str(error)), reply_to=owed.message)
        with self.changed:
            if self._owed.get(node_id) is owed:
                del self._owed[node_id]
                self.replies[message_id] = reply
                self.changed.notify_all()


def _announced(owed: Owed) -> tuple[Begin, Parts]:
    return frames.begin(owed.parts, owed.message_id), owed.parts


def _ack(message_id: str) -> ServerFrame:
    return ServerFrame(ack=Ack(reply_to_message_id=message_id))


def _identity(context: Any) -> bytes:
    """The hash of the public key in the certificate that TLS has checked."""
    (pem,) = context.auth_context()["x509_pem_cert"]
    return key_hash(x509.load_pem_x509_certificate(pem).public_key())
