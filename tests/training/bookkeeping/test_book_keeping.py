"""Book-keeping against two oracles: autograd in batches of one, and Opacus with tables that nobody touched."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_cases import CASES, CLASSES, Case, Headed, clipped, data, gradients
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.convolution import Convolution, Geometry
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.bookkeeping.portions import MOST, portions
from lepton_fl.training.bookkeeping.rules import RULES
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum
from lepton_fl.training.examples import Examples
from lepton_fl.training.flat import Slot

# Opacus gives padding a gradient, convolves as if padded with zeros whatever the mode, and fails without a bias.
OPACUS_ERRS = {
    "embedding with padding",
    "conv1d, circular",
    "conv2d, reflected",
    "conv2d, replicated",
    "layer norm without bias",
}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def summed(
    model: nn.Module, batch: Examples, clipping_norm: float, engine: ClippedSum, owners: Tensor | None = None
) -> Tensor:
    out = torch.zeros(size(model), dtype=torch.float64)
    engine.attach(model)
    try:
        engine.add(batch, clipping_norm, out, owners)
    finally:
        engine.detach()
    return out


def off(found: Tensor, expected: Tensor) -> float:
    """Relative distance."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("clipping_norm", [0.05, 1e6])
def test_a_clipped_sum_is_that_of_autograd_in_batches_of_one(name: str, clipping_norm: float) -> None:
    model, batch = Headed(CASES[name]), data(CASES[name], 7)
    expected = clipped(gradients(model, batch), clipping_norm)
    assert off(summed(model, batch, clipping_norm, BookKeeping()), expected) < 1e-5


@pytest.mark.parametrize("name", sorted(set(CASES) - OPACUS_ERRS))
def test_a_clipped_sum_is_that_of_opacus(name: str) -> None:
    model, batch = Headed(CASES[name]), data(CASES[name], 7)
    expected = summed(model, batch, 0.05, OpacusClippedSum())
    assert off(summed(model, batch, 0.05, BookKeeping()), expected) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_norms_are_those_of_autograd_in_batches_of_one(name: str) -> None:
    model, batch = Headed(CASES[name]), data(CASES[name], 7)
    expected = gradients(model, batch).norm(dim=1)
    engine = BookKeeping()
    engine.attach(model)
    norms = engine.norms(batch)
    engine.detach()
    assert torch.allclose(norms, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_an_owner_adds_the_clipped_mean_of_their_records(name: str) -> None:
    model, batch = Headed(CASES[name]), data(CASES[name], 9)
    owners = torch.tensor([0, 1, 1, 2, 2, 0, 3, 2, 4])
    rows = gradients(model, batch)
    for clipping_norm in (0.001, 0.02, 1e6):
        # Of several records, each counts with 100 times the clipping norm at most.
        bounded = rows * (100 * clipping_norm / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)
        means = torch.stack([bounded[owners == owner].mean(dim=0) for owner in range(5)])
        found = summed(model, batch, clipping_norm, BookKeeping(), owners)
        assert off(found, clipped(means, clipping_norm)) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_a_layer_that_is_called_twice_adds_both_its_gradients(name: str) -> None:
    class Twice(Headed):
        def forward(self, features: Tensor) -> Tensor:
            other = features.flip(1) if self.looks_up else 0.5 * features + 0.1
            return super().forward(features) + torch.tanh(super().forward(other))

    model, batch = Twice(CASES[name]), data(CASES[name], 5)
    assert off(summed(model, batch, 0.05, BookKeeping()), clipped(gradients(model, batch), 0.05)) < 1e-5


def test_a_layer_that_is_called_with_and_without_positions_adds_both_its_gradients() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, features: Tensor) -> Tensor:
            return self.layer(features).mean(dim=1) + self.layer(torch.tanh(features[:, 0]))

    model, batch = Mixed(), data(Case(nn.Identity, (8, 3)), 5)
    assert off(summed(model, batch, 0.05, BookKeeping()), clipped(gradients(model, batch), 0.05)) < 1e-5


