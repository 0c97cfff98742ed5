"""The words of a mask are those of one AES-256-CTR key stream, wherever the work was cut."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS
from lepton_fl.secure_aggregation.masks import Stream, add_masks

KEY = bytes(range(32))


def whole(key: bytes, length: int) -> np.ndarray:
    """AES of one counter after the other: the definition of the mode, and another path through the library."""
    blocks = -(-4 * length // 16)
    counters = b"".join(number.to_bytes(16, "big") for number in range(blocks))
    stream = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters)  # noqa: S305
    return np.frombuffer(stream[: 4 * length], "<u4")


def masked(length: int, streams: list[Stream], threads: int = 1) -> np.ndarray:
    words = np.zeros(length, np.uint32)
    add_masks(words, streams, threads)
    return words


def test_the_first_words_are_aes_256_of_the_counter() -> None:
    # NIST AES-256 of the zero block under the zero key, as in GCM's test case 13 (H), little-endian words.
    assert masked(4, [Stream(bytes(32), 1)]).astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize(
    "length", [0, 1, 4, 7, 8, 9, 12, 13, CHUNK_WORDS, CHUNK_WORDS + 8, CHUNK_WORDS + 9, 3 * CHUNK_WORDS + 7]
)
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_words_across_chunks_and_threads_are_those_of_one_whole_stream(length: int, threads: int) -> None:
    np.testing.assert_array_equal(masked(length, [Stream(KEY, 1)], threads), whole(KEY, length))


@pytest.mark.parametrize("threads", [1, 2])
def test_masks_of_both_signs_are_added_modulo_the_ring(threads: int) -> None:
    length, others = 2 * CHUNK_WORDS + 5, [b"a" * 32, b"b" * 32, b"c" * 32]
    words = np.arange(length, dtype=np.uint32)
    add_masks(words, [Stream(others[0], 1), Stream(others[1], -1), Stream(others[2], -1)], threads)
    expected = [whole(key, length).astype(object) for key in others]
    wanted = (np.arange(length).astype(object) + expected[0] - expected[1] - expected[2]) % 2**32
    assert words.tolist() == wanted.tolist()


def test_words_are_those_of_the_librarys_own_counter_mode() -> None:
    length = 5 * CHUNK_WORDS + 3
    stream = Cipher(algorithms.AES256(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(4 * length))
    assert masked(length, [Stream(KEY, 1)], 2).astype("<u4").tobytes() == stream


def test_the_oracle_for_masks_answers_as_in_sp_800_38a() -> None:
    """F.5.5, CTR-AES256: the counter's block under the key, by what the plaintext and the ciphertext differ."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
    cipher = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228")
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counter)  # noqa: S305
    assert bytes(a ^ b for a, b in zip(block, plain, strict=True)) == cipher


def test_more_threads_than_streams_add_each_stream_once() -> None:
    keys = [bytes([number]) * 32 for number in range(5)]
    streams = [Stream(key, 1) for key in keys]
    expected = masked(CHUNK_WORDS + 9, streams)
    for threads in (2, 3, 5, 8):
        np.testing.assert_array_equal(masked(CHUNK_WORDS + 9, streams, threads), expected)


def test_a_mask_taken_away_leaves_the_words_as_they_were() -> None:
    words = np.arange(1000, dtype=np.uint32)
    add_masks(words, [Stream(KEY, 1)])
    add_masks(words, [Stream(KEY, -1)], 2)
    np.testing.assert_array_equal(words, np.arange(1000))


def test_no_stream_changes_nothing() -> None:
    np.testing.assert_array_equal(masked(3, []), [0, 0, 0])


@pytest.mark.parametrize(
    "words", [np.zeros(4, np.int32), np.zeros(4, np.uint64), np.zeros((2, 2), np.uint32), np.zeros(8, np.uint32)[::2]]
)
def test_other_than_a_contiguous_vector_of_words_is_refused(words: np.ndarray) -> None:
    with pytest.raises(ValueError, match="contiguous vector"):
        add_masks(words, [])


def test_no_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="threads"):
        masked(1, [], 0)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Stream(bytes(length), 1)


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_a_sign_is_one_or_minus_one(sign: int) -> None:
    with pytest.raises(ValueError, match="sign"):
        Stream(KEY, sign)


def test_a_stream_neither_prints_its_key_nor_can_be_written() -> None:
    assert repr(Stream(KEY, 1)) == "Stream(sign=1)"
    with pytest.raises(TypeError, match="never"):
        pickle.dumps(Stream(KEY, 1))
