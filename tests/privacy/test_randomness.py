"""Noise and sampling come from the operating system, unless a seed says otherwise."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lepton_fl.privacy import randomness
from lepton_fl.privacy.randomness import Randomness, Stream


def stream(label: str = "test") -> Stream:
    return Stream(hashlib.sha256(label.encode()).digest())


def counter_mode(key: bytes, nonce: int) -> CipherContext:
    """What GCM encrypts with: its counter starts at 2 behind a nonce of 12 bytes (NIST SP 800-38D, 7.1)."""
    start = nonce.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor()


def test_words_are_the_aes_256_key_stream_of_counter_mode() -> None:
    key = bytes(range(32))
    assert Stream(key).words(5).tobytes() == counter_mode(key, 0).update(bytes(40))


def test_where_a_nonce_ends_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "_BYTES_PER_NONCE", 48)
    key = bytes(range(32))
    expected = b"".join(counter_mode(key, nonce).update(bytes(48)) for nonce in range(3))
    whole, pieces = Stream(key), Stream(key)
    assert whole.random_bytes(144) == expected
    assert b"".join(pieces.random_bytes(count) for count in (40, 20, 36, 48)) == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_reading_in_parts_gives_the_same_words(parts: list[int]) -> None:
    whole, pieces = stream(), stream()
    joined = np.concatenate([pieces.words(count) for count in parts])
    assert (whole.words(sum(parts)) == joined).all()


def test_bytes_written_to_memory_are_the_same_stream() -> None:
    memory, key = bytearray(1_000_016), stream()
    key.write_to(memory, 1_000_000)
    assert memory[:1_000_000] == stream().random_bytes(1_000_000)
    assert key.words(3).tolist() == stream().words(125_003)[125_000:].tolist()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])
def test_each_record_is_drawn_at_the_declared_rate(rate: float) -> None:
    drawn = int(stream().bernoulli(1_000_000, rate).sum())
    assert stats.binomtest(drawn, 1_000_000, rate).pvalue > 0.001


def test_a_rate_of_one_draws_every_record() -> None:
    assert stream().bernoulli(1000, 1.0).all()


def test_the_drawn_rate_is_never_above_the_declared_one() -> None:
    smallest = 2.0**-70
    assert not stream().bernoulli(1000, smallest).any()


def test_a_permutation_holds_every_position_once() -> None:
    assert sorted(stream().permutation(500).tolist()) == list(range(500))


def test_without_a_seed_no_two_streams_agree() -> None:
    source = Randomness(None)
    assert source.stream("noise").words(4).tolist() != source.stream("noise").words(4).tolist()


def test_with_a_seed_a_purpose_gives_the_same_stream_and_another_purpose_another() -> None:
    source = Randomness(7).within("Cleveland", 3)
    noise = source.stream("noise").words(4).tolist()
    assert noise == Randomness(7).within("Cleveland", 3).stream("noise").words(4).tolist()
    others = [
        source.stream("sampling"),
        Randomness(8).within("Cleveland", 3).stream("noise"),
        Randomness(7).within("Hungary", 3).stream("noise"),
        Randomness(7).within("Cleveland", 4).stream("noise"),
        Randomness(7).within("Cleveland3").stream("noise"),
        Randomness(7).within("Clevelan", "d3").stream("noise"),
    ]
    assert noise not in [other.words(4).tolist() for other in others]


def test_global_generators_neither_decide_nor_notice_the_noise() -> None:
    def draw() -> list[float]:
        torch.manual_seed(0)
        np.random.seed(0)
        out = torch.empty(4, dtype=torch.float64)
        Randomness(None).stream("noise").standard_normal(out)
        return out.tolist()

    before = torch.get_rng_state()
    assert draw() != draw()
    torch.manual_seed(0)
    untouched = torch.get_rng_state()
    Randomness(None).stream("noise").standard_normal(torch.empty(4, dtype=torch.float64))
    assert torch.equal(untouched, torch.get_rng_state())
    torch.set_rng_state(before)


def test_a_stream_does_not_print_its_key() -> None:
    key = bytes(range(65, 97))
    assert "ABC" not in repr(Stream(key))
    assert key.hex() not in repr(Stream(key))
