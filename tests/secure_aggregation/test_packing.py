"""The low bits of each word travel, in planes, and sum as the whole words do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS
from lepton_fl.secure_aggregation.packing import WIRE_BITS, add_packed, pack, packed_bytes, signed

words_lists = st.lists(st.integers(0, 2**32 - 1), max_size=9)


def vector(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint32)


def test_24_bits_are_packed_in_planes() -> None:
    # Low halves of all words first, little-endian, then the third bytes; the high bytes 11 and aa stay behind.
    assert pack(vector([0x11223344, 0xAABBCCDD]), 24).tobytes().hex() == "4433" + "ddcc" + "22" + "bb"


def test_32_bits_are_packed_as_little_endian_words() -> None:
    assert pack(vector([0x11223344, 0xAABBCCDD]), 32).tobytes().hex() == "44332211" + "ddccbbaa"


@pytest.mark.parametrize("bits, size", [(24, 3), (32, 4)])
def test_a_parameter_takes_so_many_bytes(bits: int, size: int) -> None:
    assert packed_bytes(1000, bits) == len(pack(np.zeros(1000, np.uint32), bits)) == 1000 * size


@given(first=words_lists, bits=st.sampled_from(WIRE_BITS), data=st.data())
@settings(deadline=None)
def test_packed_words_sum_modulo_the_wire_ring(first: list[int], bits: int, data: st.DataObject) -> None:
    second = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(first), max_size=len(first)))
    total = np.zeros(len(first), np.uint32)
    add_packed(total, pack(vector(first), bits), bits)
    add_packed(total, pack(vector(second), bits), bits)
    assert [int(word) % 2**bits for word in total] == [(a + b) % 2**bits for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("length", [CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 2 * CHUNK_WORDS + 3])
@pytest.mark.parametrize("bits", WIRE_BITS)
def test_words_beyond_a_chunk_are_packed_alike(length: int, bits: int) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, length, np.uint32)
    total = np.zeros(length, np.uint32)
    add_packed(total, pack(words, bits), bits)
    np.testing.assert_array_equal(total, words & np.uint32(2**bits - 1))


def test_packed_bytes_at_any_address_are_added() -> None:
    body = np.concatenate([np.zeros(1, np.uint8), pack(vector([1, 2, 3]), 24)])
    total = vector([1, 1, 1])
    add_packed(total, body[1:], 24)
    assert total.tolist() == [2, 3, 4]


@pytest.mark.parametrize("bits", WIRE_BITS)
def test_packed_bytes_that_do_not_lie_side_by_side_are_added(bits: int) -> None:
    total = vector([1, 1, 1])
    add_packed(total, np.repeat(pack(vector([1, 2, 3]), bits), 2)[::2], bits)
    assert total.tolist() == [2, 3, 4]


def test_low_bits_are_read_as_twos_complement() -> None:
    assert signed(vector([0, 1, 2**23 - 1, 2**23, 2**24 - 1, 2**24]), 24).tolist() == [0, 1, 2**23 - 1, -(2**23), -1, 0]
    assert signed(vector([0, 2**31 - 1, 2**31, 2**32 - 1]), 32).tolist() == [0, 2**31 - 1, -(2**31), -1]


@given(value=st.integers(-(2**23), 2**23 - 1), above=st.integers(0, 255))
def test_the_bits_above_the_wire_do_not_matter(value: int, above: int) -> None:
    assert signed(vector([(value % 2**24) | above << 24]), 24).tolist() == [value]


@pytest.mark.parametrize("bits", [0, 8, 16, 25, 64])
def test_there_is_no_other_width(bits: int) -> None:
    with pytest.raises(ValueError, match="24 or 32 bits"):
        packed_bytes(1, bits)
    with pytest.raises(ValueError, match="24 or 32 bits"):
        signed(vector([1]), bits)


@pytest.mark.parametrize("size", [0, 2, 5, 7, 8])
def test_bytes_of_another_length_are_not_added(size: int) -> None:
    total = vector([1, 2])
    with pytest.raises(ValueError, match="2 words of 24 bits"):
        add_packed(total, np.zeros(size, np.uint8), 24)
    assert total.tolist() == [1, 2]


def test_other_than_bytes_is_not_added() -> None:
    with pytest.raises(ValueError, match="2 words of 24 bits"):
        add_packed(vector([1, 2]), np.zeros(6, np.int8), 24)
