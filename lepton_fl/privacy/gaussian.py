"""Standard normal numbers from a key stream: Box-Muller in float64, with exact tails and no gaps.

Two things would betray a sum underneath. Tails that end early: a 32-bit uniform ends at 6.7 standard deviations, so the
uniform of a radius has 64 bits here, and tails reach 9.4 (chance of more: below 2^-64). And gaps between the numbers
that can happen, a few to each step of the grid that a release is rounded to (`noise`), so that some steps would be
likelier than their neighbours, in a pattern that is shifted by the sum (Mironov 2012, "On Significance of the Least
Significant Bits for Differential Privacy"): radius and angle have 53 bits here, 2^30 numbers to a step.

Logarithm, sine and cosine are series, right to 1e-15, of operations that IEEE 754 rounds alike everywhere, so a key
gives the same noise on every processor (`kernels`; docs/decisions/032-compiled-noise.md).

Source: Box and Muller 1958, "A Note on the Generation of Random Normal Deviates".
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from lepton_fl.privacy.kernels import box_muller

CHUNK = 32_768  # numbers, so that what they need stays in a core's own cache
BYTES_PER_PAIR = 16
_SPARE = 16  # bytes of a block, which the cipher wants to have room for


class _Memory(threading.local):
    """A chunk's words, of each thread: what the cache holds already is not fetched again for the next stream."""

    def __init__(self) -> None:
        self.bytes = bytearray(BYTES_PER_PAIR * CHUNK // 2 + _SPARE)
        self.words = torch.frombuffer(self.bytes, dtype=torch.int64, count=CHUNK)


_memory = _Memory()


def fill(out: Tensor, random: Callable[[bytearray, int], None]) -> None:
    """Overwrite `out`, float64 [n] on the CPU, with independent standard normal numbers.

    Takes 16 random bytes for each begun pair of a chunk, whatever the numbers are.

    Args:
        random: writes so many independent uniform bytes to the beginning of the memory it is given.
    """
    count, memory = out.shape[0], _memory
    for start in range(0, count, CHUNK):
        part = out if count <= CHUNK else out[start : start + CHUNK]
        wanted = part.shape[0]
        even = wanted + wanted % 2
        random(memory.bytes, BYTES_PER_PAIR // 2 * even)
        if even == wanted:
            box_muller(memory.words, part)
        else:
            whole = torch.empty(even, dtype=torch.float64)
            box_muller(memory.words, whole)
            part.copy_(whole[:-1])
