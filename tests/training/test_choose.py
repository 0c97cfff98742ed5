"""The engine that a model gets, and who is told."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from lepton_fl import models
from lepton_fl.models.cnn import Cnn
from lepton_fl.models.logistic import Logistic
from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Shape
from lepton_fl.models.tanh_cnn import TanhCnn
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.choose import engine_for
from lepton_fl.training.clipped_sum import OpacusClippedSum
from lepton_fl.training.examples import Examples

BUILT_IN = {
    "logistic": Logistic().build(Shape((5,), 1)),
    "mlp": Mlp(hidden=[6], activation="tanh").build(Shape((5,), 3)),
    "cnn": Cnn(channels=2, hidden=8).build(Shape((1, 8, 8), 10)),
    "tanh_cnn": TanhCnn(channels=2, hidden=8).build(Shape((1, 20, 20), 10)),
}


class Scaled(nn.Module):
    """A layer of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.scale


class Renamed(nn.Linear):
    """Almost a layer with a rule; what else it does, a rule cannot know."""


def test_every_built_in_model_goes_the_fast_way_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    assert set(BUILT_IN) == set(models.TABLE)
    with caplog.at_level(logging.INFO):
        assert all(isinstance(engine_for(model), BookKeeping) for model in BUILT_IN.values())
    assert not caplog.records


def test_a_layer_without_a_rule_goes_to_opacus_and_the_log_names_it_once(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Sequential(Scaled()), nn.Linear(5, 2))
    with caplog.at_level(logging.INFO):
        assert [type(engine_for(model)) for _ in range(3)] == [OpacusClippedSum] * 3
    (record,) = caplog.records
    assert record.getMessage() == (
        "book-keeping has no rule for layer 0.0 (Scaled): Opacus clips per record, with the same promise, slower"
    )


def test_the_other_engine_bounds_the_layer_too() -> None:
    model = nn.Sequential(Scaled(), nn.Linear(5, 2))
    nn.init.zeros_(model[1].weight)
    engine, out = engine_for(model), torch.zeros(17, dtype=torch.float64)
    engine.attach(model)
    engine.add(Examples(torch.full((1, 5), 1e3), torch.zeros(1, dtype=torch.int64)), 0.5, out)
    engine.detach()
    assert float(out.norm()) == pytest.approx(0.5)


def forwarded() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 2))
    model[0].forward = lambda features: 2 * nn.functional.linear(features, model[0].weight)
    return model


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(Renamed(5, 2)),
        forwarded(),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 2))),
    ],
)
def test_a_layer_that_was_changed_is_not_taken_for_its_type(model: nn.Module) -> None:
    assert isinstance(engine_for(model), OpacusClippedSum)


def test_a_frozen_layer_needs_no_rule() -> None:
    model = nn.Sequential(Scaled().requires_grad_(False), nn.Linear(5, 2))
    assert isinstance(engine_for(model), BookKeeping)
