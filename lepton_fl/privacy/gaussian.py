"""Standard normal numbers from a key stream: Box-Muller in float32, vectorised, with exact tails and no gaps.

Two things would betray a sum underneath. Tails that end early: a 32-bit uniform ends at 6.7 standard deviations, so the
uniform of a radius has 64 bits here, and tails reach 9.4 (chance of more: below 2^-64). And gaps: float32 numbers
around 1 lie 2^-23 apart, about eight to a step of the grid that a release is rounded to (`noise`), so that some steps
would be an eighth likelier than their neighbours, in a pattern that is shifted by the sum (Mironov 2012, "On
Significance of the Least Significant Bits for Differential Privacy"). So the product of radius and cosine is taken in
float64, and an independent uniform number 2^-7 wide, in steps of 2^-39, is added: noise on noise, which fills the gaps
and adds 5e-6 to the variance. What is left of a wrong probability of a grid step is below 1e-7 of it;
docs/decisions/029-fast-private-step.md has the sums.

Source: Box and Muller 1958, "A Note on the Generation of Random Normal Deviates".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Twice as many numbers are below torch's grain of 32,768, so that one thread computes a chunk however many there are,
# and everything a chunk needs stays in a core's own cache.
PAIRS = 16_128
BYTES_PER_PAIR = 20
SPREAD = 2.0**-7  # width of what fills the gaps, in standard deviations
_LINE = 16  # numbers of a line of the cache
_SPARE = 16  # bytes of a block, which the cipher wants to have room for
_SMALLEST = 2.0**-64


class Normals:
    """Memory for one chunk of numbers, and what is left of one; each stream has its own."""

    def __init__(self) -> None:
        self._pairs = 0
        self._bytes = bytearray()
        self._reserve = torch.empty(0, dtype=torch.float64)
        self._used = 0  # of the reserve

    def fill(self, out: Tensor, random: Callable[[bytearray, int], None]) -> None:
        """Overwrite `out`, float32 or float64 [n] on the CPU, with independent standard normal numbers.

        In float32 they are the same numbers, rounded. Takes 20 random bytes for each begun pair of a chunk, whatever
        the numbers are; who asks for few again and again is given them from a reserve that doubles up to a chunk.

        Args:
            random: writes so many independent uniform bytes to the beginning of the memory it is given.
        """
        if out.shape[0] > PAIRS:
            for part in out.split(2 * PAIRS):
                self._draw(part, random)
            return
        while wanted := out.shape[0]:
            there = self._reserve.shape[0] - self._used
            if not there:
                there = self._refill(wanted, random)
            given = min(wanted, there)
            now, out = (out, out[:0]) if given == wanted else (out[:given], out[given:])
            now.copy_(self._reserve.narrow(0, self._used, given))
            self._used += given

    def _refill(self, wanted: int, random: Callable[[bytearray, int], None]) -> int:
        """New numbers in the reserve, which has room for twice as many as before; how many they are."""
        held = self._reserve.shape[0]
        count = max(wanted, min(2 * held, 2 * PAIRS))
        if count != held:
            self._reserve = torch.empty(count, dtype=torch.float64)
        self._used = 0
        self._draw(self._reserve, random)
        return count

    def _draw(self, out: Tensor, random: Callable[[bytearray, int], None]) -> None:
        pairs = (len(out) + 1) // 2
        if pairs != self._pairs:
            self._divide(pairs)
        random(self._bytes, BYTES_PER_PAIR * pairs)
        self._chunk(out, pairs)

    def _divide(self, pairs: int) -> None:
        """Parts of the memory for so many pairs; of another memory, where these are more than any before."""
        if BYTES_PER_PAIR * pairs + _SPARE > len(self._bytes):
            self._bytes = bytearray(BYTES_PER_PAIR * pairs + _SPARE)
            self._numbers = torch.empty(3, -(-pairs // _LINE) * _LINE)
        self._pairs = pairs
        words = torch.frombuffer(self._bytes, dtype=torch.int32, count=5 * pairs)
        self._words = words.split([pairs, pairs, pairs, 2 * pairs])
        self._radius, self._sine, self._cosine = (row[:pairs] for row in self._numbers)

    def _chunk(self, out: Tensor, pairs: int) -> None:
        (high, low, turn, gaps), radius, sine, cosine = self._words, self._radius, self._sine, self._cosine
        count = len(out)
        # A signed word, 32 bits before the point and 32 behind it; its size over 2^31 is uniform in (0, 1].
        radius.copy_(high).add_(sine.copy_(low), alpha=2.0**-32).abs_().mul_(2.0**-31).clamp_(min=_SMALLEST)
        radius.log_().mul_(-2.0).sqrt_()
        sine.copy_(turn).mul_(math.pi * 2.0**-31)
        torch.cos(sine, out=cosine)
        sine.sin_()
        if count % 2:
            gaps, last = gaps[:count], pairs - 1
            out.copy_(gaps).mul_(SPREAD * 2.0**-32)
            out[pairs:].addcmul_(radius[:last], sine[:last])
        else:
            out.copy_(gaps).mul_(SPREAD * 2.0**-32)
            out[pairs:].addcmul_(radius, sine)
        out[:pairs].addcmul_(radius, cosine)