@pytest.mark.parametrize("name", ["linear", "linear at many positions", "conv2d", "layer norm", "group norm"])
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_have_no_place_in_the_sum(name: str, frozen: str) -> None:
    model, batch = Headed(CASES[name]), data(CASES[name], 5)
    getattr(model.layer, frozen).requires_grad_(False)
    expected = clipped(gradients(model, batch), 0.05)
    assert expected.numel() < sum(parameter.numel() for parameter in model.parameters())
    assert off(summed(model, batch, 0.05, BookKeeping()), expected) < 1e-5


def test_a_frozen_layer_passes_gradients_on() -> None:
    model, batch = tower(), data(CASES["linear"], 5)
    model[2].requires_grad_(False)
    assert off(summed(model, batch, 0.05, BookKeeping()), clipped(gradients(model, batch), 0.05)) < 1e-5


def tower(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, CLASSES))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31), st.floats(1e-3, 100.0), st.floats(1e-2, 1e3))
def test_weights_multiply_what_was_clipped(records: int, seed: int, clipping_norm: float, scale: float) -> None:
    model, batch = tower(seed), data(CASES["linear"], records, seed)
    weights = torch.rand(records, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(min=0.1)
    batch = Examples(batch.features * scale, batch.labels, weights=weights)
    expected = clipped(gradients(model, batch), clipping_norm, weights)
    assert float((summed(model, batch, clipping_norm, BookKeeping()) - expected).norm()) <= 1e-5 * (
        float(expected.norm()) + clipping_norm
    )


# -- broken and adversarial records


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 1e25, 1e38])
def test_a_broken_record_adds_nothing_and_hurts_nobody(poison: float) -> None:
    model, batch = nn.Sequential(nn.Linear(5, CLASSES)), data(CASES["linear"], 6)
    batch.features[2, 1] = poison
    found = summed(model, batch, 0.5, BookKeeping())
    others = summed(model, batch.at(torch.tensor([0, 1, 3, 4, 5])), 0.5, BookKeeping())
    assert torch.equal(found, others)


def test_the_owner_of_a_broken_record_adds_nothing() -> None:
    model, batch = tower(), data(CASES["linear"], 6)
    owners = torch.tensor([2, 0, 2, 1, 1, 3])
    batch.features[2, 1] = float("nan")
    found = summed(model, batch, 0.5, BookKeeping(), owners)
    kept = batch.at(torch.tensor([1, 3, 4, 5]))
    assert torch.equal(found, summed(model, kept, 0.5, BookKeeping(), torch.tensor([0, 1, 1, 2])))


def test_broken_owners_with_one_record_each_are_told_from_their_records_place() -> None:
    """Record 0 belongs to owner 1: were one taken for the other, the sound record would go."""
    model, batch = tower(), data(CASES["linear"], 2)
    batch.features[0, 1] = float("nan")
    found = summed(model, batch, 0.5, BookKeeping(), torch.tensor([1, 0]))
    assert torch.equal(found, summed(model, batch.at(torch.tensor([1])), 0.5, BookKeeping(), torch.tensor([0])))


def test_a_batch_of_nothing_but_broken_records_adds_nothing() -> None:
    model, batch = tower(), data(CASES["linear"], 3)
    batch.features[:] = float("nan")
    assert not summed(model, batch, 0.5, BookKeeping()).any()


def test_an_empty_batch_adds_nothing() -> None:
    model, batch = tower(), data(CASES["linear"], 0)
    assert not summed(model, batch, 0.5, BookKeeping()).any()


@pytest.mark.parametrize("size_of_input", [1e17, 1e18])
def test_squares_too_small_for_float32_hide_no_gradient(size_of_input: float) -> None:
    """Gradients of 1e-21 whose squares are nothing in float32, times an input that makes up for it."""
    for shape in ((4,), (2, 4)):
        model = Tiny(shape)
        features = torch.full((1, *shape), size_of_input)
        found = summed(model, Examples(features, torch.zeros(1, dtype=torch.int64)), 1e-6, BookKeeping())
        assert 0.0 < float(found.norm()) <= 1e-6 * (1 + 1e-5)


