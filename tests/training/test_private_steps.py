"""DP-SGD: every known trap, each shown on code that would fall into it, and an oracle for the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from lepton_fl import models
from lepton_fl.errors import UnsupportedModel
from lepton_fl.models.cnn import Cnn
from lepton_fl.models.logistic import Logistic
from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Shape
from lepton_fl.models.tanh_cnn import TanhCnn
from lepton_fl.privacy.noise import clip_target
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum, add_clipped_rows
from lepton_fl.training.examples import Examples, per_record_loss
from lepton_fl.training.local import LocalTask
from lepton_fl.training.private import Draws, Mechanism, take_step, train_privately
from lepton_fl.training.settings import Training

TRAINING = Training(
    local_steps=3,
    sampling_rate=0.5,
    learning_rate=0.1,
    learning_rate_decay=1.0,
    momentum=0.0,
    weight_decay=0.0,
    physical_batch=4,
    optimizer="sgd",
)
MECHANISM = Mechanism(noise_multiplier=1.0, clipping_norm=0.5, sampling_rate=0.5, expected_batch=8.0)
BUILT_IN = {
    "logistic": (Logistic(), Shape((5,), 1)),
    "mlp": (Mlp(hidden=[6], activation="tanh"), Shape((5,), 3)),
    "cnn": (Cnn(channels=2, hidden=8), Shape((1, 8, 8), 10)),
    "tanh_cnn": (TanhCnn(channels=2, hidden=8), Shape((1, 20, 20), 10)),
}


ENGINES = [BookKeeping, OpacusClippedSum]


def data(shape: Shape, records: int, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, max(2, shape.outputs), (records,), generator=generator)
    return Examples(torch.randn(records, *shape.features, generator=generator), labels)


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def clipped_sum(
    model: nn.Module, batch: Examples, clipping_norm: float, engine_of: Callable[[], ClippedSum] = BookKeeping
) -> Tensor:
    engine, out = engine_of(), torch.zeros(size(model), dtype=torch.float64)
    engine.attach(model)
    try:
        engine.add(batch, clipping_norm, out)
    finally:
        engine.detach()
    return out


def one_by_one(model: nn.Module, batch: Examples, clipping_norm: float) -> Tensor:
    """The definition: each record's own gradient, clipped, added. Autograd alone, batch of one."""
    total = torch.zeros(size(model), dtype=torch.float64)
    for row in range(len(batch)):
        model.zero_grad()
        record = batch.at(torch.tensor([row]))
        per_record_loss(model(record.features), record.labels).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
        total += gradient * min(1.0, clipping_norm / float(gradient.norm()))
    model.zero_grad()
    return total


def draws(seed: int = 0, institution: str = "A") -> Draws:
    source = Randomness(seed).within(institution, 1)
    return Draws(source.stream("sampling"), source.stream("noise"))


def task(seed: int | None = 0, proximal_mu: float = 0.0) -> LocalTask:
    return LocalTask(1, proximal_mu, Randomness(seed).within("A", 1))


def step(model: nn.Module, examples: Examples, mechanism: Mechanism, seed: int = 0) -> Tensor:
    engine = BookKeeping()
    engine.attach(model)
    try:
        return take_step(examples, mechanism, engine, draws(seed), (model, 4))
    finally:
        engine.detach()


# -- the clipped sum, against two oracles


def test_every_built_in_model_is_tested_here() -> None:
    assert set(BUILT_IN) == set(models.TABLE)


