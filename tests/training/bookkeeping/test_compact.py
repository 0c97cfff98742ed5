"""Small dense networks by compiled passes: the layers' sums, and nothing where a record is not plain."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lepton_fl.training.bookkeeping import dense_kernels
from lepton_fl.training.bookkeeping.compact import Compact, compact
from lepton_fl.training.bookkeeping.dense_kernels import Passes, library
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.straight import straight_line
from lepton_fl.training.examples import Examples
from lepton_fl.training.flat import Slot, size

pytestmark = pytest.mark.skipif(library() is None, reason="the passes were not built (no C compiler)")
INPUTS = 7
SMALL = {
    "relu": nn.Sequential(nn.Linear(INPUTS, 33), nn.ReLU(), nn.Linear(33, 18), nn.ReLU(), nn.Linear(18, 3)),
    "tanh, one output": nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, 1)),
    "sigmoid, no bias": nn.Sequential(nn.Linear(INPUTS, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 2, bias=False)),
    "an activation last": nn.Sequential(nn.Linear(INPUTS, 9), nn.Linear(9, 3), nn.Tanh()),
    "one layer alone": nn.Linear(INPUTS, 2),
}


def records(count: int, classes: int = 2) -> Examples:
    draw = torch.Generator().manual_seed(count)
    labels = torch.randint(0, classes, (count,), generator=draw)
    return Examples(torch.randn(count, INPUTS, generator=draw), labels)


def passes() -> Passes:
    compiled = library()
    assert compiled is not None
    return Passes(compiled)


def compact_of(model: nn.Module) -> Compact | None:
    start, slots = 0, {}
    for parameter in model.parameters():
        slots[parameter] = Slot(start, tuple(parameter.shape))
        start += parameter.numel()
    line = straight_line(model, slots)
    return None if line is None else compact(line)


def added(model: nn.Module, batch: Examples, norm: float = 0.5, weights: Tensor | None = None) -> Tensor:
    small, out = compact_of(model), torch.zeros(size(model))
    assert small is not None
    assert small.fits(batch)
    assert small.add(batch, norm, (FlatSum(out), out), weights) is None
    return out


def one_by_one(model: nn.Module, batch: Examples, norm: float, weights: Tensor | None = None) -> Tensor:
    """Autograd's gradient of each record alone, clipped, weighted and added up."""
    total = torch.zeros(size(model), dtype=torch.float64)
    for row in range(len(batch)):
        outputs, label = model(batch.features[row : row + 1]), batch.labels[row : row + 1]
        if outputs.shape[1] == 1:
            loss = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], label.float())
        else:
            loss = nn.functional.cross_entropy(outputs, label)
        own = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).double()
        total += own * min(1.0, norm / float(own.norm())) * (1.0 if weights is None else float(weights[row]))
    return total


@pytest.mark.parametrize("count", [1, 2, 3, 6, 41])
@pytest.mark.parametrize("norm", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("name", SMALL)
def test_the_sum_is_that_of_autograd_record_by_record(name: str, norm: float, count: int) -> None:
    expected = one_by_one(SMALL[name], records(count), norm)
    found = added(SMALL[name], records(count), norm)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * min(norm, 1.0) * math.sqrt(count))


def test_a_weight_multiplies_what_was_clipped() -> None:
    weights = torch.tensor([1.0, 0.25, 0.5], dtype=torch.float64)
    expected = one_by_one(SMALL["relu"], records(3), 0.05, weights)
    torch.testing.assert_close(added(SMALL["relu"], records(3), 0.05, weights).double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("row", [0, 4])
def test_nothing_is_added_where_a_record_is_broken_and_that_one_is_told(poison: float, row: int) -> None:
    small, batch, out = compact_of(SMALL["relu"]), records(5), torch.zeros(size(SMALL["relu"]))
    assert small is not None
    batch.features[row, 3] = poison
    sums = (FlatSum(out), out)
    assert small.fits(batch)
    kept = small.add(batch, 0.5, sums, None)
    assert kept is not None
    assert [number for number, is_kept in enumerate(kept.tolist()) if not is_kept] == [row]
    assert not out.any()
    assert small.add(records(5), 0.5, sums, None) is None  # and nothing of it is left for the next step
    assert torch.equal(out, added(SMALL["relu"], records(5)))


def test_a_broken_record_leaves_the_others_bits_as_they_are() -> None:
    model, batch, engine = SMALL["relu"], records(9), BookKeeping()
    others = batch.at(torch.tensor([0, 1, 2, 4, 5, 6, 7, 8]))
    batch.features[3] = float("nan")
    out = torch.zeros(size(model))
    engine.attach(model)
    engine.add(batch, 0.5, out)
    engine.detach()
    assert torch.equal(out, added(model, others))


@pytest.mark.parametrize("label", [3, -1, 2**40])
def test_a_label_without_a_class_is_refused(label: int) -> None:
    batch, engine, model = records(4), BookKeeping(), SMALL["relu"]
    batch.labels[1] = label
    engine.attach(model)
    with pytest.raises((RuntimeError, IndexError)):
        engine.add(batch, 0.5, torch.zeros(size(model)))
    engine.detach()


def test_the_parameters_of_the_moment_count() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(INPUTS, 5), nn.ReLU(), nn.Linear(5, 2)), records(6)
    small = compact_of(model)
    assert small is not None
    for _ in range(2):
        out = torch.zeros(size(model))
        assert small.add(batch, 0.5, (FlatSum(out), out), None) is None
        torch.testing.assert_close(out.double(), one_by_one(model, batch, 0.5), rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-0.5)


