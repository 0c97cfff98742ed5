"""Dense layers one after the other, without autograd: the numbers that autograd and the layers' rules give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.bookkeeping.straight import StraightLine, straight_line
from lepton_fl.training.examples import Examples, loss_gradient, per_record_loss
from lepton_fl.training.flat import Slot

RELU = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
STRAIGHT = {
    "relu": RELU,
    "tanh, one output": nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)),
    "sigmoid, no bias, nested": nn.Sequential(
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.Sigmoid()), nn.Linear(5, 3)
    ),
    "an activation first and last": nn.Sequential(nn.Tanh(), nn.Linear(6, 3), nn.Tanh()),
    "one layer alone": nn.Linear(6, 3),
    "relu, one large layer": nn.Sequential(nn.Linear(6, 2800), nn.ReLU(), nn.Linear(2800, 3)),
    "sigmoid, one large layer": nn.Sequential(nn.Linear(6, 2800), nn.Sigmoid(), nn.Linear(2800, 3)),
}


def records(count: int = 7) -> Examples:
    draw = torch.Generator().manual_seed(1)
    return Examples(torch.randn(count, 6, generator=draw), torch.randint(0, 2, (count,), generator=draw))


def line_of(model: nn.Module) -> StraightLine | None:
    start, slots = 0, {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            slots[parameter] = Slot(start, tuple(parameter.shape))
            start += parameter.numel()
    return straight_line(model, slots)


def clipped(model: nn.Module, batch: Examples, clipping_norm: float = 0.5) -> Tensor:
    engine, out = BookKeeping(), torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    engine.attach(model)
    engine.add(batch, clipping_norm, out)
    engine.detach()
    return out


class InAnother(nn.Module):
    """A model around another, which is then no straight line."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        return made


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_the_gradient_of_the_loss_is_autograds(outputs: int) -> None:
    given = torch.randn(5, outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 1, 1, 0, 1])
    per_record_loss(given, labels).sum().backward()
    assert torch.allclose(loss_gradient(given.detach(), labels), given.grad, atol=1e-7)


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_straight_line_gives_the_sum_that_the_layers_rules_give(name: str) -> None:
    model = STRAIGHT[name]
    assert line_of(model) is not None
    assert line_of(InAnother(model)) is None
    assert torch.allclose(clipped(model, records()), clipped(InAnother(model), records()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38])
def test_a_broken_record_adds_nothing_and_hurts_nobody(poison: float) -> None:
    batch = records()
    batch.features[2, 1] = poison
    others = records().at(torch.tensor([0, 1, 3, 4, 5, 6]))
    model = STRAIGHT["relu"]
    assert float((clipped(model, batch) - clipped(model, others)).norm()) <= 0.5 * (1 + 1e-5)


@pytest.mark.parametrize("name", ["relu", "one layer alone"])
@pytest.mark.parametrize("owners", [None, torch.tensor([0, 1, 1, 2, 0, 3, 3])])
def test_a_float32_sum_is_the_float64_sum_of_a_small_batch(name: str, owners: Tensor | None) -> None:
    model, engine = STRAIGHT[name], BookKeeping()
    size = sum(p.numel() for p in model.parameters())
    narrow, wide = torch.zeros(size), torch.zeros(size, dtype=torch.float64)
    engine.attach(model)
    engine.add(records(), 0.5, narrow, owners)
    engine.add(records(), 0.5, wide, owners)
    engine.detach()
    assert torch.equal(narrow.double(), wide)


def test_a_float32_sum_of_many_records_is_refused() -> None:
    engine = BookKeeping()
    engine.attach(RELU)
    with pytest.raises(UnsupportedModel, match="float32 adds up 512 records at most, and here are 513; this is a bug"):
        engine.add(records(513), 0.5, torch.zeros(74))
    engine.detach()


def test_no_gradient_is_left_and_none_is_changed() -> None:
    first = next(iter(RELU.parameters()))
    first.grad = torch.full_like(first, 7.0)
    engine, out = BookKeeping(), torch.zeros(74, dtype=torch.float64)
    engine.attach(RELU)
    engine.add(records(), 0.5, out)
    assert bool((first.grad == 7.0).all())
    assert [p.grad is None for p in RELU.parameters()] == [False, True, True, True, True, True]
    engine.detach()


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 3))
    model[0].register_forward_hook(lambda module, given, made: made * 2)
    return model


def twice() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


CROOKED = {
    "a frozen bias": frozen(),
    "a hook": hooked(),
    "a layer that comes twice": twice(),
    "another layer": nn.Sequential(nn.Linear(6, 3), nn.GELU()),
    "flattening in the middle": nn.Sequential(nn.Linear(6, 3), nn.Flatten()),
    "dropout": nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)),
    "nothing to train": nn.Sequential(nn.ReLU()),
}


@pytest.mark.parametrize("name", CROOKED)
def test_what_is_no_straight_line_is_left_to_autograd(name: str) -> None:
    assert line_of(CROOKED[name]) is None


def test_records_of_several_positions_are_left_to_autograd() -> None:
    line = line_of(nn.Sequential(nn.Linear(6, 3)))
    assert line is not None
    assert line.pieces(Examples(torch.zeros(2, 4, 6), torch.zeros(2, dtype=torch.int64))) is None
