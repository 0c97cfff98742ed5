"""The main job on real input: four hospitals, heart disease, epsilon 1."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from compositions import sim_config

from lepton_fl.privacy.accounting import epsilon_spent
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Outcome
from lepton_fl.results.terminal import PlainVoice
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, plan, simulate


def planned(*overrides: str) -> Plan:
    return plan(sim_config(*overrides), Names("heart", "logistic", "fedavg"))


def run(prepared: Plan, folder: Path) -> Outcome:
    return simulate(prepared, Folder(folder), PlainVoice())


def auc(outcome: Outcome) -> float:
    metrics = outcome.reports[-1].metrics
    assert metrics is not None
    assert metrics.auc is not None
    return metrics.auc


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> float:
    return auc(run(planned("privacy=none"), tmp_path_factory.mktemp("reference")))


def test_without_privacy_the_hold_out_auc_is_as_published(reference: float) -> None:
    # Logistic regression on the pooled table reaches .877 in five folds; missing-value features add a little.
    assert reference >= 0.87


def test_the_defaults_keep_epsilon_one_and_lose_less_than_two_points_of_auc(reference: float, tmp_path: Path) -> None:
    # The model is judged here, not the noise of its evaluation: that is `test_private_evaluation.py`.
    prepared = planned("evaluation=exact")
    outcomes = [run(prepared, tmp_path / str(number)) for number in range(3)]
    assert len({outcome.model_sha256 for outcome in outcomes}) == 3
    for outcome in outcomes:
        claim = outcome.facts.claim
        assert claim.is_private
        assert (claim.unit, claim.delta) == ("record", 1e-4)
        spent = outcome.reports[-1].epsilon
        assert spent is not None
        assert 0.99 < spent <= 1.0
        assert claim.noise_multiplier is not None
        assert spent == epsilon_spent(claim.noise_multiplier, 1e-4, 1.0, 30)
    assert statistics.mean(map(auc, outcomes)) >= reference - 0.02


def test_a_larger_budget_than_the_noise_was_made_for_is_never_printed(tmp_path: Path) -> None:
    """Half the rounds cost less than the whole budget: epsilon is counted, not copied from the settings."""
    prepared = planned("rounds=4")
    shorter = replace(prepared, run=replace(prepared.run, terms=replace(prepared.run.terms, rounds=2)))
    spent = [report.epsilon for report in run(shorter, tmp_path).reports]
    assert spent[0] is not None
    assert spent[1] is not None
    assert 0 < spent[0] < spent[1] < 0.8
