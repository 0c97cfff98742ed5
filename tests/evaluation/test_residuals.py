"""Errors of guessed numbers, by group and declared bins: scikit-learn's figures of the rows, with intervals."""

from __future__ import annotations

import math
from typing import Any

import fairlearn.metrics as fair
import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as learn
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.assess import Assessment, assessment_as_json, assessment_from_json
from lepton_fl.evaluation.figures import NOT_RESOLVED, SHOWN, SUPPRESSED, Figure
from lepton_fl.evaluation.residuals import ResidualHistogram, Residuals, assess_residuals, count_residuals
from lepton_fl.tasks.groups import Attribute, Groups

SEX = Groups((Attribute("sex", ("f", "m")),))
LAYOUT = Residuals(SEX, -4.0, 6.0, 20)  # bins of one half


def assessed(table: npt.NDArray[np.int64], variance: float = 0.0) -> Assessment:
    return assess_residuals(ResidualHistogram(LAYOUT, table, variance), 1.0, 0.95)


def by_name(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {one.metric: one for one in figures}


def gap(found: Assessment, metric: str) -> Any:
    return next(one for one in found.gaps if one.figure.metric == metric)


def test_an_error_is_counted_in_its_bin_and_beyond_the_bounds_in_the_outermost_one() -> None:
    errors = np.array([-4.0, -3.6, -9.0, 0.0, 5.99, 6.0, 1e300, math.inf, math.nan])
    found = count_residuals(errors, np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), LAYOUT)
    expected = np.zeros((3, 20), dtype=np.int64)
    expected[0, 0], expected[1, 8], expected[1, 19], expected[2, 19] = 3, 1, 2, 3
    assert found.tolist() == expected.tolist()


@settings(deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=20), st.data())
def test_without_one_subject_one_cell_is_less_by_one(errors: list[float], data: st.DataObject) -> None:
    cells = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(errors), max_size=len(errors))))
    whole = count_residuals(np.array(errors), cells, LAYOUT)
    without = count_residuals(np.array(errors[1:]), cells[1:], LAYOUT)
    assert sorted((whole - without).ravel().tolist()) == [0] * 59 + [1]


ORACLES: dict[str, Any] = {
    "records": lambda truth, guess: len(truth),
    "mean error": lambda truth, guess: (guess - truth).mean(),
    "mean absolute error": learn.mean_absolute_error,
    "root mean squared error": learn.root_mean_squared_error,
    "share within tolerance": lambda truth, guess: (np.abs(guess - truth) < 1).mean(),
}


def test_every_figure_is_scikit_learns_of_the_bins_middles() -> None:
    table = np.random.default_rng(0).integers(1, 30, LAYOUT.shape)
    cells, places = (np.repeat(each.ravel(), table.ravel()) for each in np.indices(table.shape))
    truth, groups = np.random.default_rng(1).normal(size=len(cells)), np.array(["f", "m", "unknown"])[cells]
    guess = truth + LAYOUT.middles[places]
    found = assessed(table)
    everybody = np.ones(len(cells), dtype=np.bool_)
    for figures, here in [(found.overall, everybody), *((one.figures, groups == one.group) for one in found.groups)]:
        assert [one.metric for one in figures] == list(ORACLES)
        for one in figures:
            assert one.value == pytest.approx(ORACLES[one.metric](truth[here], guess[here]), abs=1e-12, rel=1e-12)
            assert one.status == SHOWN
    for metric in ("mean absolute error", "root mean squared error", "mean error"):
        frame = fair.MetricFrame(metrics=ORACLES[metric], y_true=truth, y_pred=guess, sensitive_features=groups)
        assert gap(found, f"{metric} difference").figure.value == pytest.approx(frame.difference(), abs=1e-12)
        if metric == "mean absolute error":
            shown = gap(found, "worst group mean absolute error")
            assert shown.figure.value == pytest.approx(frame.group_max(), abs=1e-12)
            assert shown.between == (frame.by_group.idxmax(), frame.by_group.idxmin())


def test_a_small_group_is_suppressed_and_a_small_gap_not_resolved() -> None:
    table = np.zeros(LAYOUT.shape, dtype=np.int64)
    table[:2, 6:10] = 30
    table[1, 10] = 1
    table[2, 5] = 19
    found = assessed(table)
    assert {one.status for one in found.groups[2].figures} == {SUPPRESSED}
    shown = gap(found, "mean absolute error difference").figure
    assert shown.status == NOT_RESOLVED
    assert shown.why == "without unknown: too few subjects by the noisy count"
    assert assessment_from_json(assessment_as_json(found)) == found


@pytest.mark.parametrize(("people", "variance"), [(300, 0), (300, 10), (2000, 28)])
def test_intervals_hold_the_truth(people: int, variance: float) -> None:
    law = np.stack([np.exp(-((LAYOUT.middles - bias) ** 2) / 4) for bias in (0.3, 0.8, 0.3)])
    law[2] = 0
    law /= law.sum()
    rng, held = np.random.default_rng(2), []
    p = law.sum(axis=0)
    truths = {
        "mean error": p @ LAYOUT.middles,
        "mean absolute error": p @ np.abs(LAYOUT.middles),
        "root mean squared error": math.sqrt(p @ LAYOUT.middles**2),
        "share within tolerance": p[np.abs(LAYOUT.middles) < 1].sum(),
    }
    half = variance / 2
    for _ in range(200):
        table = rng.multinomial(people, law.ravel()).reshape(law.shape)
        table = table + rng.poisson(half, law.shape) - rng.poisson(half, law.shape)
        found = by_name(assessed(table, variance).overall)
        held.append([found[name].low <= truth <= found[name].high for name, truth in truths.items()])
    # Of 200 a share of 0.95 deviates by 0.015.
    assert np.mean(held, axis=0) == pytest.approx([0.95] * 4, abs=4 * 0.015)


@pytest.mark.parametrize(("low", "high", "bins"), [(0.0, 1.0, 10), (-1.0, 0.0, 10), (-1.0, math.inf, 10), (-1, 1, 1)])
def test_bounds_that_are_none_are_refused(low: float, high: float, bins: int) -> None:
    with pytest.raises(ConfigError, match="nothing was counted"):
        Residuals(SEX, low, high, bins)


@pytest.mark.parametrize("tolerance", [0.7, 4.5])
def test_a_tolerance_that_no_bin_ends_at_is_refused(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="edge of the bins"):
        assess_residuals(ResidualHistogram(LAYOUT, np.zeros(LAYOUT.shape, dtype=np.int64), 0.0), tolerance, 0.95)


def test_histograms_add_up_with_their_noise_and_only_where_they_have_the_same_bins() -> None:
    one = ResidualHistogram(LAYOUT, np.ones(LAYOUT.shape, dtype=np.int64), 2.0)
    both = one + one
    assert (both.table.sum(), both.variance) == (120, 4.0)
    other = ResidualHistogram(Residuals(SEX, -5.0, 5.0, 20), one.table, 2.0)
    with pytest.raises(ValueError, match="different layouts"):
        one + other
    with pytest.raises(ValueError, match="has none of"):
        ResidualHistogram(LAYOUT, one.table[:2], 2.0)
