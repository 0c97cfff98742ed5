"""Any threshold of shares gives the secret back, fewer say nothing, and false ones are found."""

from __future__ import annotations

import os
import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.secure_aggregation import shamir
from lepton_fl.secure_aggregation.shamir import P, combine, decode, element, from_bytes, split, to_bytes

elements = st.integers(0, P - 1)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - which shares a test falsifies is no secret


def falsified(shares: dict[int, int], which: list[int], by: random.Random) -> dict[int, int]:
    return {x: (y + by.randrange(1, P)) % P if x in which else y for x, y in shares.items()}


def coefficients(*values: int):
    """A source that gives these field elements one after the other."""
    left = list(values)
    return lambda count: left.pop(0).to_bytes(count, "little")


def test_a_share_is_the_value_of_the_polynomial() -> None:
    # 7 + 2x + 3x^2
    assert split(7, 3, [1, 2, 10], coefficients(2, 3)) == {1: 12, 2: 23, 10: 327}


def test_shares_worked_by_hand_give_the_secret() -> None:
    assert combine({1: 12, 2: 23, 10: 327}) == 7


@given(secret=elements, threshold=st.integers(1, 6), spare=st.integers(0, 3), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_shares_suffices(secret: int, threshold: int, spare: int, seed: int) -> None:
    by = seeded(seed)
    points = by.sample(range(1, 1000), threshold + spare)
    shares = split(secret, threshold, points, by.randbytes)
    for chosen in combinations(points, threshold):
        assert combine({x: shares[x] for x in chosen}) == secret


def test_a_false_share_is_found_and_decoded_around() -> None:
    shares = split(42, 3, [1, 2, 3, 4, 5], os.urandom)
    found = decode({**shares, 4: (shares[4] + 1) % P}, 3)
    assert found is not None
    assert (found.secret, found.false) == (42, {4})


@given(
    secret=elements, threshold=st.integers(1, 12), spare=st.integers(0, 12), seed=st.integers(0, 2**32), data=st.data()
)
@settings(max_examples=80, deadline=None)
def test_false_shares_up_to_half_the_spare_ones_are_decoded_around(
    secret: int, threshold: int, spare: int, seed: int, data: st.DataObject
) -> None:
    by = seeded(seed)
    shares = split(secret, threshold, by.sample(range(1, 10**6), threshold + spare), by.randbytes)
    false = by.sample(sorted(shares), data.draw(st.integers(0, spare // 2)))
    found = decode(falsified(shares, false, by), threshold)
    assert found is not None
    assert (found.secret, found.false) == (secret, set(false))


@given(threshold=st.integers(1, 10), spare=st.integers(1, 10), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_more_false_shares_than_can_be_corrected_are_refused(threshold: int, spare: int, seed: int) -> None:
    by = seeded(seed)
    shares = split(1, threshold, range(1, threshold + spare + 1), by.randbytes)
    # Random false values lie within reach of another polynomial with a chance near 2^-255.
    false = by.sample(sorted(shares), spare // 2 + 1)
    assert decode(falsified(shares, false, by), threshold) is None


def test_colluders_beyond_the_bound_can_imitate_another_secret() -> None:
    """Which is why what is decoded is still compared with its commitment."""
    true, other = split(1, 2, [1, 2, 3, 4], os.urandom), split(2, 2, [1, 2, 3, 4], os.urandom)
    found = decode({1: true[1], 2: other[2], 3: other[3], 4: other[4]}, 2)
    assert found is not None
    assert (found.secret, found.false) == (2, {1})


def test_exactly_the_threshold_of_shares_is_decoded_without_any_check() -> None:
    shares = split(9, 3, [1, 2, 3], os.urandom)
    assert decode(shares, 3) == shamir.Decoded(9, frozenset())


def test_the_zero_secret_under_zero_shares_is_decoded_around_a_false_one() -> None:
    assert decode({1: 0, 2: 0, 3: 5, 4: 0}, 2) == shamir.Decoded(0, frozenset({3}))


def test_a_large_cohort_is_decoded_around_the_most_false_shares_there_may_be() -> None:
    by = seeded(1)
    shares = split(77, 134, range(1, 201), by.randbytes)
    found = decode(falsified(shares, list(range(5, 38)), by), 134)
    assert found == shamir.Decoded(77, frozenset(range(5, 38)))
    assert decode(falsified(shares, list(range(5, 39)), by), 134) is None


@pytest.mark.parametrize("threshold", [0, -1])
def test_a_threshold_that_hides_nothing_is_not_decoded(threshold: int) -> None:
    with pytest.raises(ValueError, match="hides nothing"):
        decode({1: 1}, threshold)


def test_a_share_at_zero_is_not_decoded() -> None:
    with pytest.raises(ValueError, match="distinct and not zero"):
        decode({0: 1, 1: 1}, 1)


def test_fewer_shares_than_the_threshold_decode_to_nothing() -> None:
    shares = split(9, 3, [1, 2, 3], os.urandom)
    assert decode({1: shares[1], 2: shares[2]}, 3) is None
    assert decode({}, 1) is None


def solved(rows: list[list[int]]) -> list[int]:
    """The solution of a regular system modulo P, right-hand sides in the last column, by Gauss and Jordan."""
    for column in range(len(rows)):
        pivot = next(row for row in range(column, len(rows)) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], -1, P)
        rows[column] = [entry * inverse % P for entry in rows[column]]
        for row in range(len(rows)):
            if row != column:
                factor = rows[row][column]
                rows[row] = [(a - factor * b) % P for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[-1] for row in rows]


@given(secret=elements, wanted=st.lists(elements, min_size=1, max_size=5), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_one_share_fewer_than_the_threshold_is_uniform_whatever_the_secret(
    secret: int, wanted: list[int], seed: int
) -> None:
    """For every secret, any t - 1 share values come from one choice of the t - 1 coefficients.

    So many coefficients onto so many values is one to one, and uniform coefficients make uniform shares.
    """
    points = seeded(seed).sample(range(1, 1000), len(wanted) + 1)
    rows = [
        [pow(x, power, P) for power in range(1, len(points))] + [(y - secret) % P]
        for x, y in zip(points[:-1], wanted, strict=True)
    ]
    shares = split(secret, len(points), points, coefficients(*solved(rows)))
    assert [shares[x] for x in points[:-1]] == wanted


def test_an_element_is_below_the_prime_and_drawn_again_when_it_is_not() -> None:
    too_large = [2**255 - 19, 2**256 - 1, 2**255 - 20]
    assert element(coefficients(*too_large)) == P - 1


def test_the_top_bit_of_an_element_is_dropped() -> None:
    assert element(coefficients(2**255 + 5)) == 5


@given(value=elements)
def test_an_element_survives_its_encoding(value: int) -> None:
    assert from_bytes(to_bytes(value)) == value


def test_an_encoding_is_little_endian() -> None:
    assert to_bytes(258) == bytes([2, 1]) + bytes(30)


@pytest.mark.parametrize("encoded", [b"", bytes(31), bytes(33), P.to_bytes(32, "little"), b"\xff" * 32])
def test_bytes_that_are_no_element_are_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="element"):
        from_bytes(encoded)


@pytest.mark.parametrize("value", [-1, P])
def test_a_number_outside_the_field_has_no_encoding(value: int) -> None:
    with pytest.raises(ValueError, match="element"):
        to_bytes(value)


@pytest.mark.parametrize("points", [[], [0, 1], [1, 1], [1, P + 1], [1, P]])
def test_points_that_are_zero_or_doubled_are_refused(points: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct and not zero"):
        split(1, 1, points, os.urandom)
    if len(set(points)) == len(points):
        with pytest.raises(ValueError, match="distinct and not zero"):
            combine(dict.fromkeys(points, 1))


@pytest.mark.parametrize("threshold", [0, 3, -1])
def test_a_threshold_that_does_not_fit_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(1, threshold, [1, 2], os.urandom)


@pytest.mark.parametrize("secret", [-1, P])
def test_a_secret_outside_the_field_is_refused(secret: int) -> None:
    with pytest.raises(ValueError, match="element"):
        split(secret, 1, [1], os.urandom)


def test_a_decoded_secret_is_not_printed() -> None:
    assert "424242" not in repr(shamir.Decoded(424242, frozenset()))
