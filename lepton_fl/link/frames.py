"""Messages cut into frames and put together again, nothing allocated on a peer's word."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO

from lepton_fl.errors import LeptonError
from lepton_fl.v1.federation_pb2 import Begin, Held

PROTOCOL = 1
# Small enough that a heartbeat passes between two on a slow line: half a second at 4 Mbit/s.
CHUNK_BYTES = 256 << 10
HEARTBEAT_S = 5.0
SILENCE_S = 15.0  # a peer that says nothing for so long is gone
LARGEST_ENVELOPE = 16 << 20
_MOST_ARRAYS = 10_000
_LONGEST_ID = 64
_DIGEST_BYTES = 32


class BadFrame(LeptonError):
    """A peer broke the protocol; the stream is closed, what was complete before stays."""


@dataclass(frozen=True)
class Parts:
    """A message's bytes: the envelope, then its arrays."""

    envelope: bytes
    arrays: tuple[bytes, ...]
    known_sha256: bytes = field(default=b"", compare=False)  # worked out while the bytes came; empty: not yet

    def all(self) -> tuple[bytes, ...]:
        """Every part in the order in which it travels."""
        return (self.envelope, *self.arrays)

    def size(self) -> int:
        """Bytes in all."""
        return sum(map(len, self.all()))

    @cached_property
    def sha256(self) -> bytes:
        """Of the whole message, its sizes included: the same bytes cut otherwise are another message."""
        if self.known_sha256:
            return self.known_sha256
        sha256 = _of_sizes([len(part) for part in self.all()])
        for part in self.all():
            sha256.update(part)
        return sha256.digest()


def _of_sizes(sizes: list[int]) -> hashlib._Hash:
    sha256 = hashlib.sha256()
    for size in sizes:
        sha256.update(size.to_bytes(8, "big"))
    return sha256


def begin(parts: Parts, message_id: str, reply_to: str = "") -> Begin:
    """The announcement of a message."""
    return Begin(
        message_id=message_id,
        reply_to_message_id=reply_to,
        envelope_bytes=len(parts.envelope),
        array_bytes=[len(array) for array in parts.arrays],
        sha256=parts.sha256,
    )


def chunks(parts: Parts, offset: int = 0) -> Iterator[bytes]:
    """The message from `offset` on, in pieces of at most CHUNK_BYTES."""
    for part, start, end in _pieces(parts, offset):
        yield part[start:end]


def chunk_sizes(parts: Parts, offset: int = 0) -> Iterator[int]:
    """Bytes of each of `chunks`, of which none is made."""
    return (end - start for _, start, end in _pieces(parts, offset))


def _pieces(parts: Parts, offset: int) -> Iterator[tuple[bytes, int, int]]:
    for part in parts.all():
        for start in range(min(offset, len(part)), len(part), CHUNK_BYTES):
            yield part, start, min(start + CHUNK_BYTES, len(part))
        offset = max(0, offset - len(part))


class Assembler:
    """Collects one announced message; its memory grows with what arrives, never with what was announced."""

    def __init__(self, announced: Begin, most_bytes: int) -> None:
        """Raises `BadFrame` if more is announced than may come, or a part of it as if it were here already."""
        self.announced = announced
        self._sizes = [announced.envelope_bytes, *announced.array_bytes]
        self._left = sum(self._sizes)
        self._refuse_too_much(most_bytes)
        self._refuse_senseless()
        self._whole: list[bytes] = []  # parts that are here to their last byte
        self._part = BytesIO()  # the one that comes in
        self._sha256 = _of_sizes(self._sizes)
        self._next_parts()

    def _refuse_too_much(self, most_bytes: int) -> None:
        if self._left > most_bytes or len(self._sizes) > _MOST_ARRAYS:
            raise BadFrame(
                f"a message of {self._left} bytes in {len(self._sizes)} parts is announced; {most_bytes} may come"
            )
        if (envelope := self._sizes[0]) > LARGEST_ENVELOPE:
            raise BadFrame(f"an envelope of {envelope} bytes is announced; {LARGEST_ENVELOPE} may come")
        if (longest := max(len(self._id()), len(self.announced.message_id))) > _LONGEST_ID:
            raise BadFrame(f"an id of {longest} characters is announced; {_LONGEST_ID} may come")

    def _refuse_senseless(self) -> None:
        if self._left == 0:
            raise BadFrame("a message is announced that is empty")
        if self.announced.offset:
            raise BadFrame("a message is announced of which an unknown part should be here")
        if len(self.announced.sha256) != _DIGEST_BYTES:
            raise BadFrame("a message is announced without its SHA-256")

    def _id(self) -> str:
        return self.announced.reply_to_message_id or self.announced.message_id

    def held(self) -> Held:
        """What is here, to tell the other side."""
        came = sum(self._sizes) - self._left
        return Held(message_id=self._id(), sha256=self.announced.sha256, bytes=came)

    def continues(self, announced: Begin) -> bool:
        """Whether an announcement goes on exactly where this one stopped."""
        held, same = self.held(), [announced.envelope_bytes, *announced.array_bytes] == self._sizes
        wanted = (announced.reply_to_message_id or announced.message_id, announced.sha256, announced.offset)
        return same and wanted == (held.message_id, held.sha256, held.bytes)

    def add(self, data: bytes) -> Parts | None:
        """Take a chunk; the whole message after its last one, else None.

        Raises:
            BadFrame: more than announced, an empty chunk, or another digest than announced.
        """
        if not data or len(data) > self._left:
            raise BadFrame("a chunk is empty or longer than what was announced")
        self._left -= len(data)
        self._sha256.update(data)
        rest = memoryview(data)
        while rest:
            room = self._sizes[len(self._whole)] - self._part.tell()
            self._part.write(rest[:room])
            rest = rest[room:]
            self._next_parts()
        return self._checked() if self._left == 0 else None

    def skip(self, data: bytes) -> bool:
        """Count a chunk that nobody wants; whether more is due. Raises `BadFrame` as `add` does."""
        if not data or len(data) > self._left:
            raise BadFrame("a chunk is empty or longer than what was announced")
        self._left -= len(data)
        return self._left > 0

    def _next_parts(self) -> None:
        """Go on to the first part that is not whole; a part's bytes are handed over, not copied again."""
        while len(self._whole) < len(self._sizes) and self._part.tell() == self._sizes[len(self._whole)]:
            self._whole.append(self._part.getvalue())
            self._part = BytesIO()

    def _checked(self) -> Parts:
        if self._sha256.digest() != self.announced.sha256:
            raise BadFrame("a message does not have the digest it announced")
        return Parts(self._whole[0], tuple(self._whole[1:]), self.announced.sha256)
