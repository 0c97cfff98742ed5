"""AES-256 in counter mode, as fast as the library has it.

The library's counter mode encrypts one block per instruction. Its GCM, which encrypts by the same counter mode, takes
four where the processor can: 2.5 times as fast in `bench/secure_aggregation.py`, though it authenticates as well. So a
stream is taken from there: GCM with a zero nonce encrypts zeros to AES-256 of the counters 2, 3, ... and keeps counter
1 for its tag. Nothing is ever authenticated with it; the tag is never computed to its end.

Source: NIST SP 800-38A section 6.5 (counter mode), SP 800-38D section 7.1 (GCM's counters).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

KEY_BYTES, BLOCK_BYTES = 32, 16
FIRST_COUNTER = 2  # of `key_stream`; it can give 2^32 - 2 blocks

_NONCE = bytes(12)


def key_stream(key: bytes) -> CipherContext:
    """What encrypts zeros to the blocks of counters 2, 3, ... under this key."""
    return Cipher(algorithms.AES256(key), modes.GCM(_NONCE)).encryptor()


def first_blocks(key: bytes) -> bytes:
    """The blocks of counters 0 and 1, that `key_stream` begins after."""
    counter_mode = Cipher(algorithms.AES256(key), modes.CTR(bytes(BLOCK_BYTES))).encryptor()
    return counter_mode.update(bytes(FIRST_COUNTER * BLOCK_BYTES))
