"""A histogram adds up over institutions, moves by one cell with one subject, and is noised before it leaves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import Histogram, Layout, count, noised
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples

SEX = Groups((Attribute("sex", ("f", "m")),))
EVERYBODY = Groups(())


class Known(nn.Module):
    """A model whose logits are the features."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def logit(score: float) -> float:
    return math.log(score / (1 - score))


def examples(rows: list[tuple[float, int, int, int]]) -> Examples:
    """Rows of score, label, subject, cell."""
    scores, labels, subjects, cells = zip(*rows, strict=True) if rows else ((), (), (), ())
    features = torch.tensor([[logit(score)] for score in scores], dtype=torch.float32).reshape(-1, 1)
    return Examples(features, *(torch.tensor(one, dtype=torch.int64) for one in (labels, subjects, cells)))


def table(records: Examples, layout: Layout, **how: Any) -> npt.NDArray[np.int64]:
    return count(Known(), records, layout, **({"physical_batch": 3, "one_per_subject": False} | how))


def test_a_record_is_counted_by_its_group_its_label_and_the_bin_of_its_score() -> None:
    found = table(examples([(0.1, 0, 0, 0), (0.6, 1, 1, 1), (0.9, 1, 2, 1), (0.3, 1, 3, 2)]), Layout(SEX, 2, 4))
    expected = np.zeros((3, 2, 4), dtype=np.int64)
    expected[0, 0, 0] = expected[1, 1, 2] = expected[1, 1, 3] = expected[2, 1, 1] = 1
    assert found.tolist() == expected.tolist()


def test_a_score_of_one_half_is_a_guess_of_class_one() -> None:
    assert table(examples([(0.5, 0, 0, 0)]), Layout(EVERYBODY, 2, 2)).tolist() == [[[0, 1], [0, 0]]]


def test_two_outputs_of_two_classes_are_scored_as_one() -> None:
    one, two = torch.tensor([[0.7], [-2.0]]), torch.tensor([[0.0, 0.7], [1.0, -1.0]])
    labels = torch.tensor([1, 0])
    layout = Layout(EVERYBODY, 2, 20)
    assert table(Examples(one, labels), layout).tolist() == table(Examples(two, labels), layout).tolist()


def test_of_more_classes_the_guess_is_counted() -> None:
    records = Examples(torch.tensor([[0.1, 2.0, 0.3], [5.0, 1.0, 0.0]]), torch.tensor([1, 2]))
    assert table(records, Layout(EVERYBODY, 3, 3)).tolist() == [[[0, 0, 0], [0, 1, 0], [1, 0, 0]]]


@pytest.mark.parametrize("logits", [[[math.nan]], [[math.nan, 0.0]]])
def test_a_broken_models_scores_are_counted_all_the_same(logits: list[list[float]]) -> None:
    assert table(Examples(torch.tensor(logits), torch.tensor([1])), Layout(EVERYBODY, 2, 4)).tolist() == [
        [[0, 0, 0, 0], [1, 0, 0, 0]]
    ]


@pytest.mark.parametrize(("labels", "bins"), [(1, 2), (2, 3), (2, 0), (3, 4), (2, 1 << 24)])
def test_a_layout_that_cannot_be_is_refused(labels: int, bins: int) -> None:
    with pytest.raises(ConfigError, match="nothing was counted"):
        Layout(EVERYBODY, labels, bins)


rows = st.tuples(st.floats(0.001, 0.999), st.integers(0, 1), st.integers(0, 6), st.integers(0, 2))


@settings(deadline=None)
@given(st.lists(rows, max_size=30), st.integers(0, 6))
def test_without_one_subject_at_most_one_cell_is_less_by_one(
    data: list[tuple[float, int, int, int]], left: int
) -> None:
    layout = Layout(SEX, 2, 6)
    rest = [row for row in data if row[2] != left]
    # The subjects' numbers follow from who is there, as they do when a table is read.
    present = sorted({row[2] for row in rest})
    renumbered = [(score, label, present.index(subject), cell) for score, label, subject, cell in rest]
    with_them = table(examples(data), layout, one_per_subject=True)
    without = table(examples(renumbered), layout, one_per_subject=True)
    moved = (with_them - without).ravel()
    assert sorted(set(moved.tolist())) in ([0], [0, 1])
    assert moved.sum() == (1 if len(rest) < len(data) else 0)


