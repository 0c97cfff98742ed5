"""One connection to the server: frames in and out, heartbeats, and the end of it as a value."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from lepton_fl.link import frames
from lepton_fl.link.frames import Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame, Heartbeat, Hello, Welcome
from lepton_fl.v1.federation_pb2_grpc import FederationStub

_OUTBOX_FRAMES = 8  # an upload waits for the network, not for memory


@dataclass(frozen=True)
class Instruction:
    """A whole message from the server."""

    message_id: str
    parts: Parts


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


Event = Welcome | Instruction | Acknowledged | Ended


class Stream:
    """Open from construction until an `Ended` event."""

    def __init__(self, channel: grpc.Channel, version: str, most_bytes: int) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self._outbox: queue.Queue[ClientFrame | None] = queue.Queue(maxsize=_OUTBOX_FRAMES)
        self._most_bytes = most_bytes
        self._heard = time.monotonic()
        self._is_over = threading.Event()
        self._outbox.put(ClientFrame(hello=Hello(protocol=frames.PROTOCOL, lepton_version=version)))
        self._call: Any = FederationStub(channel).Connect(self._outgoing())
        threading.Thread(target=self._read, name="stream", daemon=True).start()

    def next_event(self, wait_s: float) -> Event | None:
        """What happened next, or None if nothing did for so long; a silent server ends the stream."""
        try:
            return self.events.get(timeout=wait_s)
        except queue.Empty:
            if time.monotonic() - self._heard > frames.SILENCE_S:
                self._call.cancel()
            return None

    def answer(self, message_id: str, parts: Parts) -> None:
        """Send an answer; returns early, without an error, if the stream ends under it."""
        self._put(ClientFrame(begin=frames.begin(parts, "", message_id)))
        for data in frames.chunks(parts):
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
                continue
            return

    def _outgoing(self) -> Iterator[ClientFrame]:
        while not self._is_over.is_set():
            try:
                frame = self._outbox.get(timeout=frames.HEARTBEAT_S)
            except queue.Empty:
                frame = ClientFrame(heartbeat=Heartbeat())
            if frame is None:
                return
            yield frame

    def _read(self) -> None:
        assembler: Assembler | None = None
        try:
            for frame in self._call:
                self._heard = time.monotonic()
                kind = frame.WhichOneof("frame")
                if kind == "welcome":
                    self.events.put(frame.welcome)
                elif kind == "begin":
                    assembler = self._announced(assembler, frame.begin)
                elif kind == "chunk":
                    assembler = self._grown(assembler, frame.chunk.data)
                elif kind == "ack":
                    self.events.put(Acknowledged(frame.ack.reply_to_message_id))
                elif kind == "goodbye":
                    self._end(Ended(None, frame.goodbye.reason[:200], frame.goodbye.stay_away))
                    return
            self._end(Ended(grpc.StatusCode.UNAVAILABLE, "the server closed the connection"))
        except grpc.RpcError as error:
            self._end(Ended(error.code(), str(error.details() or "")[:500]))
        except BadFrame as error:
            self._end(Ended(grpc.StatusCode.INVALID_ARGUMENT, str(error)))

    def _announced(self, current: Assembler | None, announced: Begin) -> Assembler:
        if current is not None:
            raise BadFrame("a message begins inside another")
        return Assembler(announced, self._most_bytes)

    def _grown(self, current: Assembler | None, data: bytes) -> Assembler | None:
        if current is None:
            raise BadFrame("a chunk comes without a message")
        parts = current.add(data)
        if parts is None:
            return current
        self.events.put(Instruction(current.announced.message_id, parts))
        return None

    def _end(self, ended: Ended) -> None:
        self._is_over.set()
        self._call.cancel()
        self.events.put(ended)