@pytest.mark.parametrize("engine_of", ENGINES)
@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("clipping_norm", [0.1, 100.0])
def test_the_clipped_sum_equals_batch_of_one_autograd(
    name: str, clipping_norm: float, engine_of: Callable[[], ClippedSum]
) -> None:
    settings_, shape = BUILT_IN[name]
    torch.manual_seed(1)
    model = settings_.build(shape)
    batch = data(shape, 6)
    expected = one_by_one(model, batch, clipping_norm)
    assert torch.allclose(clipped_sum(model, batch, clipping_norm, engine_of), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
@pytest.mark.parametrize("most", [None, 3])
def test_a_whole_private_round_is_that_of_opacus(name: str, most: int | None) -> None:
    """With next to no noise: three steps of Poisson draws, records or subjects, clipped by either engine."""
    settings_, shape = BUILT_IN[name]
    torch.manual_seed(1)
    start = settings_.build(shape)
    drawn = data(shape, 24)
    examples = Examples(drawn.features, drawn.labels, torch.arange(24) // 3)
    quiet = replace(MECHANISM, noise_multiplier=1e-6, records_per_subject=most)
    moved = []
    for engine_of in ENGINES:
        model = copy.deepcopy(start)
        train_privately(model, examples, TRAINING, quiet, engine_of(), task())
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        moved.append(torch.cat([(after - before).detach().flatten() for after, before in pairs]).double())
    assert float((moved[0] - moved[1]).norm() / moved[1].norm()) < 1e-5


def test_the_clipped_sum_equals_opacus_own_optimizer() -> None:
    model, batch = tiny(), data(Shape((5,), 1), 16)
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=0.3,
        expected_batch_size=1,
        loss_reduction="sum",
    )
    per_record_loss(wrapped(batch.features.requires_grad_()), batch.labels).sum().backward()
    optimizer.pre_step()
    expected = torch.cat([p.grad.flatten() for p in wrapped.parameters()]).double()
    # Opacus divides by norm + 1e-6, so it clips to a hair less.
    assert torch.allclose(clipped_sum(model, batch, 0.3), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 10.0), st.integers(0, 2**31), st.floats(1e-3, 1e6))
def test_no_record_moves_the_sum_by_more_than_the_clipping_norm(clipping_norm: float, seed: int, scale: float) -> None:
    model, shape = tiny(), Shape((5,), 1)
    batch = data(shape, 7, seed)
    batch = Examples(batch.features * scale, batch.labels)
    without = batch.at(torch.arange(6))
    moved = clipped_sum(model, batch, clipping_norm) - clipped_sum(model, without, clipping_norm)
    assert float(moved.norm()) <= clipping_norm * (1 + 1e-5)


def test_records_that_are_much_alike_do_not_eat_the_margin_for_rounding() -> None:
    """A sum in float32 would: it is seen to move by 1 + 1e-4 clipping norms on such a batch."""
    draw = torch.Generator().manual_seed(1)
    records = torch.randn(1, 40, generator=draw) + 1e-3 * torch.randn(4096, 40, generator=draw)
    sums = []
    for kept in (records, records[1:]):
        out = torch.zeros(40, dtype=torch.float64)
        add_clipped_rows([kept.clone()], 1.0, out)
        sums.append(out)
    assert float((sums[0] - sums[1]).norm()) <= 1.0 + 1e-8


def test_a_gradient_wider_than_a_block_is_summed_whole() -> None:
    draw = torch.Generator().manual_seed(2)
    gradients = [torch.randn(200, size, generator=draw) for size in (3, 5000, 1)]
    out = torch.zeros(5004, dtype=torch.float64)
    add_clipped_rows([gradient.clone() for gradient in gradients], 0.5, out)
    rows = torch.cat(gradients, dim=1).double()
    expected = (rows * (0.5 / rows.norm(dim=1).clamp(min=0.5))[:, None]).sum(dim=0)
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)


def test_a_record_within_the_bound_is_not_changed() -> None:
    model, batch = tiny(), data(Shape((5,), 1), 1)
    assert torch.allclose(clipped_sum(model, batch, 1e6), one_by_one(model, batch, float("inf")), atol=1e-6)


# -- trap: one broken record poisons the model


@pytest.mark.parametrize("engine_of", ENGINES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 1e38, 3e38])
def test_a_broken_record_adds_nothing_and_hurts_nobody(poison: float, engine_of: Callable[[], ClippedSum]) -> None:
    model, batch = tiny(), data(Shape((5,), 1), 6)
    features = batch.features.clone()
    features[2, 1] = poison
    poisoned = Examples(features, batch.labels)
    got = clipped_sum(model, poisoned, 0.5, engine_of)
    others = clipped_sum(model, batch.at(torch.tensor([0, 1, 3, 4, 5])), 0.5, engine_of)
    assert torch.isfinite(got).all()
    assert float((got - others).norm()) <= 0.5 * (1 + 1e-5)


