"""The size of the pieces in which long vectors are worked on."""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_WORDS = 1 << 15  # 128 KiB of 32-bit words: the vector's piece and the buffers beside it stay in a core's L2 cache


def chunks(start: int, stop: int) -> Iterator[slice]:
    """Slices of at most `CHUNK_WORDS` that cover start..stop in order, each once."""
    for first in range(start, stop, CHUNK_WORDS):
        yield slice(first, min(first + CHUNK_WORDS, stop))
