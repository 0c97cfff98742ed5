"""A schema says what each word stands for, leaves room for the sum, and never lets an integer be cut."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.errors import ConfigError
from lepton_fl.secure_aggregation.vector import Schema, Segment, from_sum, to_words

UPDATE = Segment("update", "values", 3, bound=3.0)
COUNTS = Segment("counts", "integers", 2, limbs=2)
NOISY = Segment("noisy", "ring", 2, bound=100)


def summed(schema: Schema, parts: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    total = np.zeros(schema.length, np.uint32)
    for arrays in parts:
        total += to_words(schema, arrays, os.urandom).words
    return from_sum(schema, total)


def test_words_are_laid_out_segment_by_segment_and_limb_by_limb() -> None:
    schema = Schema((COUNTS, NOISY), cohort=4, wire_bits=24)
    made = to_words(schema, {"counts": np.array([1, 3 * 2**15 + 2]), "noisy": np.array([-1, 100])}, os.urandom)
    assert made.words.tolist() == [1, 2, 0, 3, 2**32 - 1, 100]
    assert schema.length == 6


def test_three_institutions_are_summed_in_every_kind() -> None:
    schema = Schema((UPDATE, COUNTS, NOISY), cohort=3, wire_bits=24)
    one = {"update": np.array([1.0, -2.0, 3.0]), "counts": np.array([2**30 - 1, 7]), "noisy": np.array([-100, 5])}
    sums = summed(schema, [one] * 3)
    # 22 bits of bound 3: a step is 1.4e-6, and each of three institutions is off by less than one.
    np.testing.assert_allclose(sums["update"], [3.0, -6.0, 9.0], atol=3 * schema.quantiser(UPDATE).step)
    assert sums["counts"].tolist() == [3 * (2**30 - 1), 21]
    assert sums["noisy"].tolist() == [-300, 15]
    assert [sums[name].dtype for name in sums] == [np.float64, np.int64, np.int64]


@given(
    cohort=st.integers(1, 256),
    limbs=st.integers(1, 3),
    wire_bits=st.sampled_from([24, 32]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_integers_are_summed_exactly(cohort: int, limbs: int, wire_bits: int, data: st.DataObject) -> None:
    schema = Schema((Segment("n", "integers", 2, limbs=limbs),), cohort, wire_bits)
    entries = st.integers(0, 2 ** (15 * limbs) - 1)
    parts = data.draw(st.lists(st.tuples(entries, entries), min_size=1, max_size=min(cohort, 5)))
    sums = summed(schema, [{"n": np.array(part)} for part in parts])
    assert sums["n"].tolist() == [sum(column) for column in zip(*parts, strict=True)]


@pytest.mark.parametrize("cohort, wire_bits", [(1, 24), (3, 24), (4, 24), (256, 24), (1000, 24), (256, 32), (1000, 32)])
def test_at_the_bound_the_whole_cohort_fits(cohort: int, wire_bits: int) -> None:
    schema = Schema((Segment("v", "values", 2, bound=1.0),), cohort, wire_bits)
    words = to_words(schema, {"v": np.array([1.0, -1.0])}, os.urandom).words
    sums = from_sum(schema, words * np.uint32(cohort))
    assert sums["v"].tolist() == [cohort, -cohort]


@pytest.mark.parametrize(
    "cohort, wire_bits, bits", [(1, 24, 22), (4, 24, 22), (5, 24, 21), (256, 24, 16), (257, 24, 15), (256, 32, 22)]
)
def test_values_get_the_bits_that_the_cohort_leaves(cohort: int, wire_bits: int, bits: int) -> None:
    schema = Schema((UPDATE,), cohort, wire_bits)
    assert schema.quantiser(UPDATE).bits == bits
    assert cohort * schema.quantiser(UPDATE).largest < 2 ** (wire_bits - 1)


def test_limbs_of_the_largest_cohort_fit_and_of_a_larger_one_are_refused() -> None:
    schema = Schema((Segment("n", "integers", 1, limbs=3),), 256, 24)
    words = to_words(schema, {"n": np.array([2**45 - 1])}, os.urandom).words
    assert from_sum(schema, words * np.uint32(256))["n"].tolist() == [256 * (2**45 - 1)]
    with pytest.raises(ConfigError, match="at most 256"):
        Schema(schema.segments, 257, 24)


@pytest.mark.parametrize("wire_bits, largest", [(24, (2**23 - 1) // 10), (32, (2**31 - 1) // 10)])
def test_ring_integers_fit_at_the_boundary_and_are_refused_beyond_it(wire_bits: int, largest: int) -> None:
    schema = Schema((Segment("r", "ring", 2, bound=largest),), 10, wire_bits)
    words = to_words(schema, {"r": np.array([largest, -largest])}, os.urandom).words
    assert from_sum(schema, words * np.uint32(10))["r"].tolist() == [10 * largest, -10 * largest]
    with pytest.raises(ConfigError, match=f"may pass {wire_bits} bits"):
        Schema((Segment("r", "ring", 2, bound=largest + 1),), 10, wire_bits)


def test_a_sum_of_exactly_half_the_ring_is_refused() -> None:
    """It would read as the most negative integer."""
    with pytest.raises(ConfigError, match="may pass 24 bits"):
        Schema((Segment("r", "ring", 1, bound=2**22),), 2, 24)


def test_a_cohort_that_leaves_no_bits_is_refused() -> None:
    assert Schema((UPDATE,), 2**22, 24).quantiser(UPDATE).bits == 2
    with pytest.raises(ConfigError, match="fewer than 2 bits"):
        Schema((UPDATE,), 2**22 + 1, 24)


@pytest.mark.parametrize(
    "segment, array",
    [
        (COUNTS, np.array([-1, 0])),
        (COUNTS, np.array([0, 2**30])),
        (NOISY, np.array([101, 0])),
        (NOISY, np.array([0, -101])),
        (NOISY, np.array([0, 2**63], np.uint64)),
    ],
)
def test_an_integer_outside_its_range_is_refused_and_never_cut(segment: Segment, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="outside"):
        to_words(Schema((segment,), 3, 24), {segment.name: array}, os.urandom)


@pytest.mark.parametrize("segment", [COUNTS, NOISY])
@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(2, np.bool_)])
def test_integers_do_not_come_as_anything_else(segment: Segment, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="takes integers"):
        to_words(Schema((segment,), 3, 24), {segment.name: array}, os.urandom)


@pytest.mark.parametrize("array", [np.zeros(2), np.zeros(4), np.zeros((3, 1))])
def test_an_array_of_another_shape_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="3 entries"):
        to_words(Schema((UPDATE,), 3, 24), {"update": array}, os.urandom)


def test_arrays_of_other_names_are_refused() -> None:
    schema = Schema((UPDATE,), 3, 24)
    for arrays in ({}, {"updates": np.zeros(3)}, {"update": np.zeros(3), "count": np.zeros(1)}):
        with pytest.raises(ValueError, match="not those of the schema"):
            to_words(schema, arrays, os.urandom)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        to_words(Schema((UPDATE,), 3, 24), {"update": np.array([0.0, np.nan, 0.0])}, os.urandom)


def test_values_beyond_their_bound_are_cut_and_counted() -> None:
    schema = Schema((UPDATE,), 3, 24)
    made = to_words(schema, {"update": np.array([4.0, 0.0, -5.0])}, os.urandom)
    assert made.saturated == 2
    assert from_sum(schema, made.words)["update"].tolist() == [3.0, 0.0, -3.0]


def test_the_bits_above_the_wire_do_not_matter() -> None:
    schema = Schema((NOISY,), 3, 24)
    words = to_words(schema, {"noisy": np.array([-7, 7])}, os.urandom).words
    assert from_sum(schema, words & np.uint32(2**24 - 1))["noisy"].tolist() == [-7, 7]


@pytest.mark.parametrize(
    "segment, word",
    [(COUNTS, 2**24 - 1), (COUNTS, 3 * (2**15 - 1) + 1), (NOISY, 301), (NOISY, 2**24 - 301), (UPDATE, 2**23 - 1)],
)
def test_a_sum_that_no_cohort_can_have_is_refused(segment: Segment, word: int) -> None:
    schema = Schema((segment,), 3, 24)
    words = np.zeros(schema.length, np.uint32)
    words[-1] = word
    with pytest.raises(ValueError, match="no 3 institutions"):
        from_sum(schema, words)


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="3 words"):
        from_sum(Schema((UPDATE,), 3, 24), np.zeros(4, np.uint32))


def test_the_hash_of_a_schema_is_frozen() -> None:
    """Institutions of different versions must agree on it."""
    written = (
        b"lepton-fl/secure-aggregation/1/schema\0"
        + bytes.fromhex("00000004 00000018 00000002")  # cohort, wire bits, segments
        + bytes.fromhex("00000006") + b"update" + bytes.fromhex("00000006") + b"values"
        + bytes.fromhex("0000000000000003 4008000000000000 00000000")  # length, 3.0, limbs
        + bytes.fromhex("00000006") + b"counts" + bytes.fromhex("00000008") + b"integers"
        + bytes.fromhex("0000000000000002 0000000000000000 00000002")
    )  # fmt: skip
    assert Schema((UPDATE, COUNTS), 4, 24).sha256 == hashlib.sha256(written).digest()


def test_every_field_is_in_the_hash() -> None:
    def changed(**fields: Any) -> Segment:
        return Segment(**{"name": "s", "kind": "values", "length": 3, "bound": 2.0} | fields)

    schemas = [
        Schema((changed(),), 4, 24),
        Schema((changed(),), 5, 24),
        Schema((changed(),), 4, 32),
        Schema((changed(name="t"),), 4, 24),
        Schema((changed(kind="ring"),), 4, 24),
        Schema((changed(length=4),), 4, 24),
        Schema((changed(bound=3.0),), 4, 24),
        Schema((changed(kind="integers", bound=0.0, limbs=1),), 4, 24),
        Schema((changed(kind="integers", bound=0.0, limbs=2),), 4, 24),
        Schema((changed(), changed(name="t")), 4, 24),
        Schema((changed(name="t"), changed()), 4, 24),
    ]
    assert len({schema.sha256 for schema in schemas}) == len(schemas)
    assert Schema((changed(bound=2),), 4, 24).sha256 == schemas[0].sha256


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"length": 0},
        {"kind": "other"},
        {"bound": 0.0},
        {"bound": -1.0},
        {"bound": float("nan")},
        {"bound": float("inf")},
        {"limbs": 1},
        {"kind": "integers", "bound": 0.0, "limbs": 0},
        {"kind": "integers", "bound": 0.0, "limbs": 4},
        {"kind": "integers", "bound": 1.0, "limbs": 1},
        {"kind": "ring", "bound": 0.5},
        {"kind": "ring", "bound": 0},
        {"kind": "ring", "bound": float("nan")},
        {"kind": "ring", "bound": 2.0**31},
        {"kind": "ring", "bound": 5, "limbs": 1},
    ],
)
def test_a_segment_that_describes_nothing_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="does not describe"):
        Segment(**{"name": "s", "kind": "values", "length": 3, "bound": 2.0} | fields)


@pytest.mark.parametrize("segments, cohort, wire_bits", [((), 3, 24), ((UPDATE, UPDATE), 3, 24)])
def test_a_schema_without_segments_or_with_doubled_names_is_refused(
    segments: tuple[Segment, ...], cohort: int, wire_bits: int
) -> None:
    with pytest.raises(ConfigError, match="different names"):
        Schema(segments, cohort, wire_bits)


@pytest.mark.parametrize("cohort, wire_bits", [(0, 24), (-1, 24), (3, 16), (3, 23)])
def test_a_sum_that_cannot_travel_is_refused(cohort: int, wire_bits: int) -> None:
    with pytest.raises(ConfigError, match="none that can be sent"):
        Schema((UPDATE,), cohort, wire_bits)


def test_only_values_have_a_quantiser() -> None:
    with pytest.raises(ValueError, match="not quantised"):
        Schema((UPDATE, COUNTS), 3, 24).quantiser(COUNTS)
