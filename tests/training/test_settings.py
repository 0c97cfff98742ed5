"""The local schedule's optimizer, the same in plain and in private training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.clipped_sum import OpacusClippedSum
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import Mechanism, train_privately
from lepton_fl.training.settings import Training

SGD = Training(2, 1.0, 0.1, 0.5, 0.0, 0.0, 8, "sgd")
ADAM = replace(SGD, optimizer="adam")
QUIET = Mechanism(noise_multiplier=1e-7, clipping_norm=100.0, sampling_rate=1.0, expected_batch=3.0)
RECORDS = Examples(torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 1.0]]), torch.tensor([0, 1, 1]))


def model() -> nn.Module:
    net = nn.Linear(2, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return net


def task(round: int = 1) -> LocalTask:
    return LocalTask(round, 0.0, Randomness(1).within("elm", round))


def parameters(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_the_first_step_of_adam_is_the_learning_rate_along_each_sign() -> None:
    net = model()
    train_plainly(net, RECORDS, replace(ADAM, local_steps=1), task())
    # At zero, gradients of the mean loss are (1/2 - label) * features: (-0.5, -1.5, -0.5) / 3 with the bias.
    assert parameters(net).tolist() == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)


@pytest.mark.parametrize("training", [SGD, replace(SGD, momentum=0.9, weight_decay=0.1), ADAM], ids=str)
def test_without_noise_private_and_plain_training_take_the_same_steps(training: Training) -> None:
    plain, private = model(), model()
    train_plainly(plain, RECORDS, training, task())
    train_privately(private, RECORDS, training, QUIET, OpacusClippedSum(), task())
    assert torch.allclose(parameters(plain), parameters(private), atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_later_rounds_take_shorter_steps(optimizer: str) -> None:
    moved = []
    for round in (1, 3):
        net = model()
        train_plainly(net, RECORDS, replace(SGD, local_steps=1, optimizer=optimizer), task(round))
        moved.append(float(parameters(net)[1]))
    assert moved[1] == pytest.approx(moved[0] / 4)


def test_a_round_of_adam_remembers_none_before() -> None:
    net = model()
    train_plainly(net, RECORDS, replace(ADAM, local_steps=1), task())
    between = parameters(net)
    train_plainly(net, RECORDS, replace(ADAM, local_steps=1), task())
    assert (parameters(net) - between).tolist() == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.optimizer must be sgd or adam, got lion"):
        replace(SGD, optimizer="lion")


def test_momentum_under_adam_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing was trained; set it to 0"):
        replace(ADAM, momentum=0.5)


def test_private_training_leaves_no_gradient_behind() -> None:
    net = model()
    train_privately(net, RECORDS, SGD, QUIET, OpacusClippedSum(), task())
    assert all(p.grad is None for p in net.parameters())
