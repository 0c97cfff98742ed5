"""Masks: key streams of AES-256-CTR, added to a vector in the ring of 2^32.

All streams are added in one pass over the vector, piece by piece, so that each piece is fetched from memory once
however many institutions there are.

Source: NIST SP 800-38A section 6.5 (counter mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS, chunks
from lepton_fl.secure_aggregation.key_stream import BLOCK_BYTES, FIRST_COUNTER, KEY_BYTES, first_blocks, key_stream

_WORD_BYTES = 4
_FIRST_WORDS = FIRST_COUNTER * BLOCK_BYTES // _WORD_BYTES


@dataclass(frozen=True)
class Stream:
    """The mask of one key, added (sign 1) or taken away (sign -1); a key serves one vector only."""

    key: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"a mask's key has {KEY_BYTES} bytes, not {len(self.key)}")
        if self.sign not in (-1, 1):
            raise ValueError(f"a mask's sign is 1 or -1, not {self.sign}")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a mask's key is never copied or written")

    @property
    def add(self) -> Callable[..., object]:
        """What brings a word of the mask into a word of the vector."""
        return np.add if self.sign > 0 else np.subtract


def add_masks(words: NDArray[np.uint32], streams: Sequence[Stream], threads: int = 1) -> None:
    """The masks of all streams are added to the words in place, modulo 2^32.

    Word i of a stream is bytes 4i to 4i + 3, little-endian, of AES-256-CTR with the counter starting at 0. The result
    is the same for any number of threads.

    Args:
        words: one dimension, contiguous; at most 2^34 - 24 of them, since GCM's counter has 32 bits.
        streams: at most one per peer, and the own.
        threads: how many cores may work on it; each takes a part of the streams, and one buffer of 128 KiB.

    Raises:
        ValueError: if the words are of another kind, or there is no thread.
    """
    if words.dtype != np.uint32 or words.ndim != 1 or not words.flags.c_contiguous:
        raise ValueError("masks are added to a contiguous vector of 32-bit words")
    if threads < 1:
        raise ValueError(f"{threads} threads do no work")
    _add_first(words[:_FIRST_WORDS], streams)
    rest = words[_FIRST_WORDS:]
    parts = [part for part in (streams[first::threads] for first in range(threads)) if part]
    # One lock for each piece of the vector: the threads follow one another over it.
    locks = [Lock() for _ in chunks(0, len(rest))]
    if len(parts) <= 1:
        _add_rest(rest, streams, locks)
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        for done in [pool.submit(_add_rest, rest, part, locks) for part in parts]:
            done.result()


def _add_first(words: NDArray[np.uint32], streams: Sequence[Stream]) -> None:
    for stream in streams:
        mask = np.frombuffer(first_blocks(stream.key), "<u4")[: len(words)]
        stream.add(words, mask, out=words)


def _add_rest(words: NDArray[np.uint32], streams: Sequence[Stream], locks: Sequence[Lock]) -> None:
    out, zeros = (memoryview(bytearray(CHUNK_WORDS * _WORD_BYTES)) for _ in range(2))
    buffer = np.frombuffer(out, "<u4")
    opened = [(key_stream(stream.key), stream.add) for stream in streams]
    for piece, lock in zip(chunks(0, len(words)), locks, strict=True):
        part = words[piece]
        mask, needed = buffer[: len(part)], zeros[: len(part) * _WORD_BYTES]
        with lock:
            for blocks, add in opened:
                blocks.update_into(needed, out)
                add(part, mask, out=part)