@settings(deadline=None)
@given(st.lists(rows, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_which_record_of_a_subject_counts_does_not_depend_on_their_order(data: list[Any], random: Any) -> None:
    layout = Layout(SEX, 2, 6)
    mixed = random.sample(data, len(data))
    assert np.array_equal(
        table(examples(data), layout, one_per_subject=True), table(examples(mixed), layout, one_per_subject=True)
    )


def test_every_record_of_a_subject_counts_where_records_are_protected() -> None:
    data = examples([(0.1, 0, -5, 0), (0.9, 1, -5, 0), (0.2, 0, 1 << 60, 0)])
    assert table(data, Layout(EVERYBODY, 2, 2)).sum() == 3
    assert table(data, Layout(EVERYBODY, 2, 2), one_per_subject=True).sum() == 2


def counts(layout: Layout) -> st.SearchStrategy[npt.NDArray[np.int64]]:
    size = math.prod(layout.shape)
    return st.lists(st.integers(-5, 40), min_size=size, max_size=size).map(
        lambda flat: np.array(flat, dtype=np.int64).reshape(layout.shape)
    )


FINE = Layout(SEX, 2, 12)


@given(counts(FINE), counts(FINE), st.sampled_from([2, 4, 6, 12]))
def test_adding_and_coarsening_keep_every_count_and_all_the_noise(
    one: npt.NDArray[np.int64], other: npt.NDArray[np.int64], bins: int
) -> None:
    whole = Histogram(FINE, one, 3.0) + Histogram(FINE, other, 4.0)
    assert whole.variance == 7.0
    coarse = whole.coarser(bins)
    assert coarse.layout.bins == bins
    assert coarse.variance * bins == 7.0 * 12
    assert np.array_equal(coarse.table.sum(axis=2), one.sum(axis=2) + other.sum(axis=2))
    assert np.array_equal(coarse.coarser(2).table, whole.coarser(2).table)


@pytest.mark.parametrize(("layout", "bins"), [(FINE, 5), (FINE, 24), (Layout(SEX, 3, 3), 2)])
def test_bins_that_do_not_divide_are_no_coarser_histogram(layout: Layout, bins: int) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        Histogram(layout, np.zeros(layout.shape, dtype=np.int64), 0.0).coarser(bins)


def test_an_odd_number_of_bins_would_split_the_threshold_and_is_refused() -> None:
    with pytest.raises(ConfigError, match="even number"):
        Histogram(FINE, np.zeros(FINE.shape, dtype=np.int64), 0.0).coarser(3)


def test_histograms_of_different_layouts_are_not_added() -> None:
    one, other = (Histogram(at, np.zeros(at.shape, dtype=np.int64), 1.0) for at in (FINE, FINE.with_bins(6)))
    with pytest.raises(ValueError, match="different layouts"):
        one + other
    with pytest.raises(ValueError, match="has none of"):
        Histogram(FINE, other.table, 1.0)


def test_the_noise_has_the_stated_variance_and_no_bias() -> None:
    zeros = np.zeros((100, 2, 100), dtype=np.int64)
    found = noised(zeros + 7, 9, Randomness(3).stream("noise")) - 7
    assert found.shape == zeros.shape
    # 20,000 draws: the mean deviates by 3 / sqrt(20,000) = 0.02, the variance by about 9 * sqrt(2 / 20,000) = 0.09.
    assert found.mean() == pytest.approx(0.0, abs=4 * 0.02)
    assert found.var() == pytest.approx(9.0, abs=4 * 0.1)


def test_a_release_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="variances from 1"):
        noised(np.zeros((1, 2, 2), dtype=np.int64), 0, Randomness(0).stream("noise"))
