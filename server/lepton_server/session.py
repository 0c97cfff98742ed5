"""One institution's open stream: what goes out on it, and what is coming in."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import grpc

from lepton_fl.link import frames
from lepton_fl.link.frames import Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import Ack, Begin, Chunk, Goodbye, Heartbeat, Hello, ServerFrame
from lepton_server.store import Institution

_MOST_WAITING = 64  # frames; an institution that asks for more without reading is cut off


@dataclass(frozen=True)
class Closing:
    """Why the server ends a stream, for the institution to read."""

    code: grpc.StatusCode
    detail: str


@dataclass
class Upload:
    """A reply that is coming in."""

    assembler: Assembler
    is_wanted: bool  # otherwise it is counted and thrown away


@dataclass
class Session:
    """One open stream."""

    member: Institution
    identity: bytes  # hash of the certificate's key
    not_after: datetime  # of the certificate
    hello: Hello
    outbox: deque[ServerFrame | tuple[Begin, Parts]] = field(default_factory=deque)
    upload: Upload | None = None
    last_heard: float = field(default_factory=time.monotonic)
    closing: Closing | None = None
    log_size: int = 0  # of the log's last head that was sent, or told in its hello
    relayed: dict[str, int] = field(default_factory=dict)  # institution: size of its last head that was sent
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, item: ServerFrame | tuple[Begin, Parts]) -> None:
        """Send this when its turn comes; in the event loop.

        Raises:
            BadFrame: the institution asks without reading the answers.
        """
        if isinstance(item, tuple):
            # One instruction is owed at a time, so an earlier one that still waits was given up.
            self.outbox = deque(waiting for waiting in self.outbox if isinstance(waiting, ServerFrame))
        if len(self.outbox) >= _MOST_WAITING:
            raise BadFrame("more is asked for than is read")
        self.outbox.append(item)
        self._stirred.set()

    def close(self, code: grpc.StatusCode, detail: str) -> None:
        """End the stream with this status, whatever waits; the first reason stays."""
        self.closing = self.closing or Closing(code, detail)
        self.closed.set()

    async def stirred(self, patience_s: float) -> None:
        """Until there is something to send, or for so long."""
        if not self.outbox:
            self._stirred.clear()
            # Not wait_for: in Python 3.11 it can swallow the cancellation that ends a stream.
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._stirred.wait()

    def announcement(self, message_id: str, parts: Parts, partial: Assembler | None) -> tuple[Begin, Parts]:
        """An instruction, from where the institution has it; and what the server has of its reply."""
        announced, held = frames.begin(parts, message_id), self.hello.instruction
        if held.message_id == message_id:
            announced.offset = parts.size() if held.is_whole else min(held.bytes, parts.size())
        if partial is not None and partial.held().message_id == message_id:
            announced.reply.CopyFrom(partial.held())
        return announced, parts


def frames_of(item: ServerFrame | tuple[Begin, Parts]) -> Iterator[ServerFrame]:
    """What an item of the outbox looks like on the wire."""
    if isinstance(item, ServerFrame):
        yield item
        return
    announced, parts = item
    yield ServerFrame(begin=announced)
    for data in frames.chunks(parts, announced.offset):
        yield ServerFrame(chunk=Chunk(data=data))


def heartbeat() -> ServerFrame:
    """A sign of life."""
    return ServerFrame(heartbeat=Heartbeat())


def acknowledgement(message_id: str) -> ServerFrame:
    """This reply was taken, or is not wanted."""
    return ServerFrame(ack=Ack(reply_to_message_id=message_id))


def goodbye(reason: str, stay_away: bool = False) -> ServerFrame:
    """The server ends the stream in good order."""
    return ServerFrame(goodbye=Goodbye(reason=reason, stay_away=stay_away))
