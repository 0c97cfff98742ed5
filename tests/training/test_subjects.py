"""The patient as the unit: one bounded contribution for each, however many records somebody has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.bookkeeping import compact
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum, _averaged
from lepton_fl.training.examples import Examples, per_record_loss
from lepton_fl.training.private import Draws, Mechanism, take_step
from lepton_fl.training.subjects import drawn_records, drawn_subjects, most_records_of_a_subject

MECHANISM = Mechanism(1.0, 0.5, 1.0, 8.0, records_per_subject=16)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def data(subjects: list[int], scale: float = 1.0, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (len(subjects),), generator=generator)
    features = scale * torch.randn(len(subjects), 5, generator=generator)
    return Examples(features, labels, torch.tensor(subjects, dtype=torch.int64))


def sampling(seed: int = 0) -> Draws:
    source = Randomness(seed)
    return Draws(source.stream("sampling"), source.stream("noise"))


ENGINES = [BookKeeping, OpacusClippedSum]


def clipped_sum(
    batch: Examples, owners: Tensor | None, clipping_norm: float, engine_of: Callable[[], ClippedSum] = BookKeeping
) -> Tensor:
    model, engine = tiny(), engine_of()
    out = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    engine.attach(model)
    try:
        engine.add(batch, clipping_norm, out, owners)
    finally:
        engine.detach()
    return out


def gradient(model: nn.Module, batch: Examples, row: int) -> Tensor:
    """Of one record, by autograd alone."""
    model.zero_grad()
    record = batch.at(torch.tensor([row]))
    per_record_loss(model(record.features), record.labels).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


def by_hand(batch: Examples, clipping_norm: float) -> Tensor:
    """The definition: the mean of each subject's own gradients, clipped, added."""
    model, subjects = tiny(), batch.subjects
    assert subjects is not None
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for one in subjects.unique().tolist():
        own = torch.stack([gradient(model, batch, row) for row in (subjects == one).nonzero()[:, 0].tolist()])
        mean = own.mean(dim=0)
        total += mean * min(1.0, clipping_norm / float(mean.norm()))
    return total


# -- the contribution


@pytest.mark.parametrize("engine_of", ENGINES)
@pytest.mark.parametrize("clipping_norm", [0.1, 100.0])
def test_the_sum_is_that_of_each_subjects_clipped_mean_by_batch_of_one_autograd(
    clipping_norm: float, engine_of: Callable[[], ClippedSum]
) -> None:
    batch = data([0, 0, 0, 1, 2, 2])
    found = clipped_sum(batch, batch.subjects, clipping_norm, engine_of)
    assert torch.allclose(found, by_hand(batch, clipping_norm), rtol=1e-4, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.floats(1e-3, 10.0), st.floats(1e-3, 1e5), st.integers(0, 99))
def test_a_subject_moves_the_sum_by_no_more_than_the_clipping_norm(
    records: int, clipping_norm: float, scale: float, seed: int
) -> None:
    batch = data([0] * records, scale, seed)
    assert float(clipped_sum(batch, batch.subjects, clipping_norm).norm()) <= clipping_norm * (1 + 1e-5)


def steps_of_one_record_each(engine_of: Callable[[], ClippedSum]) -> list[Tensor]:
    """Of records, and of subjects with one or seven records at most who have one."""
    batch, model, releases = data(list(range(32))), tiny(), []
    for most in (None, 1, 7):
        engine = engine_of()
        engine.attach(model)
        mechanism = replace(MECHANISM, sampling_rate=0.5, records_per_subject=most)
        releases.append(take_step(batch, mechanism, engine, sampling(), (model, 7)))
        engine.detach()
    return releases


