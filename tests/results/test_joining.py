"""Was joining worth it, in a simulation: a file for each institution, and under privacy nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compositions import sim_config
from voices import Quiet

from lepton_fl.results.folder import Folder
from lepton_fl.results.joining import lines
from lepton_fl.run import Names
from lepton_fl.simulation import SimConfig, plan, simulate

HOSPITALS = ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]


def configured(*settings: str) -> SimConfig:
    shared = ["rounds=2", "seed=1", "evaluation.every=2"]
    return sim_config(*shared, *settings)


def ran(folder: Path, *settings: str) -> SimConfig:
    config = configured(*settings)
    simulate(plan(config, Names("heart", "logistic", "fedavg")), Folder(folder), Quiet())
    return config


def figures(one: dict[str, Any], metric: str, status: str | None = None) -> list[dict[str, Any]]:
    """Every figure of this name in an assessment, of everybody, groups and gaps."""
    found = [*one["overall"], *(f for group in one["groups"] for f in group["figures"])]
    found += [gap["figure"] for gap in one["gaps"]]
    return [each for each in found if each["metric"] == metric and status in (None, each["status"])]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimConfig]:
    folder = tmp_path_factory.mktemp("private")
    return folder, ran(folder, "fairness=ditto", "fairness.steps=20", "evaluation.by_institution=true")


def test_every_hospital_has_a_table_of_its_own_with_all_three_models(private: tuple[Path, SimConfig]) -> None:
    folder, _ = private
    sites = [json.loads(path.read_text()) for path in sorted((folder / "sites").glob("*.json"))]
    assert [one["institution"] for one in sites] == HOSPITALS
    assert all(set(one["models"]) == {"local", "federated", "personal"} for one in sites)
    assert all(one["schema"] == "lepton-fl/site/1" for one in sites)


def test_under_privacy_what_the_federation_is_told_has_no_local_model_and_is_suppressed(
    private: tuple[Path, SimConfig],
) -> None:
    told = json.loads((private[0] / "evaluation.json").read_text())["institutions"]
    assert [one["institution"] for one in told] == HOSPITALS
    for one in told:
        assert set(one["models"]) == {"federated"}
        assessment = one["models"]["federated"]
        assert {each["status"] for each in figures(assessment, "recall")} == {"suppressed"}
        gaps = figures(assessment, "equal opportunity difference")
        assert {each["status"] for each in gaps} <= {"suppressed", "not resolved"}
        assert all(each["value"] is None for each in figures(assessment, "recall"))


def test_at_home_ten_women_are_suppressed_too_though_their_counts_are_exact(private: tuple[Path, SimConfig]) -> None:
    for path in (private[0] / "sites").glob("*.json"):
        for model in json.loads(path.read_text())["models"].values():
            women = next(one for one in model["groups"] if (one["attribute"], one["group"]) == ("sex", "Female"))
            recall = next(each for each in women["figures"] if each["metric"] == "recall")
            assert (recall["status"], recall["value"]) == ("suppressed", None)


def test_the_terminal_has_a_column_for_each_model(private: tuple[Path, SimConfig]) -> None:
    said = lines(*private)
    assert said[1].split() == ["local-only", "federated", "personal"]
    assert sum(line.startswith(tuple(HOSPITALS)) for line in said) == 4
    assert any("recall, sex Female" in line and line.count("suppressed") == 3 for line in said)
    assert not any("fair" in line for line in said)


def test_without_privacy_the_tables_stand_among_the_results(tmp_path: Path) -> None:
    ran(tmp_path, "fairness=ditto", "fairness.steps=20", "privacy=none")
    told = json.loads((tmp_path / "evaluation.json").read_text())["institutions"]
    assert [one["institution"] for one in told] == HOSPITALS
    assert all(set(one["models"]) == {"local", "federated", "personal"} for one in told)
    cleveland = told[0]["models"]["personal"]
    assert [each["status"] for each in figures(cleveland, "AUC")[:1]] == ["shown"]


def test_under_another_fairness_there_is_no_table(tmp_path: Path) -> None:
    config = ran(tmp_path, "privacy=none")
    assert not (tmp_path / "sites").exists()
    assert lines(tmp_path, config) == []


def test_thresholds_stand_in_a_file_with_the_law_and_what_the_hold_out_says(tmp_path: Path) -> None:
    ran(tmp_path, "fairness=thresholds", "fairness.legal_basis=an-act", "privacy=none", "holdout.tune=0.3")
    written = json.loads((tmp_path / "thresholds.json").read_text())
    assert written["legal_basis"] == "an-act"
    assert set(written["thresholds"]) == {"Male", "Female", "unknown"}
    assert all(0 < edge < 1 for edge in written["thresholds"].values())
    assert figures(written["assessment"], "accuracy", "shown")


def test_under_privacy_groups_that_are_too_small_keep_one_half(tmp_path: Path) -> None:
    ran(tmp_path, "fairness=thresholds", "fairness.legal_basis=an-act")
    written = json.loads((tmp_path / "thresholds.json").read_text())
    assert written["suppressed"] == ["Male", "Female", "unknown"]
    assert set(written["thresholds"].values()) == {0.5}
