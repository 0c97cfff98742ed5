"""Every method in the table: it has a YAML, travels with the terms, and trains a model of the same form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from compositions import sim_config
from safetensors.numpy import load_file
from voices import Quiet

from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError
from lepton_fl.fairness import TABLE
from lepton_fl.fairness.settings import Fairness, Weighing
from lepton_fl.fairness.steering import steering_of
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.terms import from_json, to_json
from lepton_fl.results.folder import Folder
from lepton_fl.run import Names
from lepton_fl.simulation import SimConfig, plan, simulate

LAW = "fairness.legal_basis=a-law"


def configured(name: str, *overrides: str) -> SimConfig:
    lawful = [LAW] if name == "thresholds" else []
    return sim_config(f"fairness={name}", "rounds=2", "seed=1", *lawful, *overrides)


def test_the_table_and_the_yaml_files_name_the_same_methods() -> None:
    assert {path.stem for path in (config_dir() / "fairness").glob("*.yaml")} == set(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_run_trains_and_keeps_the_models_form(name: str, tmp_path: Path) -> None:
    planned = plan(configured(name, "privacy=none", "secure_aggregation=off"), Names("heart", "logistic", "fedavg"))
    outcome = simulate(planned, Folder(tmp_path), Quiet())
    trained = load_file(tmp_path / "model.safetensors")
    assert {key: value.shape for key, value in trained.items()} == dict(template_of(planned.run.program.model))
    assert all(report.replied == report.cohort and not report.refused for report in outcome.reports)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_method_travels_with_the_terms(name: str) -> None:
    config = configured(name)
    assert from_json(to_json(config)).fairness == config.fairness


@pytest.mark.parametrize("name", sorted(TABLE))
def test_only_who_steers_has_weights_to_send(name: str) -> None:
    config = configured(name)
    made = steering_of(config.fairness, config.task.groups(), 2)
    assert (made is not None) == config.fairness.steers


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_tune_histogram_has_no_more_cells_than_the_method_needs(name: str) -> None:
    config = configured(name, "task=adult")
    observed = config.fairness.observed(config.task.groups())
    crossed = isinstance(config.fairness, Fairness) and not hasattr(config.fairness, "attribute")
    assert observed.cells == (18 if crossed else 3)  # sex and race, crossed; sex alone


@pytest.mark.parametrize("name", ["group", "global_rw", "local_rw"])
@pytest.mark.parametrize("most", [0.9, 5.1, float("nan")])
def test_no_weight_may_be_beyond_five(name: str, most: float) -> None:
    made = configured(name).fairness
    assert isinstance(made, Weighing)
    with pytest.raises(ConfigError, match=r"fairness\.most"):
        replace(made, most=most)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [("group", "target", "everything"), ("group", "step", "0"), ("thresholds", "target", "worst")],
)
def test_a_setting_out_of_range_is_named(name: str, setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"fairness\.{setting}"):
        configured(name, f"fairness.{setting}={value}")