def test_sums_of_small_and_large_batches_add_up_in_one_place() -> None:
    model = SMALL["relu"]
    small, out = compact_of(model), torch.zeros(size(model))
    assert small is not None
    sums = (FlatSum(out), out)
    for count in (3, 40, 1, 512):
        assert small.add(records(count), 0.5, sums, None) is None
    expected = sum(added(model, records(count)) for count in (3, 40, 1, 512))
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-4)


def test_records_lie_in_memory_as_they_like() -> None:
    one, model = records(1), SMALL["relu"]
    alike = Examples(one.features.expand(6, -1), one.labels.expand(6))
    torch.testing.assert_close(added(model, alike), 6 * added(model, one), rtol=1e-5, atol=1e-6)


LARGE = {
    "a large layer": nn.Sequential(nn.Linear(INPUTS, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()),
    "long rows": nn.Linear(1025, 2),
    "an activation first": nn.Sequential(nn.Tanh(), nn.Linear(INPUTS, 2)),
    "two activations": nn.Sequential(nn.Linear(INPUTS, 3), nn.Tanh(), nn.Tanh(), nn.Linear(3, 2)),
    "float64": nn.Linear(INPUTS, 2).double(),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_not_small_or_plain_is_left_to_torch(name: str) -> None:
    assert compact_of(LARGE[name]) is None


@pytest.mark.parametrize(
    "batch",
    [
        Examples(torch.zeros(2, INPUTS + 1), torch.zeros(2, dtype=torch.int64)),
        Examples(torch.zeros(2, 3, INPUTS), torch.zeros(2, dtype=torch.int64)),
        Examples(torch.zeros(2, INPUTS, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)),
        Examples(torch.zeros(3, INPUTS), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_records_of_another_form_are_left_to_torch(batch: Examples) -> None:
    small = compact_of(SMALL["relu"])
    assert small is not None
    assert not small.fits(batch)


# -- the passes


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("depth", [1, 4, 13])
def test_a_record_has_the_same_bits_whoever_else_is_in_the_batch(depth: int) -> None:
    x, w, start = numbers(6, depth), numbers(depth, 40), numbers(40)
    together, alone = torch.zeros(6, 40), torch.zeros(1, 40)
    passes().multiply(6, x, w, start, together)
    torch.testing.assert_close(together, start + x @ w)
    for row in range(6):
        passes().multiply(1, x[row : row + 1], w, start, alone)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("records", [1, 4, 6])
def test_outer_products_are_added(records: int) -> None:
    x, y, factors, out = numbers(8, 5), numbers(8, 20), numbers(8), torch.ones(3, 19)
    passes().add_outer(records, factors, x, y, out)
    scaled = x[:records, :3] * factors[:records, None]
    torch.testing.assert_close(out, 1 + scaled.t() @ y[:records, :19])


@pytest.mark.parametrize("width", [1, 16, 21])
def test_rows_are_measured_as_far_as_they_are_used(width: int) -> None:
    rows, out = numbers(3, 40), torch.zeros(3, dtype=torch.float64)
    passes().measure(3, rows, width, 1.5, out)
    torch.testing.assert_close(out, 1.5 + rows[:, :width].double().square().sum(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e40])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_broken_record_is_seen_wherever_it_is(row: int, broken: float) -> None:
    squared, out = torch.ones(1, 2, 3, dtype=torch.float64), (torch.ones(3), torch.zeros(3, dtype=torch.float64))
    assert passes().clip(3, squared, (1.0, 1e18), None, out)
    squared[0, 0, row] = broken
    assert not passes().clip(3, squared, (1.0, 1e18), None, out)


def test_where_nothing_was_built_torch_takes_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_kernels, "SOURCE", Path(shutil.copy(dense_kernels.SOURCE, tmp_path)))
    dense_kernels.library.cache_clear()
    assert compact_of(SMALL["relu"]) is None
    dense_kernels.library.cache_clear()
