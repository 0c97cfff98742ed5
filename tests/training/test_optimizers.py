"""The local optimizers take the very steps of torch's own, and load no compiler."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lepton_fl.training.optimizers import Adam, Optimizer, Sgd

RATE = 0.05
CHOICES = [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01)]  # momentum, weight decay


def after(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer, steps: int = 5) -> list[torch.Tensor]:
    """The parameters after steps along gradients that are the same for everyone; the bias has none in the first."""
    draws = torch.Generator().manual_seed(7)
    weight, bias = model.parameters()
    for step in range(steps):
        optimizer.zero_grad()
        assert (weight.grad, bias.grad) == (None, None)
        weight.grad = torch.randn(weight.shape, generator=draws)
        bias.grad = torch.randn(bias.shape, generator=draws) if step else None
        optimizer.step()
    return [weight.detach(), bias.detach()]


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(7, 3)


@pytest.mark.parametrize(("momentum", "weight_decay"), CHOICES)
def test_sgd_moves_as_torchs_own_bit_for_bit(momentum: float, weight_decay: float) -> None:
    ours, theirs = model(), model()
    own = torch.optim.SGD(theirs.parameters(), lr=RATE, momentum=momentum, weight_decay=weight_decay)
    moved = after(ours, Sgd(ours.parameters(), RATE, momentum, weight_decay))
    assert all(map(torch.equal, moved, after(theirs, own)))
    assert not torch.equal(moved[0], next(model().parameters()))


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_moves_as_torchs_own_bit_for_bit(weight_decay: float) -> None:
    ours, theirs = model(), model()
    moved = after(ours, Adam(ours.parameters(), RATE, weight_decay))
    assert all(
        map(torch.equal, moved, after(theirs, torch.optim.Adam(theirs.parameters(), RATE, weight_decay=weight_decay)))
    )
    assert not torch.equal(moved[0], next(model().parameters()))


def test_a_parameter_without_a_gradient_stays_where_it_is() -> None:
    for make in (lambda own: Sgd(own, RATE, 0.0, 0.5), lambda own: Adam(own, RATE, 0.5)):
        frozen = model()
        before = [one.detach().clone() for one in frozen.parameters()]
        make(frozen.parameters()).step()
        assert all(map(torch.equal, frozen.parameters(), before))