@pytest.mark.parametrize("engine_of", ENGINES)
def test_with_one_record_each_the_step_is_that_of_records_bit_for_bit(
    engine_of: Callable[[], ClippedSum], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the compiled passes of small networks, which records take and subjects do not.
    monkeypatch.setattr(compact, "library", lambda: None)
    releases = steps_of_one_record_each(engine_of)
    assert torch.equal(releases[0], releases[1])
    assert torch.equal(releases[0], releases[2])


def test_compiled_passes_differ_from_it_by_rounding_alone() -> None:
    releases = steps_of_one_record_each(BookKeeping)
    assert torch.allclose(releases[0], releases[1], rtol=0, atol=1e-5)
    assert torch.equal(releases[1], releases[2])


@pytest.mark.parametrize("engine_of", ENGINES)
def test_copies_of_a_record_add_no_more_than_the_record(engine_of: Callable[[], ClippedSum]) -> None:
    one = data([0])
    many = Examples(one.features.repeat(16, 1), one.labels.repeat(16), torch.zeros(16, dtype=torch.int64))
    expected = clipped_sum(one, None, 0.5, engine_of)
    assert torch.allclose(clipped_sum(many, many.subjects, 0.5, engine_of), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine_of", ENGINES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 3e38])
def test_a_broken_record_costs_its_own_subject_and_nobody_else(
    poison: float, engine_of: Callable[[], ClippedSum]
) -> None:
    batch = data([0, 0, 1, 1])
    batch.features[1, 2] = poison
    found = clipped_sum(batch, batch.subjects, 0.5, engine_of)
    others = batch.at(torch.tensor([2, 3]))
    rest = clipped_sum(others, torch.tensor([0, 0]), 0.5, engine_of)
    assert torch.isfinite(found).all()
    assert float((found - rest).norm()) <= 0.5 * (1 + 1e-5)


def test_a_huge_gradient_counts_in_a_mean_as_one_of_a_hundred_clipping_norms() -> None:
    rows = torch.tensor([[3e4, 4e4], [0.0, -60.0], [3e4, 4e4]])
    (mean,) = _averaged([rows], torch.tensor([0, 0, 1]), 1.0)
    assert torch.allclose(mean, torch.tensor([[30.0, 10.0], [3e4, 4e4]]))


# -- the draw


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 6), st.integers(6, 12), st.floats(0.1, 1.0))
def test_no_batch_splits_a_subject_exceeds_the_memory_or_takes_more_than_the_cap(
    subjects: list[int], most: int, physical_batch: int, rate: float
) -> None:
    seen: set[int] = set()
    for part in drawn_subjects(data(subjects), rate, most, sampling().sampling, physical_batch):
        assert part.owners is not None
        assert 1 <= len(part.index) == len(part.owners) <= physical_batch
        whose = [subjects[row] for row in part.index.tolist()]
        assert not set(whose) & seen
        seen |= set(whose)
        for owner in part.owners.unique().tolist():
            own = [w for w, o in zip(whose, part.owners.tolist(), strict=True) if o == owner]
            assert len(set(own)) == 1
            assert len(own) == min(most, subjects.count(own[0]))
        assert part.owners.unique().tolist() == list(range(len(set(whose))))


def test_at_rate_one_everybody_takes_part() -> None:
    batch = data([4, 1, 4, 9, 1, 4])
    parts = list(drawn_subjects(batch, 1.0, 2, sampling().sampling, 2))
    assert len(parts) == 3
    whose = [int(batch.subjects[row]) for part in parts for row in part.index]  # type: ignore[index]
    assert sorted(whose) == [1, 1, 4, 4, 9]


def test_coins_are_tossed_for_subjects_and_not_for_records() -> None:
    """At rate 1/2, somebody's hundred records are all in or all out: never some of them."""
    batch, sizes = data([0] * 100), set()
    source = sampling().sampling
    for _ in range(40):
        sizes.add(sum(len(part.index) for part in drawn_subjects(batch, 0.5, 100, source, 100)))
    assert sizes == {0, 100}


def test_records_over_the_cap_take_turns() -> None:
    batch, seen = data([0] * 5), set()
    source = sampling().sampling
    for _ in range(60):
        for part in drawn_subjects(batch, 1.0, 2, source, 8):
            seen |= set(part.index.tolist())
            assert len(set(part.index.tolist())) == 2
    assert seen == {0, 1, 2, 3, 4}


def test_nobody_is_drawn_from_nobody() -> None:
    assert list(drawn_subjects(data([]), 1.0, 2, sampling().sampling, 8)) == []
    assert list(drawn_records(0, 1.0, sampling().sampling, 8)) == []
    assert most_records_of_a_subject(data([])) == 0


def test_records_without_a_subject_are_each_their_own() -> None:
    alone = Examples(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))
    assert [len(part.index) for part in drawn_subjects(alone, 1.0, 2, sampling().sampling, 2)] == [2, 1]
    assert most_records_of_a_subject(alone) == 1
    assert most_records_of_a_subject(data([7, 3, 7, 7])) == 3
