"""A cohort that is trained together learns what its institutions would learn one after another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from safetensors.numpy import load_file
from voices import Quiet

from lepton_fl.config import config_dir, load
from lepton_fl.energy import lines
from lepton_fl.errors import ConfigError
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Outcome
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, SimConfig, plan, register_schemas, simulate

NAMES = Names("heart", "mlp", "fedavg")
SETTINGS = ("rounds=2", "seed=5", "secure_aggregation=off", "model=mlp", "training.sampling_rate=0.5")
TOGETHER = [
    ("none", "lowered", 1),
    ("none", "lowered", 3),
    ("none", "vmap", 2),
    ("none", "sequential", 3),
    ("record", "lowered", 3),
    pytest.param("record", "vmap", 2, marks=pytest.mark.slow),
]


def planned(*overrides: str) -> Plan:
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plan(load(SimConfig, compose("sim", overrides=[*SETTINGS, *overrides])), NAMES)


Simulated = tuple[Outcome, dict[str, np.ndarray]]
Alone = Callable[..., tuple[Plan, Simulated]]


def simulated(one: Plan, folder: Path, executor: str = "auto", chunk: int | None = None, workers: int = 1) -> Simulated:
    one = replace(one, asked=replace(one.asked, executor=executor, chunk=chunk, workers=workers))
    outcome = simulate(one, Folder(folder), Quiet())
    return outcome, load_file(folder / "model.safetensors")


def assert_alike(found: Simulated, expected: Simulated) -> None:
    for name, value in expected[1].items():
        assert np.linalg.norm(found[1][name] - value) <= 1e-6 * np.linalg.norm(value), name
    for one, other in zip(found[0].reports, expected[0].reports, strict=True):
        assert (one.cohort, one.replied, one.refused) == (other.cohort, other.replied, other.refused)
        assert one.epsilon == other.epsilon
        assert one.not_evaluated == other.not_evaluated
        assert {*one.metrics_by_institution} == {*other.metrics_by_institution}


@pytest.fixture(scope="module")
def plans() -> Callable[..., Plan]:
    """Plans by their settings, each calibrated once."""
    return functools.cache(planned)


@pytest.fixture(scope="module")
def alone(plans: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Plans, and what comes of them where institutions are called one after another."""
    return functools.cache(lambda *asked: (plans(*asked), simulated(plans(*asked), tmp_path_factory.mktemp("alone"))))


@pytest.mark.parametrize(("privacy", "executor", "chunk"), TOGETHER)
def test_any_executor_and_chunk_gives_the_model_of_one_after_another(
    privacy: str, executor: str, chunk: int, alone: Alone, tmp_path: Path
) -> None:
    one, expected = alone(f"privacy={privacy}", "training.local_steps=2")
    assert_alike(simulated(one, tmp_path, executor, chunk), expected)


@pytest.mark.parametrize(
    "overrides",
    [
        ("privacy=none", "strategy=fedadam"),
        ("privacy=none", "strategy=fedprox", "training.local_steps=3", "training.momentum=0.9"),
        pytest.param(("privacy=none", "strategy=fedmedian"), marks=pytest.mark.slow),
        pytest.param(("privacy=none", "strategy=qfedavg"), marks=pytest.mark.slow),
        pytest.param(("privacy=institution", "privacy.epsilon=100", "privacy.delta=1e-5"), marks=pytest.mark.slow),
        ("privacy=none", "cohort_size=2", "weight_cap=100"),
    ],
)
def test_every_kind_of_round_is_the_same(overrides: tuple[str, ...], alone: Alone, tmp_path: Path) -> None:
    one, expected = alone(*overrides)
    assert_alike(simulated(one, tmp_path, "lowered", 3), expected)


