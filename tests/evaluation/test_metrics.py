"""Every figure follows from counts, and agrees with scikit-learn's from the scores themselves."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import Tensor, nn

from lepton_fl.evaluation.histogram import Histogram, Layout, count
from lepton_fl.evaluation.loss import LARGEST_LOSS, summed_loss
from lepton_fl.evaluation.metrics import SCORE_BINS, Metrics, auc, metrics_of
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples

EVERYBODY = Groups(())


class Known(nn.Module):
    """A model whose logits are the features."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def records(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Examples:
    return Examples(torch.from_numpy(logits), torch.from_numpy(labels))


def counts_of(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], physical_batch: int = 64) -> Histogram:
    outputs = logits.shape[1]
    layout = Layout(EVERYBODY, 2, SCORE_BINS) if outputs == 1 else Layout(EVERYBODY, outputs, outputs)
    return Histogram(layout, count(Known(), records(logits, labels), layout, physical_batch, False), 0.0)


def loss_of(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    return summed_loss(Known(), records(logits, labels), 64)


def two_classes(seed: int, records: int = 500) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, records)
    return (rng.normal(size=(records, 1)) * 2 + labels[:, None]).astype(np.float32), labels


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_two_classes_agree_with_scikit_learn(seed: int) -> None:
    logits, labels = two_classes(seed)
    found = metrics_of(counts_of(logits, labels))
    scores = sigmoid(logits)
    assert found.records == 500
    assert found.accuracy == pytest.approx(accuracy_score(labels, scores >= 0.5), abs=1e-12)
    assert loss_of(logits, labels) / 500 == pytest.approx(log_loss(labels, scores), rel=1e-6)
    assert found.loss == pytest.approx(log_loss(labels, scores), rel=1e-3)
    assert found.auc == pytest.approx(roc_auc_score(labels, np.floor(scores * SCORE_BINS)), abs=1e-12)
    assert found.auc == pytest.approx(roc_auc_score(labels, scores), abs=2e-3)


@pytest.mark.parametrize("classes", [3, 10])
def test_figures_of_more_classes_agree_with_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 400)
    logits = rng.normal(size=(400, classes)).astype(np.float32)
    logits[np.arange(400), labels] += 1
    found = metrics_of(counts_of(logits, labels))
    shifted = np.exp(logits.astype(np.float64))
    assert found.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(1)), abs=1e-12)
    exact = log_loss(labels, shifted / shifted.sum(1, keepdims=True))
    assert loss_of(logits, labels) / 400 == pytest.approx(exact, rel=1e-5)
    assert (found.auc, found.loss) == (None, None)


def test_scores_that_are_all_the_same_give_an_auc_of_one_half() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    logits = np.zeros((5, 1), dtype=np.float32)
    found = metrics_of(counts_of(logits, labels))
    assert found.auc == 0.5
    # A score of exactly one half counts as class 1.
    assert found.accuracy == 0.6
    assert loss_of(logits, labels) == pytest.approx(5 * np.log(2))


def test_a_tie_counts_half() -> None:
    # negatives in bins 1 and 2, positives in 2 and 3: pairs 1, 1, 1/2, 1 of four.
    table = np.zeros((2, SCORE_BINS), dtype=np.int64)
    table[0, [1, 2]] = 1
    table[1, [2, 3]] = 1
    assert auc(table) == 3.5 / 4


@pytest.mark.parametrize(("low", "expected"), [(0, 1.0), (1, 0.0)])
def test_a_perfect_order_gives_one_and_a_reversed_one_zero(low: int, expected: float) -> None:
    table = np.zeros((2, SCORE_BINS), dtype=np.int64)
    table[low, 0] = 3
    table[1 - low, SCORE_BINS - 1] = 4
    assert auc(table) == expected


@pytest.mark.parametrize("present", [0, 1])
def test_an_absent_class_has_no_auc_and_all_else(present: int) -> None:
    found = metrics_of(counts_of(np.full((4, 1), 3.0, dtype=np.float32), np.full(4, present)))
    assert found.auc is None
    assert found.accuracy == float(present)
    assert found.loss is not None


@pytest.mark.parametrize("outputs", [1, 3])
def test_no_records_give_no_figures(outputs: int) -> None:
    logits, labels = np.zeros((0, outputs), dtype=np.float32), np.zeros(0, dtype=np.int64)
    assert metrics_of(counts_of(logits, labels)) == Metrics(0, None, None, None)
    assert loss_of(logits, labels) == 0.0


