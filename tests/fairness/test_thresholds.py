"""Thresholds by group: opt-in with a stated law, from noisy counts, and groups too small keep one half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import Histogram, Layout
from lepton_fl.fairness.settings import Thresholds
from lepton_fl.fairness.thresholds import chosen, decided_by, thresholds_as_json
from lepton_fl.tasks.groups import Attribute, Groups

SEX, AGE = Attribute("sex", ("female", "male")), Attribute("age", ("young", "old"))
GROUPS = Groups((SEX,))
LAWFUL = Thresholds(attribute="sex", target="recall", legal_basis="an act of somewhere, section 3")
# By sex and label, ten bins of the score. Positive women score lower than positive men.
COUNTS = np.zeros((3, 2, 10), dtype=np.int64)
COUNTS[0, 1] = [10, 10, 10, 20, 20, 10, 10, 5, 5, 0]
COUNTS[1, 1] = [0, 10, 10, 10, 10, 20, 20, 40, 40, 40]
COUNTS[:2, 0] = 30


def histogram(table: np.ndarray = COUNTS, variance: float = 0.0) -> Histogram:
    return Histogram(Layout(GROUPS, 2, table.shape[2]), table, variance)


def recalls(decisions: Histogram) -> list[float]:
    table = decisions.table.astype(float)
    return [float(table[sex, 1, 1] / table[sex, 1].sum()) for sex in (0, 1)]


@pytest.mark.parametrize("text", ["", "   "])
def test_without_a_legal_basis_there_are_no_thresholds(text: str) -> None:
    with pytest.raises(ConfigError, match=r"fairness\.legal_basis"):
        replace(LAWFUL, legal_basis=text)


def test_each_groups_recall_comes_nearest_to_that_of_all_at_one_half() -> None:
    found = chosen(LAWFUL, histogram())
    # Of all, 190 of 300 are found at one half: 0.633. From bin 3 on 70 of 100 women, from 7 on 120 of 200 men.
    assert found.edges[:2] == (3, 7)
    assert recalls(histogram().coarser(2)) == [0.3, 0.8]
    assert recalls(decided_by(found, histogram())) == [0.7, 0.6]


def test_selection_brings_the_shares_of_the_chosen_together() -> None:
    found = chosen(replace(LAWFUL, target="selection"), histogram())
    table = decided_by(found, histogram()).table
    share = table[:2, :, 1].sum(axis=1) / table[:2].sum(axis=(1, 2))
    assert abs(share[0] - share[1]) < 0.06


def test_a_group_that_is_too_small_keeps_one_half_and_is_named() -> None:
    found = chosen(LAWFUL, histogram(variance=400.0))  # 5 standard deviations of ten cells are 316
    assert found.edges == (5, 5, 5)
    assert found.kept == ("female", "male", "unknown")
    assert chosen(LAWFUL, histogram()).kept == ("unknown",)


def test_the_file_says_from_which_score_on_and_by_what_law() -> None:
    document = thresholds_as_json(chosen(LAWFUL, histogram()))
    assert document["thresholds"] == {"female": 0.3, "male": 0.7, "unknown": 0.5}
    assert document["legal_basis"] == "an act of somewhere, section 3"
    assert document["suppressed"] == ["unknown"]


def test_thresholds_are_judged_by_a_finer_histogram_and_its_noise_is_not_understated() -> None:
    found = chosen(LAWFUL, histogram())
    fine = histogram(np.repeat(COUNTS, 2, axis=2), variance=4.0)
    judged = decided_by(found, fine)
    assert recalls(judged) == recalls(decided_by(found, histogram()))
    assert judged.variance == 4.0 * 14  # 14 of 20 bins lie above the lowest threshold


def test_in_crossed_groups_each_cell_has_its_groups_threshold() -> None:
    groups = Groups((SEX, AGE))
    crossed = np.zeros((9, 2, 10), dtype=np.int64)
    for place, group in enumerate(SEX.groups):
        crossed[groups.members("sex", group)[0]] = COUNTS[place]
    whole = Histogram(Layout(groups, 2, 10), crossed, 0.0)
    found = chosen(LAWFUL, whole)
    assert found.edges == chosen(LAWFUL, histogram()).edges
    assert decided_by(found, whole).table.sum() == COUNTS.sum()


@settings(max_examples=50, deadline=None)
@given(arrays(np.int64, (3, 2, 10), elements=st.integers(-50, 500)), st.floats(0.0, 100.0))
def test_whatever_the_counts_a_threshold_lies_inside_and_nobody_is_lost(table: np.ndarray, variance: float) -> None:
    found = chosen(LAWFUL, histogram(table, variance))
    assert all(1 <= edge <= 9 for edge in found.edges)
    assert decided_by(found, histogram(table, variance)).table.sum() == table.sum()
