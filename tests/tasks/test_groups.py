"""Crossed groups: every record in one cell, every cell in one group of each attribute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.errors import ConfigError
from lepton_fl.tasks.groups import UNKNOWN, Attribute, Groups

SEX, AGE = Attribute("sex", ("f", "m")), Attribute("age", ("young", "middle", "old"))


def attributes() -> st.SearchStrategy[Groups]:
    values = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4, unique=True).map(tuple)
    names = st.lists(st.sampled_from("pqr"), min_size=1, max_size=3, unique=True)
    return names.flatmap(
        lambda chosen: st.tuples(*(values for _ in chosen)).map(
            lambda each: Groups(tuple(Attribute(n, v) for n, v in zip(chosen, each, strict=True)))
        )
    )


def test_without_attributes_everybody_is_in_one_cell() -> None:
    assert Groups(()).cells == 1
    assert Groups(()).shape == ()


def test_two_attributes_are_crossed_with_an_unknown_of_each() -> None:
    groups = Groups((SEX, AGE))
    assert groups.cells == 3 * 4
    codes = groups.codes({"sex": np.array([0, 1, -1, 1]), "age": np.array([0, 2, -1, 1])})
    assert codes.tolist() == [0, 4 + 2, 8 + 3, 4 + 1]
    assert groups.members("sex", "m").tolist() == [4, 5, 6, 7]
    assert groups.members("age", "old").tolist() == [2, 6, 10]
    assert groups.members("age", UNKNOWN).tolist() == [3, 7, 11]


@given(attributes())
def test_the_groups_of_an_attribute_share_out_all_cells(groups: Groups) -> None:
    for one in groups.attributes:
        cells = np.concatenate([groups.members(one.name, value) for value in one.groups])
        assert sorted(cells.tolist()) == list(range(groups.cells))


@given(attributes(), st.data())
def test_a_record_is_a_member_of_the_groups_it_was_declared_in_and_no_other(
    groups: Groups, data: st.DataObject
) -> None:
    places = {one.name: data.draw(st.integers(-1, len(one.values) - 1)) for one in groups.attributes}
    cell = int(groups.codes({name: np.array([place]) for name, place in places.items()})[0])
    for one in groups.attributes:
        inside = [value for value in one.groups if cell in groups.members(one.name, value)]
        assert inside == [one.groups[places[one.name]]]


def test_an_unknown_attribute_or_group_is_no_group() -> None:
    for name, value in [("colour", "f"), ("sex", "x")]:
        with pytest.raises(KeyError, match="no group"):
            Groups((SEX,)).members(name, value)


@pytest.mark.parametrize("values", [("f", "f"), ("f", UNKNOWN)])
def test_groups_that_are_not_different_are_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="nothing was read"):
        Attribute("sex", values)


def test_more_than_a_thousand_cells_are_refused() -> None:
    most = Attribute("postcode", tuple(str(number) for number in range(999)))
    assert Groups((most,)).cells == 1000
    with pytest.raises(ConfigError, match="1001 groups when crossed, and 1000 may be"):
        Groups((Attribute("postcode", (*most.values, "999")),))
