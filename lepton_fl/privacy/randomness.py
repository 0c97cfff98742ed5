"""Where randomness comes from: the operating system, or a seed that voids the privacy claim.

Noise and sampling decide whether a patient is protected, so neither may come from a generator whose
state a user, a library or an earlier round can know (torch's global generator, numpy's). Both are drawn
from AES-256 in counter mode under a key that exists for one purpose and is forgotten. With a seed the
key is derived from it instead: the same code, reproducible, and therefore not private.

The counter is that of GCM, whose tag is left away: where a processor has wide AES instructions, OpenSSL uses them for
GCM alone, and it is more than twice as fast as its plain counter mode.

Source: NIST SP 800-38D, section 6.5 (GCTR); RFC 5869 (HKDF).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from lepton_fl.privacy.gaussian import fill

_KEY_BYTES = 32
_ZEROS = memoryview(bytes(1 << 17))  # what is encrypted to have the key stream itself
_SPARE = 16  # bytes of a block, which the cipher wants to have room for
_NONCE_BYTES = 12
# Of a nonce; GCM allows 2^36 - 32. A whole number of blocks, so that none is cut.
_BYTES_PER_NONCE = 1 << 35


class Stream:
    """The key stream of AES-256-CTR as numbers. Its key never leaves it and is never printed."""

    def __init__(self, key: bytes) -> None:
        # A key serves one stream, so nonces may count from zero.
        self._cipher, self._nonce, self._left = algorithms.AES256(key), 0, _BYTES_PER_NONCE
        self._encryptor = self._opened()

    def __repr__(self) -> str:
        return "Stream(key withheld)"

    def random_bytes(self, count: int) -> bytes:
        """`count` independent uniform bytes."""
        memory = bytearray(count + _SPARE)
        self.write_to(memory, count)
        return bytes(memory[:count])

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` independent uniform integers in [0, 2^64)."""
        memory = bytearray(8 * count + _SPARE)
        self.write_to(memory, 8 * count)
        return np.frombuffer(memory, dtype="<u8", count=count).astype(np.uint64, copy=False)

    def bernoulli(self, count: int, rate: float) -> npt.NDArray[np.bool_]:
        """`count` independent coins, each true with probability `rate`, rounded down to k / 2^64.

        Rounding down never samples more often than the accountant was told.
        """
        if rate >= 1.0:
            return np.ones(count, dtype=np.bool_)
        return self.words(count) < np.uint64(int(rate * 2.0**64))

    def write_to(self, memory: bytearray, count: int) -> None:
        """`count` independent uniform bytes at the beginning of `memory`, which has room for 16 more."""
        start, room = 0, memoryview(memory)
        while start < count:
            if not self._left:
                self._nonce, self._left = self._nonce + 1, _BYTES_PER_NONCE
                self._encryptor = self._opened()
            length = min(len(_ZEROS), count - start, self._left)
            self._encryptor.update_into(_ZEROS[:length], room[start:])
            start, self._left = start + length, self._left - length

    def _opened(self) -> AEADEncryptionContext:
        return Cipher(self._cipher, modes.GCM(self._nonce.to_bytes(_NONCE_BYTES, "big"))).encryptor()

    def standard_normal(self, out: Tensor) -> None:
        """Overwrite `out`, float64 [n] on the CPU, with independent standard normal numbers; see `gaussian`.

        How much of the stream is used depends on how many were asked for alone, and no result on the number of threads.
        """
        fill(out, self.write_to)

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """A uniform order of 0..count-1: the order of random words (a tie has chance below count^2 / 2^64)."""
        return np.argsort(self.words(count), kind="stable")

    def integer(self) -> int:
        """A non-negative integer below 2^63, for libraries that want a seed of their own."""
        return int(self.words(1)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Randomness:
    """Opens streams by what they are for; with a seed, the same purpose gives the same stream."""

    seed: int | None
    context: tuple[str, ...] = field(default=())

    def within(self, *context: object) -> Randomness:
        """The same source for a narrower purpose, say one institution and round."""
        return Randomness(self.seed, (*self.context, *(str(part) for part in context)))

    def stream(self, purpose: str) -> Stream:
        """A stream of its own for this purpose; unseeded, no two calls ever give the same one."""
        if self.seed is None:
            return Stream(os.urandom(_KEY_BYTES))
        # Each part is prefixed by its length, so that ("ab", "c") and ("a", "bc") differ.
        label = b"".join(len(part).to_bytes(4, "big") + part for part in map(str.encode, (*self.context, purpose)))
        derived = HKDF(SHA256(), _KEY_BYTES, salt=b"lepton-fl/seeded/not-private", info=label)
        return Stream(derived.derive(str(self.seed).encode()))