@pytest.mark.parametrize("executor", ["sequential", "lowered"])
def test_workers_change_no_bit(executor: str, plans: Callable[..., Plan], tmp_path: Path) -> None:
    one = plans("privacy=none")
    alone = simulated(one, tmp_path / "one", executor, 2, workers=1)[1]
    beside = simulated(one, tmp_path / "two", executor, 2, workers=2)[1]
    assert all(np.array_equal(alone[name], beside[name]) for name in alone)


def test_chunks_change_no_bit_of_what_is_trained_in_place(plans: Callable[..., Plan], tmp_path: Path) -> None:
    one = plans("privacy=none")
    found = [simulated(one, tmp_path / str(chunk), "sequential", chunk)[1] for chunk in (1, 3)]
    assert all(np.array_equal(found[0][name], other[name]) for other in found[1:] for name in other)


def test_an_institution_whose_model_is_broken_is_left_out_and_named(plans: Callable[..., Plan], tmp_path: Path) -> None:
    one = plans("privacy=none")
    sites = list(one.loaded.sites)
    sites[1] = replace(sites[1], train=replace(sites[1].train, features=sites[1].train.features * float("nan")))
    broken = replace(one, loaded=replace(one.loaded, sites=tuple(sites)))
    reports = simulated(broken, tmp_path / "cohort", "lowered", 4)[0].reports
    assert [*reports[0].refused] == [sites[1].institution]
    assert "not finite" in reports[0].refused[sites[1].institution]
    assert len(reports[0].replied) == len(sites) - 1


def test_an_institution_without_records_is_left_out_and_named(plans: Callable[..., Plan], tmp_path: Path) -> None:
    one = plans("privacy=none")
    sites = list(one.loaded.sites)
    train = sites[0].train
    empty = replace(train, features=train.features[:0], labels=train.labels[:0], subjects=None, groups=None)
    sites[0] = replace(sites[0], train=empty)
    broken = replace(one, loaded=replace(one.loaded, sites=tuple(sites)))
    reports = simulated(broken, tmp_path / "cohort", "lowered", 4)[0].reports
    assert [*reports[0].refused] == [sites[0].institution]


def test_energy_is_told_of_every_institution(plans: Callable[..., Plan], tmp_path: Path) -> None:
    one = plans("privacy=none")
    outcome = simulated(one, tmp_path, "lowered", 2)[0]
    told = {(line.round, line.institution, line.phase) for line in lines.read(tmp_path)}
    assert {(1, name, "train") for name in outcome.facts.institutions} <= told
    assert outcome.energy is not None
    assert outcome.energy["not_told"] == []
    assert outcome.energy["by_phase"]["communicate"]["bytes_up"] > 0


def test_a_cohort_that_is_trained_together_counts_the_bytes_of_its_messages(alone: Alone, tmp_path: Path) -> None:
    one, (carried, _) = alone("privacy=none", "training.local_steps=2")
    counted = simulated(one, tmp_path, "lowered", 3)[0]
    assert carried.energy is not None
    assert counted.energy is not None
    sent, told = carried.energy["by_phase"]["communicate"], counted.energy["by_phase"]["communicate"]
    assert told["bytes_down"] == sent["bytes_down"]
    # A mean's weight may have a digit more than an institution's, and a mean tells no loss.
    answers = 2 * 2 * len(counted.facts.institutions)
    assert abs(told["bytes_up"] - sent["bytes_up"]) <= 32 * answers


@pytest.mark.parametrize("executor", ["lowered", "vmap"])
def test_patients_are_refused_by_an_executor_that_cannot_draw_them(
    executor: str, plans: Callable[..., Plan], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"executor={executor} cannot train this model: patients"):
        simulated(plans("privacy=patient"), tmp_path, executor)


def test_masked_institutions_are_not_trained_together() -> None:
    with pytest.raises(ConfigError, match="executor=lowered trains many institutions together"):
        planned("privacy=none", "executor=lowered", "secure_aggregation=on")


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(ConfigError, match="executor must be one of auto, sequential, vmap, lowered"):
        planned("privacy=none", "executor=fast")
