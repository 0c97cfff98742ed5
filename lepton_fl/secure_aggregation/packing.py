"""The wire form of masked words: only the low bits that the sum needs.

Reduction modulo 2^24 is a homomorphism of the ring of 2^32, so the high byte of a masked word never has to travel.
Three bytes are laid out in planes, all low halves and then all third bytes, because both loops then run on whole
vector registers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS, chunks

WIRE_BITS = (24, 32)


def packed_bytes(length: int, bits: int) -> int:
    """Bytes of so many packed words; raises ValueError if there is no such form."""
    if bits not in WIRE_BITS:
        raise ValueError(f"words travel with 24 or 32 bits, not {bits}")
    return length * bits // 8


def pack(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """The low `bits` of each word, little-endian.

    Returns:
        For 32, four bytes a word. For 24, the low two bytes of every word, then the third byte of every word.
    """
    packed = np.empty(packed_bytes(len(words), bits), np.uint8)
    if bits == 32:
        packed.view("<u4")[:] = words
        return packed
    low, high = _planes(packed)
    shifted = np.empty(CHUNK_WORDS, np.uint32)
    for piece in chunks(0, len(words)):
        part = shifted[: piece.stop - piece.start]
        low[piece] = words[piece]  # numpy keeps the low bits of an unsigned integer
        np.right_shift(words[piece], 16, out=part)
        high[piece] = part
    return packed


def add_packed(total: NDArray[np.uint32], packed: NDArray[np.uint8], bits: int) -> None:
    """The packed words are added to the total in place, modulo 2^32.

    Only the low `bits` of the total have meaning afterwards: `signed` reads those.

    Raises:
        ValueError: if the packed words are not exactly as many as the total's.
    """
    if packed.dtype != np.uint8 or packed.shape != (packed_bytes(len(total), bits),):
        raise ValueError(f"{packed.size} bytes are not {len(total)} words of {bits} bits")
    packed = np.ascontiguousarray(packed)
    if bits == 32:
        np.add(total, packed.view("<u4"), out=total)
        return
    low, high = _planes(packed)
    joined = np.empty(CHUNK_WORDS, np.uint32)
    for piece in chunks(0, len(total)):
        part, onto = joined[: piece.stop - piece.start], total[piece]
        part[:] = high[piece]
        np.left_shift(part, 16, out=part)
        np.bitwise_or(part, low[piece], out=part)
        np.add(onto, part, out=onto)


def signed(words: NDArray[np.uint32], bits: int) -> NDArray[np.int32]:
    """The low `bits` of each word as an integer in two's complement."""
    unused = 32 - packed_bytes(8, bits)  # 8 words of so many bits are that many bytes
    return (words << np.uint32(unused)).view(np.int32) >> np.int32(unused)


def _planes(packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    length = len(packed) // 3
    return packed[: 2 * length].view("<u2"), packed[2 * length :]
