"""A feature's place and scale come from the declaration alone, never from the records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.errors import ConfigError
from lepton_fl.tasks.schema import Column, Label, one_hot, scale

AGE = Column("numeric", "years", low=20, high=60)
BLOOD = Column("categorical", values=["a", "b", "ab"])

ordinary = st.floats(-1e9, 1e9)
cells = st.one_of(ordinary, st.just(math.nan), st.just(math.inf), st.just(-math.inf))


@st.composite
def numeric_columns(draw: st.DrawFn) -> Column:
    low = draw(ordinary)
    return Column("numeric", low=low, high=draw(st.floats(low, 2e9, exclude_min=True)))


@pytest.mark.parametrize(
    ("number", "scaled"), [(20, -1.0), (30, -0.5), (40, 0.0), (60, 1.0), (19.9, -1.0), (-500, -1.0), (61, 1.0)]
)
def test_declared_bounds_become_minus_one_and_one_and_what_lies_outside_is_clipped(
    number: float, scaled: float
) -> None:
    assert scale(np.array([float(number)]), AGE).tolist() == [[scaled, 0.0]]


def test_a_missing_number_is_the_middle_of_the_bounds_with_its_indicator_set() -> None:
    assert scale(np.array([math.nan, 40.0]), AGE).tolist() == [[0.0, 1.0], [0.0, 0.0]]


@given(numeric_columns(), st.lists(cells))
def test_scaled_numbers_always_lie_between_minus_one_and_one(column: Column, numbers: list[float]) -> None:
    scaled = scale(np.array(numbers, dtype=np.float64), column)
    assert scaled.shape == (len(numbers), 2)
    assert scaled.dtype == np.float32
    assert bool(np.all(np.abs(scaled[:, 0]) <= 1))
    assert scaled[:, 1].tolist() == [float(math.isnan(number)) for number in numbers]


@given(numeric_columns(), cells, st.lists(cells), st.lists(cells))
def test_a_number_is_encoded_alike_whatever_the_other_rows_hold(
    column: Column, number: float, before: list[float], after: list[float]
) -> None:
    among_others = scale(np.array([*before, number, *after]), column)[len(before)]
    assert among_others.tolist() == scale(np.array([number]), column)[0].tolist()


@given(numeric_columns(), ordinary, ordinary)
def test_a_larger_number_is_never_scaled_to_a_smaller_one(column: Column, one: float, other: float) -> None:
    scaled = scale(np.array(sorted([one, other])), column)[:, 0]
    assert scaled[0] <= scaled[1]


def test_each_declared_value_has_its_own_feature_and_the_last_is_for_missing() -> None:
    assert one_hot(np.array([0, 2, -1]), BLOOD).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@given(st.integers(-1, 2), st.lists(st.integers(-1, 2)), st.lists(st.integers(-1, 2)))
def test_a_category_is_encoded_alike_whatever_the_other_rows_hold(
    code: int, before: list[int], after: list[int]
) -> None:
    among_others = one_hot(np.array([*before, code, *after]), BLOOD)[len(before)]
    assert among_others.tolist() == one_hot(np.array([code]), BLOOD)[0].tolist()


@pytest.mark.parametrize("column", [AGE, BLOOD, Column("categorical", values=["yes", "no"])])
def test_a_columns_width_is_that_of_its_encoding(column: Column) -> None:
    encoded = scale(np.array([30.0]), column) if column.values is None else one_hot(np.array([0]), column)
    assert encoded.shape == (1, column.width)


@pytest.mark.parametrize("bounds", [(None, 1.0), (0.0, None), (1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_a_numeric_column_without_finite_declared_bounds_is_refused(bounds: tuple[float | None, float | None]) -> None:
    with pytest.raises(ConfigError, match="low < high"):
        Column("numeric", low=bounds[0], high=bounds[1]).check("age")


@pytest.mark.parametrize("values", [None, [], ["one"], ["same", "same"]])
def test_a_categorical_column_without_two_different_values_is_refused(values: list[str] | None) -> None:
    with pytest.raises(ConfigError, match="at least two different values"):
        Column("categorical", values=values).check("age")


def test_two_values_that_differ_only_in_decimals_are_refused_because_a_cell_could_be_either() -> None:
    with pytest.raises(ConfigError, match="different values"):
        Column("categorical", values=["1", "1.0"]).check("age")


def test_an_unknown_kind_of_column_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="numeric, categorical"):
        Column("date", low=0, high=1).check("age")


@pytest.mark.parametrize("values", [[], ["ill"], ["ill", "ill"]])
def test_a_label_without_two_different_values_is_refused(values: list[str]) -> None:
    with pytest.raises(ConfigError, match="at least two different values"):
        Label("disease", values)
