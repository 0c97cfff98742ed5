"""An experiment is one word on the command line, and everything that was measured with it stands in one file."""

from __future__ import annotations

import pytest
from compositions import sim_config

from lepton_fl.config import config_dir
from lepton_fl.simulation import SimConfig
from lepton_fl.tasks.mnist import Mnist

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> SimConfig:
    return sim_config(*overrides)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_its_model_fits_its_task(name: str) -> None:
    config = composed(f"experiment={name}")
    config.model.build(config.task.shape())
    assert config.seed is None


def test_mnist_is_ten_institutions_that_share_noise_at_epsilon_3_per_record() -> None:
    config = composed("experiment=mnist")
    assert isinstance(config.task, Mnist)
    assert (config.institutions, config.noise, config.is_summed) == (10, "shared", True)
    assert type(config.privacy).__name__ == "RecordPrivacy"
    assert (config.privacy.epsilon, config.privacy.delta) == (3.0, 1e-5)


def test_what_is_typed_wins_over_the_experiment_and_the_experiment_over_recipes() -> None:
    assert composed("experiment=mnist").training.local_steps == 1
    assert composed("task=mnist").training.local_steps == 5
    assert composed("experiment=mnist", "rounds=7").rounds == 7
    assert composed("experiment=mnist", "model=mlp").model == composed("model=mlp").model


def test_without_one_noise_is_each_institutions_own() -> None:
    assert composed().noise == "own"
