"""Standard normal numbers from a key stream: their law, their tails, and no gaps that a release would show."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from lepton_fl.privacy.gaussian import BYTES_PER_PAIR, CHUNK
from lepton_fl.privacy.noise import grid_step
from lepton_fl.privacy.randomness import Stream


def stream(kind: type[Stream] = Stream) -> Stream:
    return kind(hashlib.sha256(b"gaussian").digest())


def normal(count: int, kind: type[Stream] = Stream) -> Tensor:
    out = torch.full((count,), torch.nan, dtype=torch.float64)
    stream(kind).standard_normal(out)
    return out


def crafted(change: Callable[[np.ndarray], None]) -> type[Stream]:
    """A stream whose words, int64 [2 * pairs] of each chunk, are changed: radii, then angles."""

    class Crafted(Stream):
        def write_to(self, memory: bytearray, count: int) -> None:
            super().write_to(memory, count)
            change(np.frombuffer(memory, dtype=np.int64, count=count // 8))

    return Crafted


# -- the law


def test_they_pass_a_kolmogorov_smirnov_test() -> None:
    assert stats.kstest(normal(200_000).numpy(), "norm").pvalue > 0.001


def test_a_thousand_equally_likely_bins_hold_equally_many() -> None:
    bins = stats.norm.ppf(np.linspace(0, 1, 1001))
    found, _ = np.histogram(normal(1_000_000).numpy(), bins)
    assert 0.001 < stats.chisquare(found).pvalue < 0.999


@pytest.mark.parametrize("beyond", [3.0, 4.0])
def test_as_many_are_in_the_tails_as_should_be(beyond: float) -> None:
    found, count = int((normal(2_000_000).abs() > beyond).sum()), 2_000_000
    assert stats.binomtest(found, count, 2 * stats.norm.sf(beyond)).pvalue > 0.001


def test_neither_neighbours_nor_the_two_of_a_pair_know_of_one_another() -> None:
    values = normal(CHUNK * 20).view(20, CHUNK)
    first, second = values[:, : CHUNK // 2].flatten(), values[:, CHUNK // 2 :].flatten()
    for one, other in [(first, second), (first[:-1], first[1:]), (second[:-1], second[1:])]:
        for a, b in [(one, other), (one**2 - 1, other**2 - 1), (one, other**2 - 1)]:
            scale = float((a**2).mean().sqrt() * (b**2).mean().sqrt())
            assert abs(float((a * b).mean())) < 4.5 * scale / math.sqrt(len(a))


@pytest.mark.parametrize("count", [1, 2, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_they_have_unit_variance_at_every_chunk_border(count: int) -> None:
    values = normal(count)
    assert torch.isfinite(values).all()
    if count > 1000:
        # The variance of n normals has standard deviation sqrt(2 / n).
        assert abs(float(values.var()) - 1) < 5 * math.sqrt(2 / count)


@given(st.binary(min_size=16, max_size=16))
def test_a_pair_has_the_radius_and_the_angle_of_its_words(words: bytes) -> None:
    class Given(Stream):
        def write_to(self, memory: bytearray, count: int) -> None:
            memory[:count] = words

    pair = torch.empty(2, dtype=torch.float64)
    stream(Given).standard_normal(pair)
    u, angle = (
        Fraction(int.from_bytes(half, "little") + more, 2**64) for half, more in ((words[:8], 1), (words[8:], 0))
    )
    radius = math.sqrt(-2 * (math.log1p(float(u - 1)) if u > Fraction(1, 2) else math.log(u)))
    assert math.hypot(*pair) == pytest.approx(radius, rel=1e-12, abs=2e-8)  # 2^-53 of u near 1, and its root
    if radius > 1e-6:
        # The angle's upper 54 bits, within an eighth of a turn of an axis that the lower two choose.
        bits = int(angle * 2**64)
        signed = (bits - 2**64 if bits >= 2**63 else bits) >> 10
        along, across = math.cos(signed * math.pi / 2**55), math.sin(signed * math.pi / 2**55)
        along = -along if bits & 2 else along
        expected = (across, along) if bits & 1 else (along, across)
        assert [float(one) / radius for one in pair] == pytest.approx(expected, rel=1e-9, abs=1e-9)


KNOWN = "ddd8f32866c34973833467ea1bafbfd164b5a320f6494d0f94b31cf71b6e57f5"


def test_a_key_gives_the_same_numbers_on_every_machine() -> None:
    found = hashlib.sha256(normal(CHUNK + 1).numpy().astype("<f8").tobytes()).hexdigest()
    assert found == KNOWN


# -- the tails


def test_a_radius_of_64_zero_bits_reaches_beyond_nine_standard_deviations() -> None:
    def change(words: np.ndarray) -> None:
        words[:] = 0

    values = normal(2, crafted(change))
    assert values.tolist() == pytest.approx([math.sqrt(2 * 64 * math.log(2)), 0.0])


@pytest.mark.parametrize("word", [-(2**63), 2**63 - 1, -1, 0, 1])
def test_extreme_words_give_finite_numbers(word: int) -> None:
    def change(words: np.ndarray) -> None:
        words[:] = word

    assert normal(4, crafted(change)).abs().max() < 9.5


@pytest.mark.parametrize("zero_bits", [12, 32, 40])
def test_beyond_six_standard_deviations_radii_follow_their_law(zero_bits: int) -> None:
    """So many zero bits first, and what is left of the uniform number is uniform: 32 are 6.7 standard deviations."""

    def change(words: np.ndarray) -> None:
        words.view(np.uint64)[: len(words) // 2] >>= zero_bits

    values = normal(CHUNK, crafted(change))
    squared = values[: CHUNK // 2] ** 2 + values[CHUNK // 2 :] ** 2
    uniform = torch.exp(-squared / 2) * 2.0**zero_bits
    assert float(squared.min()) >= 2 * zero_bits * math.log(2) * (1 - 1e-12)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 0.001


# -- the gaps


def unevenness(values: Tensor, frequency: float) -> float:
    """How much likelier places `1 / frequency` grid steps apart are than those between; 1: no others happen.

    The size of the mean of exp(2 pi i frequency x), x in grid steps: about 1 / sqrt(n) for a smooth law.
    """
    turns = values.double() * (frequency / grid_step(1.0))
    turns = (turns - turns.round()) * (2 * math.pi)
    return math.hypot(float(turns.cos().mean()), float(turns.sin().mean()))


@pytest.mark.parametrize("frequency", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_no_place_between_two_steps_of_the_grid_is_likelier_than_another(frequency: float) -> None:
    count = 1_000_000
    assert unevenness(normal(count), frequency) < 3.5 / math.sqrt(count)


@pytest.mark.parametrize("frequency", [4.0, 8.0])
def test_the_gaps_of_float32_would_be_seen(frequency: float) -> None:
    count = 1_000_000
    assert unevenness(normal(count).float(), frequency) > 0.01


# -- the stream


@pytest.mark.parametrize(
    ("counts", "pairs"),
    [([1], 1), ([7], 4), ([7, 7], 4 + 4), ([CHUNK], CHUNK // 2), ([CHUNK + 1], CHUNK // 2 + 1)],
)
def test_how_much_of_the_stream_is_used_depends_on_the_counts_alone(counts: list[int], pairs: int) -> None:
    used, untouched = stream(), stream()
    for count in counts:
        used.standard_normal(torch.empty(count, dtype=torch.float64))
    untouched.random_bytes(BYTES_PER_PAIR * pairs)
    assert used.words(2).tolist() == untouched.words(2).tolist()


def test_the_number_of_threads_changes_nothing() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(normal(3 * CHUNK))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("count", [1, 999, CHUNK // 2, CHUNK // 2 + 1])
def test_no_number_is_given_twice(count: int) -> None:
    one, times = stream(), 40_000 // count if count > 1 else 500
    given = torch.empty(times, count, dtype=torch.float64)
    for row in given:
        one.standard_normal(row)
    assert len(torch.unique(given)) == times * count


def test_few_at_a_time_have_the_same_law() -> None:
    one, given = stream(), torch.empty(200, 777, dtype=torch.float64)
    for row in given:
        one.standard_normal(row)
    assert stats.kstest(given.flatten().numpy(), "norm").pvalue > 0.001