@pytest.mark.parametrize("logit", [-1e4, -40.0, 40.0, 1e4])
def test_an_extreme_score_falls_into_an_outermost_bin_with_a_finite_loss(logit: float) -> None:
    logits, labels = np.array([[logit]], dtype=np.float32), np.array([1])
    assert counts_of(logits, labels).table[0, 1, 0 if logit < 0 else SCORE_BINS - 1] == 1
    assert 0 <= loss_of(logits, labels) <= LARGEST_LOSS


def test_a_broken_models_loss_is_the_largest_there_is() -> None:
    assert loss_of(np.full((3, 1), np.nan, dtype=np.float32), np.array([0, 1, 1])) == 3 * LARGEST_LOSS


def test_a_model_is_scored_as_it_will_be_used() -> None:
    dropout = nn.Sequential(nn.Dropout(0.9))
    dropout.train()
    examples = Examples(torch.full((50, 1), 2.0), torch.ones(50, dtype=torch.int64))
    table = count(dropout, examples, Layout(EVERYBODY, 2, SCORE_BINS), 16, False)
    assert np.flatnonzero(table[0, 1]).tolist() == [int(sigmoid(np.array([[2.0]]))[0] * SCORE_BINS)]
    dropout.train()
    assert summed_loss(dropout, examples, 16) == pytest.approx(50 * np.log1p(np.exp(-2.0)), rel=1e-6)


@pytest.mark.parametrize("physical_batch", [1, 7, 500, 10_000])
def test_counts_do_not_depend_on_the_physical_batch(physical_batch: int) -> None:
    logits, labels = two_classes(3)
    assert np.array_equal(counts_of(logits, labels, physical_batch).table, counts_of(logits, labels).table)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_counts_add_up_over_any_partition_of_the_records(owners: list[int], outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(owners), outputs)).astype(np.float32)
    labels = rng.integers(0, max(2, outputs), len(owners))
    owner = np.array(owners)
    whole = counts_of(logits, labels)
    parts = reduce(add, (counts_of(logits[owner == number], labels[owner == number]) for number in range(5)))
    assert np.array_equal(parts.table, whole.table)
    assert metrics_of(parts) == metrics_of(whole)


SEX = Groups((Attribute("sex", ("f", "m")),))


def test_a_rounds_figures_are_of_all_groups_together() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 20, (3, 2, 20))
    found = metrics_of(Histogram(Layout(SEX, 2, 20), table, 0.0))
    pooled = table.sum(axis=0)
    rows = [(label, (place + 0.5) / 20, int(pooled[label, place])) for label in (0, 1) for place in range(20)]
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    assert found.records == table.sum()
    assert found.accuracy == pytest.approx(accuracy_score(labels, scores >= 0.5, sample_weight=weights), abs=1e-12)
    assert found.auc == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert found.loss == pytest.approx(log_loss(labels, scores, sample_weight=weights), abs=1e-12)


def test_two_bins_have_an_accuracy_and_neither_an_order_nor_a_loss() -> None:
    table = np.array([[[30, 10], [5, 15]]])
    assert metrics_of(Histogram(Layout(EVERYBODY, 2, 2), table, 0.0)) == Metrics(60, 0.75, None, None)


def test_of_more_classes_the_diagonal_is_right() -> None:
    table = np.array([[[5, 1, 0], [0, 6, 1], [2, 0, 5]]])
    assert metrics_of(Histogram(Layout(EVERYBODY, 3, 3), table, 0.0)) == Metrics(20, 0.8, None, None)


def test_noised_counts_that_say_too_little_give_no_figure() -> None:
    layout = Layout(EVERYBODY, 2, 2)
    # Noise of variance 25 in four cells: a sum of at least 5 * 10 is shown.
    assert metrics_of(Histogram(layout, np.array([[[20, 4], [5, 20]]]), 25.0)) == Metrics(49, None, None, None)
    assert metrics_of(Histogram(layout, np.array([[[21, 4], [5, 20]]]), 25.0)).accuracy == pytest.approx(41 / 50)
    assert metrics_of(Histogram(layout, np.array([[[-9, 4], [-5, 0]]]), 25.0)) == Metrics(0, None, None, None)
    assert metrics_of(Histogram(layout, np.zeros((1, 2, 2), dtype=np.int64), 0.0)) == Metrics(0, None, None, None)
