"""Weights of groups: after the clipping, at most one, so that the bound and the accounting stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lepton_fl.models.shape import Shape
from lepton_fl.privacy.noise import FLOAT32_MARGIN, clip_target
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.examples import Examples, per_record_loss
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import Draws, Mechanism, take_step, train_privately
from lepton_fl.training.self_test import AsRun, Claimed, check_mechanism
from lepton_fl.training.settings import Training
from lepton_fl.training.weights import LEAST, MOST, gain, weighted

ONE_STEP = Training(
    local_steps=1,
    sampling_rate=1.0,
    learning_rate=0.5,
    learning_rate_decay=1.0,
    momentum=0.0,
    weight_decay=0.0,
    physical_batch=64,
    optimizer="sgd",
)
QUIET = Mechanism(noise_multiplier=1e-9, clipping_norm=1.0, sampling_rate=1.0, expected_batch=4.0)
TABLE = np.array([[1.0, 4.0], [0.5, 2.0]])


def records(count: int, seed: int = 0) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    return Examples(
        torch.randn(count, 5, generator=draw),
        torch.randint(0, 2, (count,), generator=draw),
        groups=torch.randint(0, 2, (count,), generator=draw),
    )


def linear(width: int = 5) -> nn.Module:
    model = nn.Linear(width, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()


def gradient_of(batch: Examples, row: int) -> Tensor:
    model = linear()
    one = batch.at(torch.tensor([row]))
    per_record_loss(model(one.features), one.labels).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def clipped_sum(batch: Examples, clipping_norm: float, owners: Tensor | None = None) -> Tensor:
    model, engine = linear(), BookKeeping()
    out = torch.zeros(6, dtype=torch.float64)
    engine.attach(model)
    try:
        engine.add(batch, clipping_norm, out, owners)
    finally:
        engine.detach()
    return out


def task(weights: np.ndarray | None) -> LocalTask:
    return LocalTask(1, 0.0, Randomness(0).within("A", 1), weights)


def test_a_record_gets_its_cells_weight_over_the_largest_one() -> None:
    examples = Examples(torch.zeros(3, 1), torch.tensor([0, 1, 1]), groups=torch.tensor([0, 0, 1]))
    found = weighted(examples, TABLE).weights
    assert found is not None
    assert found.tolist() == [0.25, 1.0, 0.5]
    assert gain(TABLE) == 4.0


def test_without_weights_nothing_changes() -> None:
    examples = records(3)
    assert weighted(examples, None) is examples
    assert gain(None) == 1.0


@pytest.mark.parametrize("bad", [LEAST - 0.01, MOST + 0.01, float("nan"), float("inf"), -1.0])
def test_a_weight_out_of_bounds_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="numbers from"):
        weighted(records(3), np.array([[1.0, bad], [1.0, 1.0]]))


def test_a_record_whose_group_has_no_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="no weight"):
        weighted(records(20), np.ones((1, 2)))


@pytest.mark.parametrize("clipping_norm", [0.1, 100.0])
def test_a_weight_multiplies_the_gradient_after_it_was_clipped(clipping_norm: float) -> None:
    batch = weighted(records(6), TABLE)
    assert batch.weights is not None
    expected = torch.zeros(6, dtype=torch.float64)
    for row in range(6):
        gradient = gradient_of(batch, row).double()
        expected += float(batch.weights[row]) * gradient * min(1.0, clipping_norm / float(gradient.norm()))
    assert torch.allclose(clipped_sum(batch, clipping_norm), expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(1e-3, 10.0),
    st.integers(0, 7),
    st.integers(0, 1000),
    st.lists(st.floats(LEAST, MOST), min_size=4, max_size=4),
)
def test_no_record_moves_a_weighted_sum_by_more_than_the_clipping_norm(
    clipping_norm: float, row: int, seed: int, cells: list[float]
) -> None:
    batch = weighted(records(8, seed), np.array(cells).reshape(2, 2))
    without = batch.at(torch.tensor([one for one in range(8) if one != row]))
    moved = clipped_sum(batch, clipping_norm) - clipped_sum(without, clipping_norm)
    assert float(moved.norm()) <= clipping_norm * (1 + 1e-6)


def test_a_subject_counts_with_the_mean_weight_of_their_records() -> None:
    same = records(1).features.expand(2, 5)
    batch = Examples(same, torch.tensor([1, 1]), weights=torch.tensor([0.2, 0.6], dtype=torch.float64))
    both = clipped_sum(batch, 0.1, owners=torch.tensor([0, 0]))
    assert float(both.norm()) == pytest.approx(0.4 * 0.1)


@pytest.mark.parametrize("bad", [0.0, 1.1, -0.5, float("nan")])
def test_the_engine_refuses_a_weight_beyond_one(bad: float) -> None:
    batch = replace(records(2), weights=torch.tensor([1.0, bad], dtype=torch.float64))
    with pytest.raises(ValueError, match="beyond it"):
        clipped_sum(batch, 1.0)


@pytest.mark.parametrize("largest", [1.0, 2.0, 5.0])
def test_equal_weights_train_as_none_but_for_a_longer_step(largest: float) -> None:
    plain, heavy, examples = linear(), linear(), records(4)
    train_privately(plain, examples, ONE_STEP, QUIET, BookKeeping(), task(None))
    train_privately(heavy, examples, ONE_STEP, QUIET, BookKeeping(), task(np.full((2, 2), largest)))
    assert torch.allclose(flat(heavy), largest * flat(plain), rtol=1e-5, atol=1e-7)


def test_the_step_is_the_weighted_sum_of_clipped_gradients() -> None:
    model, examples = linear(), records(4)
    train_privately(model, examples, ONE_STEP, QUIET, BookKeeping(), task(TABLE))
    expected = torch.zeros(6, dtype=torch.float64)
    for row in range(4):
        gradient = gradient_of(examples, row).double()
        assert examples.groups is not None
        weight = TABLE[int(examples.groups[row]), int(examples.labels[row])]
        expected -= 0.5 * weight * gradient * min(1.0, (1.0 - FLOAT32_MARGIN) / float(gradient.norm())) / 4.0
    assert torch.allclose(flat(model), expected, rtol=1e-3, atol=1e-6)


def test_the_length_of_a_step_depends_on_the_instruction_and_on_no_record() -> None:
    """Both institutions lack the cell with the largest weight, and their step is as long as if they had it."""
    table, few = np.array([[1.0, 1.0], [1.0, 5.0]]), replace(records(4), groups=torch.zeros(4, dtype=torch.int64))
    told, plain = linear(), linear()
    train_privately(told, few, ONE_STEP, QUIET, BookKeeping(), task(table))
    train_privately(plain, few, ONE_STEP, QUIET, BookKeeping(), task(None))
    assert torch.allclose(flat(told), flat(plain), rtol=1e-5, atol=1e-7)


def test_plain_training_lowers_the_weighted_mean_loss_and_tells_the_plain_one() -> None:
    model, untouched, examples = linear(), linear(), records(4)
    told = train_plainly(model, examples, ONE_STEP, task(TABLE))
    losses = per_record_loss(untouched(examples.features), examples.labels)
    assert examples.groups is not None
    cells = torch.tensor([TABLE[g, y] for g, y in zip(examples.groups, examples.labels, strict=True)])
    (cells.float() * losses).mean().backward()
    expected = flat(untouched) - 0.5 * torch.cat(
        [parameter.grad.flatten() for parameter in untouched.parameters() if parameter.grad is not None]
    )
    assert torch.allclose(flat(model), expected, rtol=1e-5, atol=1e-7)
    assert told == pytest.approx(float(losses.detach().mean()))


class Weighing(BookKeeping):
    """Gives every record a weight, as training does."""

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        super().add(replace(batch, weights=torch.ones(len(batch), dtype=torch.float64)), clipping_norm, out, owners)


def test_the_self_test_passes_where_every_record_has_a_weight() -> None:
    mechanism, source = Mechanism(1.0, 0.5, 1.0, 8.0), Randomness(1)
    as_run = AsRun(mechanism, Weighing(), Draws(source.stream("sampling"), source.stream("noise")))
    check_mechanism(linear(), Claimed(mechanism, Shape((5,), 1)), as_run, source.stream("canaries"))


def test_a_weighted_release_has_the_noise_of_an_unweighted_one() -> None:
    loud, examples = replace(QUIET, noise_multiplier=3.0), records(4)

    def noise(batch: Examples) -> Tensor:
        source, engine, model = Randomness(5), BookKeeping(), linear()
        engine.attach(model)
        try:
            draws = Draws(source.stream("sampling"), source.stream("noise"))
            return take_step(batch, loud, engine, draws, (model, 64))
        finally:
            engine.detach()

    heavy, target = weighted(examples, TABLE), clip_target(1.0, loud.stddev, 6)
    assert torch.allclose(
        noise(heavy) - clipped_sum(heavy, target), noise(examples) - clipped_sum(examples, target), atol=1e-3
    )


def test_weighting_the_loss_before_the_clipping_loses_most_of_the_effect() -> None:
    """Two groups pull apart, one has a tenth of the records. Weights that even them out move the model half-way.

    Every gradient is far beyond the clipping norm, so a weight in the loss is undone to the last digit.
    """
    features = torch.cat([torch.ones(90, 1), -torch.ones(10, 1)])
    groups = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    crowd = Examples(features, torch.ones(100, dtype=torch.int64), groups=groups)
    table = np.array([[0.5, 0.5], [4.5, 4.5]])
    tight = replace(QUIET, clipping_norm=0.01, expected_batch=100.0)

    def pull(examples: Examples, weights: np.ndarray | None) -> float:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        train_privately(model, examples, ONE_STEP, tight, BookKeeping(), task(weights))
        return model.weight.item()

    plain, after = pull(crowd, None), pull(crowd, table)
    # A record's gradient is its feature times the loss's slope, so a weight in the loss is one on the feature.
    in_the_loss = replace(crowd, features=features * torch.tensor([0.5, 4.5])[groups][:, None])
    before = pull(in_the_loss, None)
    assert plain == pytest.approx(0.5 * 0.01 * (1 - FLOAT32_MARGIN) * 0.8, rel=1e-3)
    assert after == pytest.approx(0.0, abs=1e-6)
    assert before == pytest.approx(plain, rel=1e-3)
