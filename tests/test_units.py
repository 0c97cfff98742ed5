"""What is protected, per record, patient or institution: three promises, each said wherever epsilon is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compositions import sim_config
from patients import grouped
from voices import Quiet

from lepton_fl.errors import ConfigError
from lepton_fl.federation.terms import from_json, to_json
from lepton_fl.privacy.accounting import epsilon_of_group, epsilon_spent
from lepton_fl.results.folder import Folder
from lepton_fl.results.lines import opening, round_line
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, SimConfig, plan, repeats, simulate


def configured(*overrides: str) -> SimConfig:
    return sim_config("rounds=2", *overrides)


def planned(*overrides: str) -> Plan:
    return plan(configured(*overrides), Names("heart", "logistic", "fedavg"))


# -- patient


def test_the_promise_per_patient_is_the_same_however_many_records_somebody_has(tmp_path: Path) -> None:
    claims = [planned("privacy=patient", grouped(tmp_path, k)).run.facts.claim for k in (1, 4, 16)]
    assert claims[0] == claims[1] == claims[2]
    assert claims[0].unit == "patient"
    assert claims[0].neighbouring_relation == "add or remove one patient with all of their records"


def test_a_patient_run_says_its_unit_and_relation_wherever_it_says_epsilon(tmp_path: Path) -> None:
    one = planned("privacy=patient", "training.sampling_rate=0.5", grouped(tmp_path, 4))
    outcome = simulate(one, Folder(tmp_path / "out"), Quiet())
    privacy = next(line for line in opening(one.run.facts) if line.startswith("privacy"))
    assert "per patient (add or remove one patient with all of their records), epsilon 1.00" in privacy
    assert "epsilon 1.00 of 1.00 per patient" in round_line(outcome.reports[-1], one.run.facts)
    written = [json.loads((tmp_path / "out" / "result.json").read_text())]
    written += [json.loads(line) for line in (tmp_path / "out" / "rounds.jsonl").read_text().splitlines()]
    for told in written:
        assert told["unit"] == "patient"
        assert told["neighbouring_relation"] == "add or remove one patient with all of their records"


def test_with_a_seed_the_model_of_records_that_are_each_a_patient_is_that_of_records(tmp_path: Path) -> None:
    """An image is its own subject: both units draw, clip and add the same."""
    shared = ["seed=3", "task=digits", "privacy.epsilon=3", "training.learning_rate=1", "training.sampling_rate=0.3"]
    digests = {
        simulate(planned(f"privacy={unit}", *shared), Folder(tmp_path / unit), Quiet()).model_sha256
        for unit in ("record", "patient")
    }
    assert len(digests) == 1


def test_a_step_per_patient_is_divided_by_the_declared_number_of_patients() -> None:
    declared = [
        planned("privacy=patient", *settings).run.program.mechanism for settings in ([], ["task.declared_patients=225"])
    ]
    assert [mechanism.expected_batch for mechanism in declared if mechanism] == [900 * 0.8 / 4, 225 * 0.8 / 4]


def test_delta_is_compared_with_the_declared_number_of_patients() -> None:
    settings = ["privacy=patient", "privacy.delta=2e-3"]
    planned(*settings, "task.declared_patients=225")
    with pytest.raises(ConfigError, match="about 900 patients allows one of them to be published"):
        planned(*settings)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("privacy.records_per_patient=0", "must be at least 1"),
        ("privacy.records_per_patient=257", "no batch may split a patient"),
        ("task.declared_patients=0", "must be at least 1 or null"),
    ],
)
def test_a_patient_run_that_cannot_keep_its_promise_is_refused(setting: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        planned("privacy=patient", setting)


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_the_unit_survives_the_way_to_an_institution(unit: str) -> None:
    config = configured(f"privacy={unit}", "task.declared_patients=7")
    arrived = from_json(to_json(config))
    assert arrived.privacy == config.privacy
    assert arrived.task == config.task


# -- record, where people have several


def test_a_run_per_record_warns_of_what_it_is_worth_to_a_person_with_several(tmp_path: Path) -> None:
    (said,) = repeats(planned("privacy=record", grouped(tmp_path, 4)))
    assert "one person has 4 records at one institution" in said
    assert "epsilon 1.00 per record (add or remove one record) is at most " in said
    assert " per person with 4 records; privacy=patient promises the same to everybody" in said
    (many,) = repeats(planned("privacy=record", grouped(tmp_path, 16)))
    assert "per person with 8 records, and more for 16" in many


@pytest.mark.parametrize(("settings", "records"), [(["privacy=patient"], 4), (["privacy=none"], 4), ([], 1)])
def test_nothing_is_to_be_warned_of_where_nobody_repeats_or_records_are_not_the_unit(
    settings: list[str], records: int, tmp_path: Path
) -> None:
    assert repeats(planned(*settings, grouped(tmp_path, records))) == []


@pytest.mark.parametrize(("records", "mixture"), [(1, 2.12), (2, 4.63), (4, 10.41)])
def test_the_epsilon_of_a_person_with_several_records_equals_known_figures(records: int, mixture: float) -> None:
    assert epsilon_of_group(1.0, 1e-5, 64 / 5000, 780, records) == pytest.approx(mixture, abs=0.01)


def test_with_full_batches_a_person_of_k_records_is_one_record_of_k_times_the_norm() -> None:
    assert epsilon_of_group(20.0, 1e-5, 1.0, 10, 4) == epsilon_spent(5.0, 1e-5, 1.0, 10)
    assert epsilon_of_group(20.0, 1e-5, 0.999999, 10, 4) == pytest.approx(epsilon_spent(5.0, 1e-5, 1.0, 10), rel=0.01)
    assert epsilon_of_group(20.0, 1e-5, 0.5, 0, 4) == 0.0
