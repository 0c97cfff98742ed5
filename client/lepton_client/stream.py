"""One connection to the server: frames in and out, heartbeats, and the end of it as a value."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc

from lepton_client.standing import Standing
from lepton_fl.link import frames
from lepton_fl.link.frames import Assembler, BadFrame, Parts
from lepton_fl.privacy.books import Sent
from lepton_fl.v1.federation_pb2 import (
    Begin,
    Checkpoint,
    Chunk,
    ClientFrame,
    Countersigned,
    Heartbeat,
    Held,
    Hello,
    Welcome,
)
from lepton_fl.v1.federation_pb2_grpc import FederationStub

_OUTBOX_FRAMES = 8  # an upload waits for the network, not for memory


@dataclass(frozen=True)
class Instruction:
    """A message from the server."""

    message_id: str
    parts: Parts | None  # None: it was here already, and its answer is asked for again
    held: Held  # what the server has of the answer


@dataclass(frozen=True)
class Acknowledged:
    """The server has this answer, or does not want it."""

    message_id: str


@dataclass(frozen=True)
class Ended:
    """The stream is over."""

    code: grpc.StatusCode | None  # None: the server said goodbye
    detail: str
    stay_away: bool = False


Event = Welcome | Checkpoint | Instruction | Acknowledged | Ended


@dataclass(frozen=True)
class Take:
    """What this side takes in."""

    most_bytes: int  # that one instruction may have
    partial: Assembler | None = None  # what came of an instruction before the last connection was lost


class Stream:
    """Open from construction until an `Ended` event."""

    def __init__(self, channel: grpc.Channel, hello: Hello, take: Take, standing: Standing) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.id = uuid4().hex  # of this connection, in the ledger
        self.partial = take.partial
        self.heard_at = time.monotonic()
        self._outbox: queue.Queue[ClientFrame] = queue.Queue(maxsize=_OUTBOX_FRAMES)
        self._most_bytes = take.most_bytes
        self._acknowledged = ""
        self._standing = standing
        self._is_over = threading.Event()
        self._heads: queue.Queue[Countersigned] = queue.Queue()
        self._sent: dict[str, Sent] = {}
        self._was_heard = False
        self._outbox.put(ClientFrame(hello=hello))
        self._call: Any = FederationStub(channel).Connect(self._outgoing())
        threading.Thread(target=self._read, name="stream", daemon=True).start()

    def next_event(self, wait_s: float) -> Event | None:
        """What happened next, or None if nothing did for so long; a silent server ends the stream."""
        try:
            return self.events.get(timeout=wait_s)
        except queue.Empty:
            self._end_silence()
            return None

    @property
    def is_over(self) -> bool:
        """Nothing more goes out or comes in."""
        return self._is_over.is_set()

    def countersigned(self, wait_s: float) -> Countersigned | None:
        """The next head that the server countersigned, in the order in which they came; None if none came."""
        try:
            return self._heads.get(timeout=wait_s) if wait_s else self._heads.get_nowait()
        except queue.Empty:
            self._end_silence()
            return None

    def sent(self) -> list[Sent]:
        """What was put on the transport, by kind of frame; nothing where the server was never reached."""
        return [*self._sent.values()] if self._was_heard else []

    def send(self, frame: ClientFrame) -> None:
        """Send one frame of a kind that holds nothing of the data."""
        self._put(frame)

    def answer(self, announced: Begin, parts: Parts) -> None:
        """Send an answer, from where its announcement says that the server has it.

        Returns early, without an error, if the stream ends under it or the server does not want it.
        """
        self._put(ClientFrame(begin=announced))
        for data in frames.chunks(parts, announced.offset):
            if self._is_over.is_set() or self._acknowledged == announced.reply_to_message_id:
                return
            self._put(ClientFrame(chunk=Chunk(data=data)))

    def close(self) -> None:
        """End the stream from this side."""
        self._is_over.set()
        self._call.cancel()

    def _put(self, frame: ClientFrame) -> None:
        while not self._is_over.is_set():
            try:
                self._outbox.put(frame, timeout=0.5)
            except queue.Full:
                self._end_silence()
                continue
            return

    def _end_silence(self) -> None:
        if time.monotonic() - self.heard_at > frames.SILENCE_S:
            self._end(Ended(grpc.StatusCode.CANCELLED, f"nothing was heard for {frames.SILENCE_S:.0f} s"))

    def _outgoing(self) -> Iterator[ClientFrame]:
        while not self._is_over.is_set():
            try:
                frame = self._outbox.get(timeout=frames.HEARTBEAT_S)
            except queue.Empty:
                frame = ClientFrame(heartbeat=Heartbeat())
            self._count(frame)
            yield frame

    def _count(self, frame: ClientFrame) -> None:
        kind, size = str(frame.WhichOneof("frame")), frame.ByteSize()
        before = self._sent.get(kind, Sent(kind, 0, 0))
        self._sent[kind] = Sent(kind, before.frames + 1, before.bytes + size)
        self._standing.sent_bytes += size

    def _read(self) -> None:
        try:
            for frame in self._call:
                self.heard_at = time.monotonic()
                self._was_heard = True
                self._standing.heard()
                kind = frame.WhichOneof("frame")
                if kind == "welcome":
                    self.events.put(frame.welcome)
                elif kind == "begin":
                    self._announced(frame.begin)
                elif kind == "chunk":
                    self._grown(frame.chunk.data)
                elif kind == "ack":
                    self._acknowledged = frame.ack.reply_to_message_id
                    self.events.put(Acknowledged(frame.ack.reply_to_message_id))
                elif kind == "checkpoint":
                    self.events.put(frame.checkpoint)
                elif kind == "countersigned":
                    self._heads.put(frame.countersigned)
                elif kind == "goodbye":
                    self._end(Ended(None, frame.goodbye.reason[:200], frame.goodbye.stay_away))
                    return
            self._end(Ended(grpc.StatusCode.UNAVAILABLE, "the server closed the connection"))
        except grpc.RpcError as error:
            self._end(Ended(error.code(), str(error.details() or "")[:500]))
        except BadFrame as error:
            self.partial = None
            self._end(Ended(grpc.StatusCode.INVALID_ARGUMENT, str(error)))

    def _announced(self, announced: Begin) -> None:
        size = announced.envelope_bytes + sum(announced.array_bytes)
        if announced.offset == size:
            self.partial = None
            self.events.put(Instruction(announced.message_id, None, announced.reply))
        elif self.partial is not None and announced.offset and self.partial.continues(announced):
            # From the new announcement, since what the server has of the answer may have changed.
            self.partial.announced.reply.CopyFrom(announced.reply)
        else:
            # Also where one begins inside another: the server gave the first up.
            self.partial = Assembler(announced, self._most_bytes)

    def _grown(self, data: bytes) -> None:
        if self.partial is None:
            raise BadFrame("a chunk comes without a message")
        parts = self.partial.add(data)
        if parts is not None:
            announced, self.partial = self.partial.announced, None
            self.events.put(Instruction(announced.message_id, parts, announced.reply))

    def _end(self, ended: Ended) -> None:
        self._is_over.set()
        self._call.cancel()
        self.events.put(ended)