def test_the_same_record_makes_a_naive_private_model_nan() -> None:
    """Opacus as it comes, shown to fail: 0 * NaN is NaN."""
    model, batch = tiny(), data(Shape((5,), 1), 6)
    batch.features[2, 1] = float("nan")
    wrapped = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=1.0,
        max_grad_norm=0.5,
        expected_batch_size=6,
        loss_reduction="sum",
    )
    per_record_loss(wrapped(batch.features.requires_grad_()), batch.labels).sum().backward()
    optimizer.step()
    assert any(not torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("engine_of", ENGINES)
def test_a_whole_round_over_broken_records_leaves_a_finite_model(engine_of: Callable[[], ClippedSum]) -> None:
    model, batch = tiny(), data(Shape((5,), 1), 16)
    batch.features[::2] = float("nan")
    train_privately(model, batch, TRAINING, MECHANISM, engine_of(), task())
    assert all(torch.isfinite(p).all() for p in model.parameters())


# -- trap: an abandoned physical batch leaks into the next release


class Interrupted(BookKeeping):
    """Fails in the second physical batch of the first step, after the first was added."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("out of memory")
        super().add(batch, clipping_norm, out, owners)


def test_an_abandoned_step_leaves_nothing_behind() -> None:
    model, examples = tiny(), data(Shape((5,), 1), 16)
    fresh = step(copy.deepcopy(model), examples, MECHANISM, seed=5)
    engine = Interrupted()
    engine.attach(model)
    with pytest.raises(RuntimeError):
        take_step(examples, MECHANISM, engine, draws(4), (model, 4))
    after = take_step(examples, MECHANISM, engine, draws(5), (model, 4))
    engine.detach()
    assert torch.equal(after, fresh)


@pytest.mark.parametrize("engine_of", ENGINES)
def test_an_exception_inside_the_backward_pass_leaves_nothing_behind(engine_of: Callable[[], ClippedSum]) -> None:
    model, examples = tiny(), data(Shape((5,), 1), 16)
    engine, out = engine_of(), torch.zeros(size(model), dtype=torch.float64)
    engine.attach(model)
    model(examples.features).sum()  # a forward pass whose backward never comes
    engine.add(examples, 0.5, out)
    engine.detach()
    assert torch.equal(out, clipped_sum(model, examples, 0.5, engine_of))


# -- trap: wrapping the model changes or accumulates state


@pytest.mark.parametrize("engine_of", ENGINES)
def test_the_model_is_left_as_it_was_found_round_after_round(engine_of: Callable[[], ClippedSum]) -> None:
    model, examples = tiny(), data(Shape((5,), 1), 16)
    names = list(model.state_dict())
    attributes = {name: set(vars(p)) for name, p in model.named_parameters()}
    for _ in range(3):
        train_privately(model, examples, TRAINING, MECHANISM, engine_of(), task())
        assert list(model.state_dict()) == names
        assert {name: set(vars(p)) for name, p in model.named_parameters()} == attributes
        assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


def test_wrapping_anew_each_round_fails_or_renames_with_the_naive_engine() -> None:
    """Opacus' make_private, shown to fail: the second call refuses, the first renamed every parameter."""
    model, examples = tiny(), data(Shape((5,), 1), 16)
    loader = torch.utils.data.DataLoader(list(zip(examples.features, examples.labels, strict=True)), batch_size=4)
    with pytest.warns(UserWarning, match="Secure RNG turned off"):
        engine = PrivacyEngine()
    private, *_ = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=loader,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    assert all(name.startswith("_module.") for name in private.state_dict())
    with pytest.raises(ValueError, match="hooks twice"):
        GradSampleModule(model)


def test_a_failure_while_training_still_detaches() -> None:
    model, examples = tiny(), data(Shape((5,), 1), 16)
    with pytest.raises(RuntimeError):
        train_privately(model, examples, TRAINING, MECHANISM, Interrupted(), task())
    train_privately(model, examples, TRAINING, MECHANISM, BookKeeping(), task())


# -- trap: empty Poisson batches


def test_an_empty_draw_is_a_step_of_noise_alone() -> None:
    model, examples = tiny(), data(Shape((5,), 1), 16)
    never = replace(MECHANISM, sampling_rate=2.0**-63)
    release = step(model, examples, never)
    assert float(release.std()) == pytest.approx(never.stddev, rel=0.5)
    nobody = step(model, data(Shape((5,), 1), 0), never)
    assert torch.equal(release, nobody)


def test_empty_draws_count_as_steps() -> None:
    """Three steps that draw nobody move the model three times, each by fresh noise."""
    model, examples = tiny(), data(Shape((5,), 1), 16)
    never = replace(MECHANISM, sampling_rate=2.0**-63)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    stream = draws().noise
    from lepton_fl.privacy.noise import add_noise

    expected = torch.zeros(size(model), dtype=torch.float64)
    for _ in range(TRAINING.local_steps):
        noise = torch.zeros_like(expected)
        add_noise(noise, never.stddev, stream)
        expected += noise
    train_privately(model, examples, TRAINING, never, BookKeeping(), task())
    moved = start - torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(moved.double(), TRAINING.learning_rate * expected / never.expected_batch, atol=1e-6)


# -- trap: the drawn size or the number of records shapes the step


def test_the_divisor_is_declared_and_not_the_drawn_size() -> None:
    model, examples = tiny(), data(Shape((5,), 1), 16)
    everyone = replace(MECHANISM, sampling_rate=1.0, noise_multiplier=1e-9)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    total = clipped_sum(copy.deepcopy(model), examples, clip_target(0.5, everyone.stddev, size(model)))
    train_privately(model, examples, replace(TRAINING, local_steps=1), everyone, BookKeeping(), task())
    moved = start - torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(moved.double(), 0.1 * total / everyone.expected_batch, atol=1e-5)


def test_physical_batches_change_nothing_but_float_rounding() -> None:
    examples = data(Shape((5,), 1), 32)
    results = []
    for physical_batch in (1, 5, 32):
        model = tiny()
        train_privately(
            model, examples, replace(TRAINING, physical_batch=physical_batch), MECHANISM, BookKeeping(), task()
        )
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(results[0], results[2], atol=1e-6)
    assert torch.allclose(results[1], results[2], atol=1e-6)


# -- trap: randomness that someone else can know


def test_torch_s_seed_decides_neither_noise_nor_sampling() -> None:
    examples = data(Shape((5,), 1), 32)
    models_ = [tiny(), tiny()]
    for model in models_:
        torch.manual_seed(0)
        train_privately(model, examples, TRAINING, MECHANISM, BookKeeping(), task(seed=None))
    assert not torch.equal(models_[0][0].weight, models_[1][0].weight)


def test_a_seed_repeats_the_round_bit_for_bit() -> None:
    examples = data(Shape((5,), 1), 32)
    models_ = [tiny(), tiny()]
    for model in models_:
        train_privately(model, examples, TRAINING, MECHANISM, BookKeeping(), task(seed=3))
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models_), strict=True))


