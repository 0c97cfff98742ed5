"""A whole simulation before its gates, and what it tells of the columns that its model looks at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compositions import sim_config

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.gates import HELD, HELD_MODEL, MODEL, NAME, RELEASED
from lepton_fl.results.folder import Folder
from lepton_fl.results.lines import closing
from lepton_fl.results.outcome import Outcome
from lepton_fl.results.terminal import JsonVoice
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, plan, simulate


class Quiet(JsonVoice):
    """Says nothing."""

    @staticmethod
    def _say(event: dict[str, object]) -> None:
        """See `JsonVoice`."""


def planned(*overrides: str) -> Plan:
    return plan(sim_config("rounds=2", *overrides), Names("heart", "logistic", "fedavg"))


def simulated(folder: Path, *overrides: str) -> Outcome:
    return simulate(planned(*overrides), Folder(folder), Quiet())


def test_a_model_that_passes_its_gates_is_released_and_one_that_does_not_is_held(tmp_path: Path) -> None:
    held = simulated(tmp_path, "gates.epsilon=0.5", "gates.energy_kwh=1000")
    assert held.verdict is not None
    assert (held.verdict.verdict, held.verdict.failed) == (HELD, ("epsilon",))
    assert (tmp_path / HELD_MODEL).exists()
    assert not (tmp_path / MODEL).exists()
    assert json.loads((tmp_path / "result.json").read_text())["verdict"] == HELD
    assert HELD_MODEL in closing(held, "out")[-1]
    passed = simulated(tmp_path, "gates.epsilon=1.001")
    assert passed.verdict is not None
    assert passed.verdict.verdict == RELEASED
    assert (tmp_path / MODEL).exists()
    assert not (tmp_path / "held").exists()


def test_a_group_that_is_too_small_to_judge_holds_the_model(tmp_path: Path) -> None:
    simulated(tmp_path, "gates.worst_group_recall=0.1")
    (gate,) = json.loads((tmp_path / NAME).read_text())["gates"]
    assert (gate["holds"], gate["figure"]["status"]) == (False, "suppressed")
    assert "of sex" in gate["why"]


def test_an_explanation_is_released_under_its_own_epsilon_and_told_with_all_that_is_held_out(tmp_path: Path) -> None:
    simulated(tmp_path, "explanation.epsilon=2", "explanation.top=13")
    told = json.loads((tmp_path / "explanation.json").read_text())
    assert 1.99 < told["epsilon"] <= 2
    assert 2 < told["epsilon_held_out"] < 3  # the evaluation costs 1, and both together less than their sum
    assert len(told["features"]) == 13
    assert {one["status"] for one in told["features"]} == {"shown"}
    values = [one["value"] for one in told["features"]]
    assert values == sorted(values, reverse=True)
    assert all(one["low"] <= one["value"] <= one["high"] for one in told["features"])
    simulated(tmp_path)
    assert not (tmp_path / "explanation.json").exists()


def test_with_a_seed_an_explanation_promises_nothing(tmp_path: Path) -> None:
    simulated(tmp_path, "explanation.epsilon=2", "seed=1")
    told = json.loads((tmp_path / "explanation.json").read_text())
    assert (told["epsilon"], told["epsilon_held_out"]) == (None, None)


@pytest.mark.parametrize("overrides", [["task=digits", "model=mlp"], ["privacy=none"], ["evaluation=exact"]])
def test_an_explanation_that_cannot_be_released_is_refused_before_anything_is_trained(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match="nothing was trained"):
        planned("explanation.epsilon=1", *overrides)


def test_a_run_whose_released_accuracy_buys_too_little_ends_early(tmp_path: Path) -> None:
    dear = ["rounds=9", "evaluation=exact", "privacy=none", "energy.stop_below=1e15", "energy.patience=2"]
    outcome = simulated(tmp_path, *dear)
    assert outcome.stopped is not None
    trained = [report.round for report in outcome.reports if report.skipped is None]
    assert trained == [1, 2, 3]  # two releases after the first one
    assert [one.round for one in outcome.reports if one.metrics is not None] == [1, 2, 3, 9]  # and the one at the end
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["stopped"] == outcome.stopped
    assert (tmp_path / MODEL).exists()
    assert any(line.startswith("stopped     the last 2 releases") for line in closing(outcome, "out"))
