"""Rounding is right on average, never a whole step away, and refuses what is no number."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS
from lepton_fl.secure_aggregation.quantise import Quantiser, dequantise, quantise


def fixed(byte: int) -> Callable[[int], bytes]:
    return lambda count: bytes([byte]) * count


@pytest.mark.parametrize("bits", range(2, 25))
def test_the_ends_of_the_range_are_the_largest_integers(bits: int) -> None:
    integers, cut = quantise(np.array([-0.5, 0.0, 0.5]), Quantiser(0.5, bits), os.urandom)
    assert integers.tolist() == [-(2 ** (bits - 1) - 1), 0, 2 ** (bits - 1) - 1]
    assert cut == 0


def test_values_on_an_integer_are_exact() -> None:
    # Three bits: the largest integer is 3, so with bound 3 a step is 1.
    integers, _ = quantise(np.array([-3, -2, -1, 0, 1, 2, 3], np.float32), Quantiser(3.0, 3), os.urandom)
    assert integers.tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert integers.dtype == np.int32


@pytest.mark.parametrize("value, share", [(0.25, 0.25), (-0.25, 0.75), (1.5, 0.5), (-2.9, 0.1)])
def test_a_value_between_two_integers_goes_up_as_often_as_it_is_near(value: float, share: float) -> None:
    count = 200_000
    integers, _ = quantise(np.full(count, value), Quantiser(3.0, 3), os.urandom)
    assert set(integers.tolist()) == {int(np.floor(value)), int(np.floor(value)) + 1}
    up = np.mean(integers == np.floor(value) + 1)
    assert abs(up - share) < 6 * np.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [8, 16, 18, 22, 24])
def test_rounding_has_no_bias_at_any_resolution(bits: int, dtype: type) -> None:
    quantiser, count = Quantiser(1.0, bits), 400_000
    values = np.random.default_rng(bits).uniform(-1, 1, count).astype(dtype)
    integers, _ = quantise(values, quantiser, os.urandom)
    error = integers - values.astype(np.float64) / quantiser.step
    # The error of one entry has variance f(1 - f), 1/6 on average; six standard deviations of the mean.
    assert abs(error.mean()) < 6 * np.sqrt(1 / 6 / count)
    assert error.var() == pytest.approx(1 / 6, rel=0.02)


def test_even_a_fraction_below_a_coin_goes_up_sometimes() -> None:
    """Three quarters of a coin: one coin of 2^16 takes it up, where coins at the ends of their parts would sink it."""
    count = 1_000_000
    integers, _ = quantise(np.full(count, 0.75 * 2**-16), Quantiser(3.0, 3), fixed(1))
    assert set(integers.tolist()) == {0, 1}
    assert 1 <= integers.sum() <= 40  # 15 are expected


def test_near_the_largest_float_steps_rounding_has_no_bias_either() -> None:
    """Where float32 itself has steps of 2^-6: arithmetic in float32 would be off by 2^-7."""
    quantiser, count = Quantiser(float(2**17 - 1), 18), 2_000_000
    values = np.full(count, 2**17 - 2 + 2**-7 * 42, np.float32)
    integers, _ = quantise(values, quantiser, os.urandom)
    off = integers.mean() - float(values[0])
    assert abs(off) < 6 * np.sqrt(0.25 / count) < 2**-7


@given(
    values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20),
    bits=st.integers(2, 24),
    factor=st.floats(0, 1),
    key=st.integers(0, 255),
)
@settings(deadline=None)
def test_no_value_within_the_bound_moves_by_a_whole_step(
    values: list[float], bits: int, factor: float, key: int
) -> None:
    quantiser = Quantiser(2.0, bits)
    integers, cut = quantise(np.array(values, np.float32), quantiser, fixed(key), factor)
    assert np.all(np.abs(integers * quantiser.step - np.array(values) * factor) < quantiser.step * (1 + 1e-9))
    assert cut == 0


def test_values_beyond_the_bound_go_to_its_end_and_are_counted() -> None:
    integers, cut = quantise(np.array([1.01, -7.0, 1e300, 0.0, 1.0]), Quantiser(1.0, 8), os.urandom)
    assert integers.tolist() == [127, -127, 127, 0, 127]
    assert cut == 3


def test_a_product_that_overflows_goes_to_the_end() -> None:
    integers, cut = quantise(np.array([1e308, -1e308]), Quantiser(1e-290, 8), os.urandom)
    assert (integers.tolist(), cut) == ([127, -127], 2)


def test_a_bound_that_float32_rounds_up_is_not_cut() -> None:
    assert float(np.float32(0.1)) > 0.1
    assert quantise(np.array([0.1], np.float32), Quantiser(0.1, 22), os.urandom)[1] == 0


def test_a_factor_weighs_the_values() -> None:
    integers, _ = quantise(np.array([2.0, -3.0]), Quantiser(3.0, 3), os.urandom, factor=0.0)
    assert integers.tolist() == [0, 0]
    integers, _ = quantise(np.array([2.0, -2.0, 6.0]), Quantiser(3.0, 3), os.urandom, factor=0.5)
    assert integers.tolist() == [1, -1, 3]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 8])
def test_what_is_no_number_is_refused_wherever_it_is(wrong: float, place: int) -> None:
    values = np.zeros(CHUNK_WORDS + 9, np.float32)
    values[place] = wrong
    with pytest.raises(ValueError, match="infinite or not a number"):
        quantise(values, Quantiser(1.0, 8), os.urandom)


@pytest.mark.parametrize("factor", [-0.1, np.nan, np.inf])
def test_a_factor_that_weighs_nothing_sensible_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        quantise(np.zeros(1), Quantiser(1.0, 8), os.urandom, factor)


def test_a_bound_too_small_to_divide_by_is_refused() -> None:
    with pytest.raises(ValueError, match="bound of 5e-324"):
        quantise(np.zeros(1), Quantiser(5e-324, 8), os.urandom)


@pytest.mark.parametrize("values", [np.zeros(2, np.int64), np.zeros((2, 2)), np.zeros(2, np.float16)])
def test_other_than_a_vector_of_floats_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        quantise(values, Quantiser(1.0, 8), os.urandom)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="bound"):
        Quantiser(bound, 8)


@pytest.mark.parametrize("bits", [1, 25])
def test_a_resolution_without_room_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        Quantiser(1.0, bits)


def test_nothing_is_quantised_to_nothing() -> None:
    integers, cut = quantise(np.zeros(0), Quantiser(1.0, 8), os.urandom)
    assert (integers.tolist(), cut) == ([], 0)


def test_the_same_coins_round_alike_and_a_chunk_never_repeats_the_last() -> None:
    values = np.full(2 * CHUNK_WORDS, 0.5)
    first, again = (quantise(values, Quantiser(3.0, 3), fixed(1))[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[:CHUNK_WORDS] != first[CHUNK_WORDS:]).any()


def test_integers_can_be_put_where_there_is_room_for_them() -> None:
    out = np.zeros(2, np.int32)
    integers, _ = quantise(np.array([3.0, -3.0]), Quantiser(3.0, 3), os.urandom, out=out)
    assert integers is out
    assert out.tolist() == [3, -3]
    for unfit in (np.zeros(3, np.int32), np.zeros(2, np.int64)):
        with pytest.raises(ValueError, match="no room"):
            quantise(np.zeros(2), Quantiser(3.0, 3), os.urandom, out=unfit)  # type: ignore[arg-type]


def test_a_sum_comes_back_in_the_units_of_the_values() -> None:
    assert dequantise(np.array([127, -254, 0]), Quantiser(0.5, 8)).tolist() == [0.5, -1.0, 0.0]
