"""Which executor trains a cohort, and in which chunks."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lepton_fl.errors import ConfigError
from lepton_fl.models.shape import Shape
from lepton_fl.training.choose import engine_for
from lepton_fl.training.cohort.executor import Work
from lepton_fl.training.cohort.plan import Asked, Sample, choose, draws
from lepton_fl.training.settings import Training

SHAPE = Shape((6,), 3)
SAMPLE = Sample(SHAPE, records=10, is_seeded=True, is_averaged=True)
AUTO = Asked("auto", None, 1)
WORK = Work(
    Training(
        local_steps=2,
        sampling_rate=0.5,
        learning_rate=0.1,
        learning_rate_decay=1.0,
        momentum=0.0,
        weight_decay=0.0,
        physical_batch=64,
        optimizer="sgd",
    ),
    None,
    engine_for,
)


class Silu(nn.Module):
    """A layer that has no batched rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def dense(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Linear(8, 3))


def test_a_dense_network_is_lowered() -> None:
    assert choose(AUTO, WORK, dense(nn.ReLU()), SAMPLE).executor == "lowered"


def test_without_a_seed_the_fastest_is_taken_of_those_that_can() -> None:
    sample = replace(SAMPLE, is_seeded=False)
    assert choose(AUTO, WORK, dense(nn.Tanh()), sample).executor in {"lowered", "sequential"}
    assert choose(AUTO, WORK, dense(Silu()), sample).executor in {"vmap", "sequential"}


@pytest.mark.parametrize(("layer", "why"), [(nn.Dropout(0.5), "dropout"), (Silu(), "no rule for layer 1")])
def test_a_choice_that_falls_back_says_why(layer: nn.Module, why: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose(AUTO, WORK, dense(layer), SAMPLE).executor == "sequential"
    assert "the cohort is trained one by one: " in caplog.text
    assert why in caplog.text


@pytest.mark.parametrize("executor", ["lowered", "vmap"])
def test_an_executor_that_cannot_run_the_model_is_refused_in_one_line(executor: str) -> None:
    with pytest.raises(ConfigError, match=f"executor={executor} cannot train this model: ") as refused:
        choose(Asked(executor, None, None), WORK, dense(nn.Dropout(0.5)), SAMPLE)
    assert "\n" not in str(refused.value)


def test_a_model_that_draws_has_one_worker_in_place(caplog: pytest.LogCaptureFixture) -> None:
    chosen = choose(Asked("sequential", 3, 4), WORK, dense(nn.Dropout(0.5)), SAMPLE)
    assert (chosen.workers, chosen.chunk) == (1, 3)
    assert "one worker" in caplog.text


def test_whether_a_model_draws_is_found_out_without_a_trace() -> None:
    model, other = dense(nn.Dropout(0.5)).eval(), dense(nn.ReLU())
    before = torch.random.get_rng_state()
    assert draws(model, SHAPE)
    assert not draws(other, SHAPE)
    assert not model.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_large_models_have_small_chunks() -> None:
    wide = nn.Sequential(nn.Linear(6, 60_000), nn.ReLU(), nn.Linear(60_000, 3))
    assert choose(AUTO, WORK, wide, SAMPLE).chunk < choose(AUTO, WORK, dense(nn.ReLU()), SAMPLE).chunk


@pytest.mark.parametrize("changed", [{"chunk": 0}, {"workers": 0}, {"executor": "fast"}])
def test_settings_that_mean_nothing_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        replace(AUTO, **changed)  # type: ignore[arg-type]
