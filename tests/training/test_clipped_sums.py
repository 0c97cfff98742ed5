"""A member's clipped sum in C is that of torch, and that of autograd record by record."""

from __future__ import annotations

import pytest
import torch
from test_walk import NETWORKS, network
from torch import Tensor, nn

from lepton_fl.training.cohort import clipped, products
from lepton_fl.training.cohort.chunks import Batch
from lepton_fl.training.cohort.executor import flat_state
from lepton_fl.training.cohort.lowered import Lowered

pytestmark = pytest.mark.skipif(clipped.library() is None, reason="no C compiler, or no wide registers")
COUNTS = (6, 0, 11, 1)


def batch_of(model: nn.Module, is_weighed: bool = False) -> Batch:
    linear = [one for one in model.modules() if isinstance(one, nn.Linear)]
    inputs, outputs = linear[0].in_features, linear[-1].out_features
    draw, shape = torch.Generator().manual_seed(8), (len(COUNTS), max(COUNTS))
    own = torch.tensor(COUNTS, dtype=torch.float32)
    present = (torch.arange(shape[1]) < own[:, None]).to(torch.float32)
    features = torch.randn(*shape, inputs, generator=draw) * present[..., None]
    labels = torch.randint(0, max(2, outputs), shape, generator=draw) * present.to(torch.int64)
    weights = torch.rand(shape, generator=draw, dtype=torch.float64) if is_weighed else None
    return Batch(features, labels, own, present, weights)


def sums(model: nn.Module, values: Tensor, batch: Batch, target: float) -> Tensor:
    out = torch.full((len(COUNTS), values.shape[-1]), torch.nan)
    with torch.no_grad():
        assert list(Lowered(model).clipped(values, batch, target, out.unbind())) == [0, 1, 2, 3]
    return out


def by_torch(model: nn.Module, values: Tensor, batch: Batch, target: float, patch: pytest.MonkeyPatch) -> Tensor:
    with patch.context() as inner:
        inner.setattr(products, "library", lambda: None)
        return sums(model, values, batch, target)


def moved(model: nn.Module) -> Tensor:
    """Values of each member's own."""
    start = flat_state(model)
    return start + 0.05 * torch.randn(len(COUNTS), len(start), generator=torch.Generator().manual_seed(9))


def alike(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).norm(dim=1) <= 3e-6 * expected.norm(dim=1)).all())


@pytest.mark.parametrize("target", [0.05, 0.7, 100.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sums_are_those_of_torch(name: str, target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weighed = NETWORKS[name], target == 0.7
    batch = batch_of(model, weighed)
    for values in (flat_state(model), moved(model)):
        found = sums(model, values, batch, target)
        assert alike(found, by_torch(model, values, batch, target, monkeypatch))
        assert not found[1].any()  # who drew nobody


@pytest.mark.parametrize("name", ["relu", "sigmoid, one output"])
def test_the_sums_are_those_of_autograd_record_by_record(name: str) -> None:
    model = NETWORKS[name]
    batch, expected = batch_of(model), torch.zeros(len(COUNTS), len(flat_state(model)), dtype=torch.float64)
    for member, count in enumerate(COUNTS):
        for record in range(count):
            outputs, label = model(batch.features[member, record][None]), batch.labels[member, record][None]
            if outputs.shape[1] == 1:
                loss = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], label.float())
            else:
                loss = nn.functional.cross_entropy(outputs, label)
            own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])]).double()
            expected[member] += own * min(1.0, 0.3 / float(own.norm()))
    assert alike(sums(model, flat_state(model), batch, 0.3), expected)


def test_a_record_that_is_huge_is_what_it_is_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1e5, 1e16, 1e30):
        model = network(70, 60, 50, 3)
        batch, values = batch_of(model), moved(model)
        batch.features[2, 3:7, 4] = size
        found = sums(model, values, batch, 0.7)
        assert bool(found.isfinite().all())
        assert alike(found, by_torch(model, values, batch, 0.7, monkeypatch))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [[0], [5], [10], [0, 1, 6, 10], list(range(11))])
def test_broken_records_add_nothing_and_others_all_of_theirs(where: list[int], broken: float) -> None:
    model = network(70, 60, 50, 3)
    batch, values = batch_of(model, is_weighed=True), moved(model)
    batch.features[2, where, 4] = broken
    found = sums(model, values, batch, 0.7)
    fine = [row for row in range(COUNTS[2]) if row not in where]
    assert batch.weights is not None
    alone = Batch(
        batch.features[2:3, fine].contiguous(),
        batch.labels[2:3, fine].contiguous(),
        torch.tensor([float(len(fine))]),
        torch.ones(1, len(fine)),
        batch.weights[2:3, fine].contiguous(),
    )
    expected = torch.full((1, values.shape[1]), torch.nan)
    if fine:
        list(Lowered(model).clipped(values[2], alone, 0.7, expected.unbind()))
    else:
        expected.zero_()
    assert alike(found[2:3], expected)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize(("outputs", "label"), [(3, 3), (3, -1), (1, 2)])
def test_a_label_that_is_none_of_the_outputs_is_refused(outputs: int, label: int) -> None:
    model = network(70, 60, outputs)
    batch = batch_of(model)
    batch.labels[2, 4] = label
    with pytest.raises(IndexError, match="none of the model's outputs"):
        sums(model, flat_state(model), batch, 0.7)


def test_a_record_is_clipped_alike_whoever_is_drawn_with_it() -> None:
    """To the bit: a neighbour changes what it adds itself, and nothing else."""
    model = network(70, 60, 50, 3)
    batch, values = batch_of(model), flat_state(model)
    alone = Batch(batch.features[:, :1], batch.labels[:, :1], torch.tensor([1.0, 0.0, 1.0, 1.0]), batch.present, None)
    alone = Batch(*(None if one is None else one.contiguous() for one in vars(alone).values()))  # type: ignore[arg-type]
    beside = Batch(batch.features.clone(), batch.labels, batch.counts, batch.present, torch.ones(4, 11).double())
    assert beside.weights is not None
    beside.weights[:, 1:] = 0.0
    assert torch.equal(sums(model, values, beside, 0.3), sums(model, values, alone, 0.3))


def test_where_nobody_was_drawn_every_sum_is_nothing() -> None:
    model, nobody = network(70, 60, 3), torch.zeros(4, 0)
    batch = Batch(torch.empty(4, 0, 70), torch.empty(4, 0, dtype=torch.int64), torch.zeros(4), nobody, None)
    assert not sums(model, flat_state(model), batch, 0.3).any()


def test_records_that_do_not_fit_the_first_layer_are_left_to_torch_to_refuse() -> None:
    model = network(70, 60, 3)
    batch = batch_of(network(71, 60, 3))
    with pytest.raises(RuntimeError, match=r"shape|size"):
        sums(model, flat_state(model), batch, 0.3)