# -- layers whose records cannot be told apart


@pytest.mark.parametrize("engine_of", ENGINES)
def test_batch_norm_is_refused_before_training(engine_of: Callable[[], ClippedSum]) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(UnsupportedModel, match="GroupNorm instead of BatchNorm"):
        engine_of().attach(model)


@pytest.mark.parametrize("engine_of", ENGINES)
def test_tied_parameters_are_refused_by_name(engine_of: Callable[[], ClippedSum]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(UnsupportedModel, match=r"1\.weight and 0\.weight"):
        engine_of().attach(model)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(5, 1)
        self.idle = nn.Linear(5, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.used(features)


@pytest.mark.parametrize("engine_of", ENGINES)
def test_a_parameter_without_a_gradient_is_refused_by_name(engine_of: Callable[[], ClippedSum]) -> None:
    with pytest.raises(UnsupportedModel, match=r"idle\.weight"):
        clipped_sum(Unused(), data(Shape((5,), 1), 4), 1.0, engine_of)


# -- FedProx under privacy


def test_the_proximal_pull_is_outside_of_the_clipped_sum() -> None:
    """With no record drawn the pull alone acts, and it points back to the start."""
    examples = data(Shape((5,), 1), 16)
    never = replace(MECHANISM, sampling_rate=2.0**-63)
    free, held = tiny(), tiny()
    start = torch.cat([p.detach().flatten() for p in free.parameters()])
    for model, proximal_mu in ((free, 0.0), (held, 5.0)):
        train_privately(model, examples, TRAINING, never, BookKeeping(), task(proximal_mu=proximal_mu))
    distances = [
        float((torch.cat([p.detach().flatten() for p in model.parameters()]) - start).norm()) for model in (free, held)
    ]
    assert distances[1] < distances[0]