class Tiny(nn.Module):
    """Its outputs' gradients are 1e-21 in size."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[-1], 4, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features).flatten(1)[:, :3] * 1e-21


@pytest.mark.parametrize("remainder", [1e-2, 1e-4, 1e-6, 0.0])
def test_positions_that_cancel_do_not_hide_a_gradient(remainder: float) -> None:
    """Two positions pull against each other: a Gram matrix in float32 cannot tell how little is left."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 16, bias=False)

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, features: Tensor) -> Tensor:
            outputs = self.layer(features)
            return 1e3 * (outputs[:, 0] - outputs[:, 1])[:, :CLASSES]

    first = torch.randn(32, 1, 16)
    features = torch.cat([first, first + remainder * torch.randn(32, 1, 16)], dim=1)
    for row in features:
        batch = Examples(row[None], torch.zeros(1, dtype=torch.int64))
        assert float(summed(Cancelling(), batch, 0.1, BookKeeping()).norm()) <= 0.1 * (1 + 1e-4)


def test_pixels_that_cancel_do_not_hide_a_gradient_whose_sum_rounds_otherwise() -> None:
    """Eight pixels alike pull one way and eight the other: what is left is rounding, and counts as more."""
    slots = (Slot(0, (16, 16, 5, 5)), Slot(6400, (16,)))
    x, g = torch.ones(2, 16, 8, 8), torch.full((2, 16, 4, 4), 1.1)
    g.view(2, 16, 16)[:, :, ::2] *= -1
    piece = Convolution(Geometry((5, 5), (1, 1), (0, 0), (1, 1), 1), *slots, x, g)
    assert piece.kept is piece, "its norm alone is worked out"
    lengths = (400**0.5 * g.flatten(2).norm(dim=1)).sum(dim=1)  # of each pixel's part of the gradient
    assert bool((piece.squared_norms().sqrt() >= lengths / 128).all())
    assert float(piece.explicit().parts[0][1].norm()) < 1e-2


# -- attaching and detaching


def test_the_model_is_left_as_it_was_found() -> None:
    model, batch = tower(), data(CASES["linear"], 4)
    model[0].eval()
    before = [dict(vars(module)) for module in model.modules()]
    names, values = list(model.state_dict()), copy.deepcopy(model.state_dict())
    summed(model, batch, 0.5, BookKeeping())
    assert [dict(vars(module)) for module in model.modules()] == before
    assert list(model.state_dict()) == names
    assert all(torch.equal(model.state_dict()[name], values[name]) for name in names)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model[0].training
    assert model[2].training


def test_names_and_values_are_the_model_s_own_while_attached() -> None:
    model, batch, engine = tower(), data(CASES["linear"], 4), BookKeeping()
    names, expected = list(model.state_dict()), model(batch.features)
    engine.attach(model)
    assert list(model.state_dict()) == names
    assert torch.equal(model(batch.features), expected)
    engine.detach()
    assert "forward" not in vars(model[0])


def test_an_exception_midway_leaves_nothing_behind() -> None:
    model, batch = tower(), data(CASES["linear"], 4)
    wrong = Examples(batch.features, torch.full((4,), CLASSES))
    engine, out = BookKeeping(), torch.zeros(size(model), dtype=torch.float64)
    engine.attach(model)
    with pytest.raises((IndexError, RuntimeError)):
        engine.add(wrong, 0.5, out)
    model(batch.features).sum().backward()  # a pass of somebody else's
    assert not out.any()
    engine.add(batch, 0.5, out)
    engine.detach()
    assert torch.equal(out, summed(model, batch, 0.5, BookKeeping()))


def test_gradients_that_a_step_left_stay_until_the_next() -> None:
    model, batch, engine = tower(), data(CASES["linear"], 4), BookKeeping()
    engine.attach(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.add(batch, 0.5, torch.zeros(size(model), dtype=torch.float64))
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters())
    engine.detach()


