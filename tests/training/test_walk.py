"""A chunk's steps in C make what torch makes of them, layer by layer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lepton_fl.training.cohort import products
from lepton_fl.training.cohort.chunks import Descent, Records
from lepton_fl.training.cohort.factored import Factored
from lepton_fl.training.cohort.layers import bends_of
from lepton_fl.training.cohort.lowered import lower

pytestmark = pytest.mark.skipif(products.library() is None, reason="no C compiler, or no wide registers")
MEMBERS, SIZES, WEIGHTS = 3, (5, 4, 5), (2, 3, 1)
PLAIN = Descent(0.3, 1.0, 0.0)


def network(*widths: int, bend: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), bend()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def records(inputs: int, outputs: int) -> Records:
    draw, count = torch.Generator().manual_seed(6), sum(SIZES)
    features = torch.randn(MEMBERS, count, inputs, generator=draw)
    labels = torch.randint(0, max(2, outputs), (MEMBERS, count), generator=draw)
    shares = torch.cat([torch.full((MEMBERS, size), 1 / size) for size in SIZES], 1)
    shares[1, 3:5], shares[1, :3] = 0.0, 1 / 3  # a member with fewer records
    return Records(features, labels, shares, SIZES)


def summed(model: nn.Module, found: Records, descent: Descent) -> Tensor:
    total = Factored(lower(model)).summed([*model.parameters()], found, descent, WEIGHTS)
    assert total is not None
    return total


def by_torch(model: nn.Module, found: Records, descent: Descent, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(products, "library", lambda: None)
        return summed(model, found, descent)


NETWORKS = {
    "relu": network(70, 60, 50, 3),
    "tanh, no bias": network(70, 60, 50, 3, bend=nn.Tanh, bias=False),
    "sigmoid, one output": network(70, 60, 50, 1, bend=nn.Sigmoid),
    "a bend last": nn.Sequential(*network(70, 60, 3), nn.Tanh()),
    "no bend": nn.Sequential(nn.Linear(70, 60), nn.Linear(60, 60), nn.Linear(60, 2)),
    "one layer": network(70, 40),
    "odd widths": network(5, 61, 7, 3),
}


@pytest.mark.parametrize("descent", [PLAIN, Descent(0.3, 0.9, 0.05)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_is_that_of_torch(name: str, descent: Descent, monkeypatch: pytest.MonkeyPatch) -> None:
    model = NETWORKS[name]
    linear = [one for one in model.modules() if isinstance(one, nn.Linear)]
    found = records(linear[0].in_features, linear[-1].out_features)
    expected = by_torch(model, found, descent, monkeypatch)
    assert float((summed(model, found, descent) - expected).norm()) <= 3e-6 * float(expected.norm())


def test_bends_far_out_are_flat_and_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    for bend in (nn.Tanh, nn.Sigmoid):
        model, found = network(70, 60, 3, bend=bend), records(70, 3)
        with torch.no_grad():
            model.get_parameter("1.bias").copy_(torch.linspace(-200.0, 200.0, 60))
        expected = by_torch(model, found, PLAIN, monkeypatch)
        assert float((summed(model, found, PLAIN) - expected).norm()) <= 3e-6 * float(expected.norm())


def test_a_member_that_is_not_finite_makes_no_sum() -> None:
    for broken in (torch.nan, torch.inf):
        found = records(70, 3)
        found.features[1, 4, 2] = broken
        model = network(70, 60, 50, 3)
        assert Factored(lower(model)).summed([*model.parameters()], found, PLAIN, WEIGHTS) is None


@pytest.mark.parametrize(("outputs", "label"), [(3, 3), (3, -1), (1, 2)])
def test_a_label_that_is_none_of_the_outputs_is_refused(outputs: int, label: int) -> None:
    found, model = records(70, outputs), network(70, 60, outputs)
    found.labels[2, 1] = label
    with pytest.raises(IndexError, match="none of the model's outputs"):
        Factored(lower(model)).summed([*model.parameters()], found, PLAIN, WEIGHTS)


def test_bends_that_follow_one_another_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = nn.Sequential(nn.Linear(70, 60), nn.ReLU(), nn.Tanh(), nn.Linear(60, 3)), records(70, 3)
    assert bends_of(lower(model)) is None
    expected = by_torch(model, found, PLAIN, monkeypatch)
    assert float((summed(model, found, PLAIN) - expected).norm()) <= 3e-6 * float(expected.norm())
