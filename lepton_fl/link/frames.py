"""Messages cut into frames and put together again, nothing allocated on a peer's word."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from lepton_fl.errors import LeptonError
from lepton_fl.v1.federation_pb2 import Begin

PROTOCOL = 1
# Small enough that a heartbeat passes between two on a slow line: half a second at 4 Mbit/s.
CHUNK_BYTES = 256 << 10
HEARTBEAT_S = 5.0
SILENCE_S = 15.0  # a peer that says nothing for so long is gone
LARGEST_TERMS = 256 << 10
_MOST_ARRAYS = 10_000


class BadFrame(LeptonError):
    """A peer broke the protocol; the stream is closed, what was complete before stays."""


@dataclass(frozen=True)
class Parts:
    """A message's bytes: the envelope, then its arrays."""

    envelope: bytes
    arrays: tuple[bytes, ...]


def begin(parts: Parts, message_id: str, reply_to: str = "") -> Begin:
    """The announcement of a message."""
    digest = hashlib.sha256()
    for part in (parts.envelope, *parts.arrays):
        digest.update(part)
    return Begin(
        message_id=message_id,
        reply_to_message_id=reply_to,
        envelope_bytes=len(parts.envelope),
        array_bytes=[len(array) for array in parts.arrays],
        sha256=digest.digest(),
    )


def chunks(parts: Parts) -> Iterator[bytes]:
    """The message in pieces of at most CHUNK_BYTES."""
    for part in (parts.envelope, *parts.arrays):
        for start in range(0, len(part), CHUNK_BYTES):
            yield part[start : start + CHUNK_BYTES]


class Assembler:
    """Collects one announced message; its memory grows with what arrives, never with what was announced."""

    def __init__(self, announced: Begin, most_bytes: int) -> None:
        """Raises `BadFrame` if more is announced than may come."""
        self.announced = announced
        self._sizes = [announced.envelope_bytes, *announced.array_bytes]
        self._left = sum(self._sizes)
        if self._left > most_bytes or len(self._sizes) > _MOST_ARRAYS:
            raise BadFrame(
                f"a message of {self._left} bytes in {len(self._sizes)} parts is announced; {most_bytes} may come"
            )
        self._pieces: list[bytes] = []
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> Parts | None:
        """Take a chunk; the whole message after its last one, else None.

        Raises:
            BadFrame: more than announced, an empty chunk, or another digest than announced.
        """
        if not data or len(data) > self._left:
            raise BadFrame("a chunk is empty or longer than what was announced")
        self._left -= len(data)
        self._pieces.append(data)
        self._digest.update(data)
        return self._whole() if self._left == 0 else None

    def _whole(self) -> Parts:
        if self._digest.digest() != self.announced.sha256:
            raise BadFrame("a message does not have the digest it announced")
        joined = b"".join(self._pieces)
        cuts, start = [], 0
        for size in self._sizes:
            cuts.append(joined[start : start + size])
            start += size
        return Parts(cuts[0], tuple(cuts[1:]))