def test_two_batches_add_up() -> None:
    model, batch, engine = tower(), data(CASES["linear"], 8), BookKeeping()
    out = torch.zeros(size(model), dtype=torch.float64)
    engine.attach(model)
    for rows in torch.arange(8).split(3):
        engine.add(batch.at(rows), 0.5, out)
    engine.detach()
    assert off(out, clipped(gradients(model, batch), 0.5)) < 1e-5


def test_a_batch_of_any_size_is_added_up() -> None:
    model, batch = tower(), data(CASES["linear"], 1100)
    batch.features[700] = float("nan")
    weights = torch.rand(1100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(min=0.1)
    rows = gradients(model, batch)
    rows[700] = 0.0
    weighted = Examples(batch.features, batch.labels, weights=weights)
    assert off(summed(model, weighted, 0.5, BookKeeping()), clipped(rows, 0.5, weights)) < 1e-5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=8), st.integers(0, 2**31))
def test_portions_are_small_split_no_owner_and_leave_nobody_out(sizes: list[int], seed: int) -> None:
    owners = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    owners = owners[torch.randperm(len(owners), generator=torch.Generator().manual_seed(seed))]
    records = torch.arange(len(owners))
    seen: list[int] = []
    for part, of in portions(Examples(records[:, None], records), owners):
        assert of is not None
        whose = owners[part.labels]
        assert len(part) <= MOST or len(whose.unique()) == 1
        assert sorted(of.unique().tolist()) == list(range(len(whose.unique())))
        assert [whose[of == each].unique().numel() for each in of.unique()] == [1] * len(of.unique())
        assert all(int((whose == each).sum()) == sizes[each] for each in whose.unique().tolist())
        seen += part.labels.tolist()
    assert sorted(seen) == records.tolist()


def test_an_engine_that_is_not_attached_or_attached_twice_says_so() -> None:
    engine = BookKeeping()
    with pytest.raises(UnsupportedModel, match="not attached"):
        engine.add(data(CASES["linear"], 1), 1.0, torch.zeros(1))
    engine.attach(tower())
    with pytest.raises(UnsupportedModel, match="attached to a model already"):
        engine.attach(tower())


# -- what is refused


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(5, CLASSES), nn.Linear(5, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.used(features)


class Functional(nn.Module):
    """Uses its layer's weight behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) + features @ self.layer.weight.t()


class PositionsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features.t()[:, :, None]).sum(dim=0)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (tied(), r"1\.weight and 0\.weight are one tied parameter"),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), "GroupNorm instead of BatchNorm"),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False, track_running_stats=False)), "GroupNorm"),
        (nn.Sequential(nn.Linear(5, 4), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))), "buffer"),
        (nn.Sequential(nn.Embedding(7, 3, max_norm=1.0)), "max_norm"),
        (nn.Sequential(nn.Embedding(7, 3, scale_grad_by_freq=True)), "scale_grad_by_freq"),
        (Own(), r"no rule for layer the model itself \(Own\)"),
        (Unused(), r"idle\.weight takes no part"),
        (Functional(), r"layer\.weight is used outside"),
        (PositionsFirst(), r"layer of parameter layer\.weight does not see one row for each record"),
    ],
)
def test_a_model_whose_records_cannot_be_told_apart_is_refused(model: nn.Module, told: str) -> None:
    before = [set(vars(module)) for module in model.modules()]
    with pytest.raises(UnsupportedModel, match=told):
        summed(model, data(CASES["linear"], 4), 0.5, BookKeeping())
    assert [set(vars(module)) for module in model.modules()] == before


def test_every_rule_has_a_case() -> None:
    tried = {type(module) for case in CASES.values() for module in case.layer().modules()}
    assert set(RULES) - tried <= {nn.LSTM, nn.GRU, nn.MultiheadAttention}, "these have tests of their own"


def test_the_oracle_s_tables_are_opacus_own() -> None:
    model = GradSampleModule(nn.Linear(2, 2))
    samplers = {sampler.__module__ for sampler in type(model).GRAD_SAMPLERS.values()}
    assert all(module.startswith("opacus.") for module in samplers)
