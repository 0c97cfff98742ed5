"""Without noise every figure is fairlearn's and scikit-learn's of the rows themselves; small counts give none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import fairlearn.metrics as fair
import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as learn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from lepton_fl.errors import DataError
from lepton_fl.evaluation.assess import Assessment, assess, assessment_as_json, assessment_from_json
from lepton_fl.evaluation.figures import NOT_MEASURED, NOT_RESOLVED, SHOWN, SUPPRESSED, Figure
from lepton_fl.evaluation.histogram import Histogram, Layout
from lepton_fl.tasks.groups import Attribute, Groups

SEX, ORIGIN = Attribute("sex", ("f", "m")), Attribute("origin", ("a", "b", "c"))
BOTH = Groups((SEX, ORIGIN))
BINS = 20
Table = npt.NDArray[np.int64]


def random_table(seed: int) -> Table:
    return np.random.default_rng(seed).integers(2, 12, (BOTH.cells, 2, BINS))


def assessed(table: Table, groups: Groups = BOTH, variance: float = 0.0) -> Assessment:
    found = Histogram(Layout(groups, table.shape[1], table.shape[2]), table, variance)
    return assess(found, found, 0.95)


def rows(table: Table) -> tuple[npt.NDArray[Any], ...]:
    """The pooled rows: cell, label, bin."""
    return tuple(np.repeat(places.ravel(), table.ravel()) for places in np.indices(table.shape))


def names(cells: npt.NDArray[np.int64], attribute: Attribute) -> npt.NDArray[np.str_]:
    """Which group of an attribute each row belongs to, by the groups' own crossing: sex first, origin fastest."""
    place = {"sex": cells // 4, "origin": cells % 4}[attribute.name]
    return np.array(attribute.groups)[place]


def by_name(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {one.metric: one for one in figures}


def gap(found: Assessment, attribute: str, metric: str) -> Any:
    return next(one for one in found.gaps if one.attribute == attribute and one.figure.metric == metric)


def error_of_calibration(labels: npt.NDArray[Any], scores: npt.NDArray[Any]) -> float:
    shares, _ = calibration_curve(labels, scores, n_bins=BINS)
    subjects = np.bincount((scores * BINS).astype(int), minlength=BINS)
    return float((np.abs(shares - (np.arange(BINS) + 0.5) / BINS) * subjects).sum() / len(labels))


ORACLES: dict[str, Any] = {
    "records": lambda y, g, s: len(y),
    "accuracy": lambda y, g, s: learn.accuracy_score(y, g),
    "balanced accuracy": lambda y, g, s: learn.balanced_accuracy_score(y, g),
    "precision": lambda y, g, s: learn.precision_score(y, g),
    "recall": lambda y, g, s: learn.recall_score(y, g),
    "F1": lambda y, g, s: learn.f1_score(y, g),
    "selection rate": lambda y, g, s: fair.selection_rate(y, g),
    "false positive rate": lambda y, g, s: fair.false_positive_rate(y, g),
    "AUC": lambda y, g, s: learn.roc_auc_score(y, s),
    "log loss": lambda y, g, s: learn.log_loss(y, s),
    "calibration error": lambda y, g, s: error_of_calibration(y, s),
}


@pytest.mark.parametrize("seed", range(3))
def test_every_metric_of_everybody_and_of_each_group_is_that_of_the_rows(seed: int) -> None:
    table = random_table(seed)
    found = assessed(table)
    cells, labels, places = rows(table)
    guesses, scores = places >= BINS // 2, (places + 0.5) / BINS
    slices = [(by_name(found.overall), np.ones(len(cells), dtype=np.bool_))]
    slices += [
        (by_name(one.figures), names(cells, {"sex": SEX, "origin": ORIGIN}[one.attribute]) == one.group)
        for one in found.groups
    ]
    assert len(slices) == 1 + 3 + 4
    for figures, here in slices:
        assert list(figures) == list(ORACLES)
        for metric, oracle in ORACLES.items():
            expected = oracle(labels[here], guesses[here].astype(int), scores[here])
            assert figures[metric].status == SHOWN
            assert figures[metric].value == pytest.approx(expected, abs=1e-12, rel=0), metric


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("attribute", [SEX, ORIGIN], ids=lambda one: one.name)
def test_every_gap_is_fairlearns(seed: int, attribute: Attribute) -> None:
    table = random_table(seed)
    found = assessed(table)
    cells, labels, places = rows(table)
    guesses, groups = (places >= BINS // 2).astype(int), names(cells, attribute)
    differences = {
        "demographic parity difference": fair.demographic_parity_difference,
        "demographic parity ratio": fair.demographic_parity_ratio,
        "equal opportunity difference": fair.equal_opportunity_difference,
        "equalised odds difference": fair.equalized_odds_difference,
    }
    for metric, oracle in differences.items():
        expected = oracle(labels, guesses, sensitive_features=groups)
        assert gap(found, attribute.name, metric).figure.value == pytest.approx(expected, abs=1e-12, rel=0)
    for metric, score in [("worst group accuracy", learn.accuracy_score), ("worst group recall", learn.recall_score)]:
        frame = fair.MetricFrame(metrics=score, y_true=labels, y_pred=guesses, sensitive_features=groups)
        shown = gap(found, attribute.name, metric)
        assert shown.figure.value == pytest.approx(frame.group_min(), abs=1e-12, rel=0)
        assert shown.between == (frame.by_group.idxmin(), frame.by_group.idxmax())


@pytest.mark.parametrize("classes", [3, 10])
def test_figures_of_more_classes_are_the_means_over_them(classes: int) -> None:
    groups = Groups((SEX,))
    table = np.random.default_rng(classes).integers(1, 9, (groups.cells, classes, classes)) + 20 * np.eye(
        classes, dtype=np.int64
    )
    found = assessed(table, groups)
    cells, labels, guesses = rows(table)
    expected = {
        "records": len(cells),
        "accuracy": learn.accuracy_score(labels, guesses),
        "balanced accuracy": learn.balanced_accuracy_score(labels, guesses),
        "precision": learn.precision_score(labels, guesses, average="macro"),
        "recall": learn.recall_score(labels, guesses, average="macro"),
        "F1": learn.f1_score(labels, guesses, average="macro"),
    }
    figures = by_name(found.overall)
    for metric, value in expected.items():
        assert figures[metric].value == pytest.approx(value, abs=1e-12, rel=0)
        assert figures[metric].low <= value <= figures[metric].high
    assert {metric for metric, one in figures.items() if one.status == NOT_MEASURED} == set(ORACLES) - set(expected)
    frame = fair.MetricFrame(
        metrics=learn.accuracy_score, y_true=labels, y_pred=guesses, sensitive_features=names(4 * cells, SEX)
    )
    assert gap(found, "sex", "worst group accuracy").figure.value == pytest.approx(frame.group_min(), abs=1e-12)
    assert gap(found, "sex", "equal opportunity difference").figure.status == NOT_MEASURED


def one_attribute(*groups: list[list[int]], variance: float = 0.0) -> Assessment:
    """Groups f, m, unknown, each label by guess."""
    found = Histogram(Layout(Groups((SEX,)), 2, 2), np.array(groups), variance)
    return assess(found, None, 0.95)


NOBODY = [[0, 0], [0, 0]]


def test_a_group_below_twenty_by_the_noisy_count_is_suppressed_and_in_no_gap() -> None:
    small = [[5, 4], [3, 7]]  # 19 people
    found = one_attribute([[50, 20], [10, 40]], small, NOBODY)
    figures = by_name(next(one.figures for one in found.groups if one.group == "m"))
    assert {one.status for one in figures.values()} == {SUPPRESSED, NOT_MEASURED}
    assert all(one.value is None and one.low is None and one.high is None for one in figures.values())
    assert figures["accuracy"].why == "too few subjects by the noisy count"
    shown = gap(found, "sex", "demographic parity difference")
    assert shown.figure.status == SUPPRESSED
    assert shown.figure.why == "without m, unknown: too few subjects by the noisy count"
    assert shown.between is None


def test_only_noisy_counts_decide_what_is_suppressed() -> None:
    # Variance 16 in two cells: five deviations of their sum are 28.3.
    enough, few = [[40, 3], [9, 20]], [[40, 3], [9, 19]]
    recalls = [
        by_name(one_attribute(table, table, NOBODY, variance=16.0).groups[0].figures)["recall"].status
        for table in (enough, few)
    ]
    assert recalls == [SHOWN, SUPPRESSED]


def test_a_gap_whose_interval_holds_no_gap_is_not_resolved_and_never_called_fair() -> None:
    found = one_attribute([[50, 20], [10, 40]], [[52, 18], [11, 39]], NOBODY)
    shown = gap(found, "sex", "equal opportunity difference")
    assert shown.figure.status == NOT_RESOLVED
    assert shown.figure.value == pytest.approx(40 / 50 - 39 / 50)
    assert shown.figure.low < 0 < shown.figure.high
    assert shown.between == ("f", "m")
    ratio = gap(found, "sex", "demographic parity ratio").figure
    assert (ratio.status, ratio.high) == (NOT_RESOLVED, 1.0)
    assert "fair" not in json.dumps(assessment_as_json(found))


def test_a_gap_that_is_plain_is_shown_with_the_groups_it_lies_between() -> None:
    found = one_attribute([[100, 100], [20, 180]], [[180, 20], [100, 100]], NOBODY)
    shown = gap(found, "sex", "equalised odds difference")
    assert shown.figure.status == SHOWN
    assert shown.figure.value == pytest.approx(0.4)
    assert shown.figure.low > 0.25
    assert shown.between == ("f", "m")
    assert shown.figure.why.startswith("in ")
    assert gap(found, "sex", "demographic parity ratio").figure.status == SHOWN


def test_where_nobody_is_selected_there_is_no_ratio() -> None:
    found = one_attribute([[30, 0], [30, 0]], [[30, 0], [30, 0]], NOBODY)
    assert gap(found, "sex", "demographic parity ratio").figure.status == NOT_MEASURED
    assert gap(found, "sex", "demographic parity difference").figure.status == NOT_RESOLVED


def test_where_one_group_is_never_selected_the_ratio_is_zero_with_an_interval() -> None:
    figure = gap(
        one_attribute([[30, 0], [30, 0]], [[5, 25], [5, 25]], NOBODY), "sex", "demographic parity ratio"
    ).figure
    assert (figure.value, figure.low, figure.status) == (0.0, 0.0, SHOWN)
    assert 0 < figure.high < 0.2


def test_decisions_alone_leave_what_needs_scores_unmeasured() -> None:
    figures = by_name(one_attribute([[50, 20], [10, 40]], NOBODY, NOBODY).overall)
    assert {metric for metric, one in figures.items() if one.status == NOT_MEASURED} == {
        "AUC",
        "log loss",
        "calibration error",
    }
    assert figures["AUC"].why == "it needs at least 10 bins of the score"


def test_without_attributes_there_are_neither_groups_nor_gaps() -> None:
    found = assessed(np.full((1, 2, BINS), 5), Groups(()))
    assert found.groups == found.gaps == ()


def test_shares_stay_within_zero_and_one_whatever_the_noise_made_of_the_counts() -> None:
    figures = by_name(one_attribute([[900, -30], [-25, 800]], NOBODY, NOBODY, variance=400.0).overall)
    for metric in ("accuracy", "recall", "precision", "false positive rate", "F1"):
        one = figures[metric]
        assert one.status == SHOWN
        assert one.value is not None
        assert one.low is not None
        assert one.high is not None
        assert 0 <= one.low <= one.value <= one.high <= 1


tables = st.lists(st.integers(-30, 300), min_size=3 * 2 * 10, max_size=3 * 2 * 10).map(
    lambda flat: np.array(flat).reshape(3, 2, 10)
)


@settings(deadline=None, max_examples=40)
@given(tables, st.sampled_from([0.0, 9.0, 100.0]))
def test_whatever_the_counts_a_figure_is_readable_and_can_be_written_and_read(table: Table, variance: float) -> None:
    found = assessed(np.maximum(table, 0) if variance == 0 else table, Groups((SEX,)), variance)
    everything = [*found.overall, *(each for one in found.groups for each in one.figures)]
    for one in [*everything, *(one.figure for one in found.gaps)]:
        if one.status in (SHOWN, NOT_RESOLVED):
            assert one.low is not None
            assert one.value is not None
            assert one.high is not None
            assert one.low <= one.value <= one.high
        else:
            assert (one.value, one.low, one.high) == (None, None, None)
            assert one.why
    text = json.dumps(assessment_as_json(found), allow_nan=False)
    assert assessment_from_json(json.loads(text)) == found


GOOD = assessment_as_json(one_attribute([[50, 20], [10, 40]], [[52, 18], [11, 39]], NOBODY))
FIGURE = GOOD["overall"][0]


@pytest.mark.parametrize(
    "changed",
    [
        {"overall": None},
        {"overall": [{}]},
        {"overall": [FIGURE | {"status": "fair"}]},
        {"overall": [FIGURE | {"value": "1"}]},
        {"overall": [FIGURE | {"value": True}]},
        {"overall": [FIGURE | {"metric": 3}]},
        {"overall": [FIGURE | {"more": 3}]},
        {"groups": [{"attribute": "sex", "group": 1, "figures": []}]},
        {"gaps": [{"attribute": "sex", "figure": FIGURE, "between": ["a"]}]},
        {"gaps": [{"attribute": "sex", "figure": FIGURE, "between": ["a", 1]}]},
        {"gaps": [{"attribute": "sex", "figure": FIGURE}]},
    ],
)
def test_what_is_no_assessment_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="nothing was shown"):
        assessment_from_json(GOOD | changed)


def test_a_higher_confidence_is_a_longer_interval() -> None:
    found = Histogram(Layout(Groups((SEX,)), 2, BINS), random_table(0)[:3], 4.0)
    short, long = (assess(found, found, confidence) for confidence in (0.8, 0.99))
    for one, other in zip(short.overall, long.overall, strict=True):
        assert replace(one, low=None, high=None) == replace(other, low=None, high=None)
        assert other.low is not None
        assert one.low is not None
        assert other.low < one.low
