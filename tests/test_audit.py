"""`lepton-sim audit`: what a model betrays of canaries stays below the claim, and without one it is found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compositions import sim_config
from patients import grouped
from voices import Quiet

from lepton_fl.audit import Audited, Canaries, ClaimRefuted, audit, draw, planted, refuse_refuted, scores
from lepton_fl.errors import ConfigError
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.run import Names
from lepton_fl.simulation import AuditSettings, plan
from lepton_fl.training.examples import Examples, Site

SIM = Path(sys.executable).with_name("lepton-sim")
# One institution that learns its records by heart, the wrong ones too.
BY_HEART = [
    "task=digits", "institutions=1", "secure_aggregation=off", "model=mlp", "model.hidden=[256]", "rounds=1",
    "training.local_steps=600", "training.sampling_rate=0.1", "training.learning_rate=0.1", "training.momentum=0.9",
    "audit.canaries=200",
]  # fmt: skip
FOUND = Audited(100, 50, 1, 0.5, 0.95, 1.0, "record", "add or remove one record", 1e-4, None)


def audited(*overrides: str) -> Audited:
    config = sim_config(*overrides)
    return audit(plan(config, Names("", "", "")), config.audit, Quiet())


@pytest.mark.parametrize("records", [1, pytest.param(4, marks=pytest.mark.slow), 16])
def test_per_patient_the_claim_is_the_same_for_any_number_of_records_and_the_bound_below_it(
    records: int, tmp_path: Path
) -> None:
    found = audited("privacy=patient", "rounds=3", f"audit.records_per_canary={records}", grouped(tmp_path, records))
    assert found.claimed == pytest.approx(1.0, abs=0.01)
    assert found.bound <= found.claimed
    assert f"claimed {found.claimed:.2f} per patient (add or remove one patient with all of their records)" in str(
        found
    )
    assert str(found).endswith("; consistent")


@pytest.mark.parametrize(("records", "least"), [(1, 0.3), pytest.param(4, 0.8, marks=pytest.mark.slow)])
def test_a_model_that_learned_by_heart_without_privacy_is_found_out(records: int, least: float) -> None:
    found = audited("privacy=none", "seed=2", f"audit.records_per_canary={records}", *BY_HEART)
    assert found.bound > least
    assert found.claimed is None
    assert "nothing was claimed (privacy=none: updates are exact)" in str(found)


@pytest.mark.slow
def test_the_same_training_with_privacy_betrays_less_than_it_claims() -> None:
    found = audited("privacy=patient", "seed=2", "audit.records_per_canary=4", *BY_HEART, "training.local_steps=20")
    assert found.claimed is not None
    assert found.bound <= found.claimed
    assert "were it not for seed=2" in str(found)


def test_a_bound_above_the_claim_is_an_error_with_its_own_exit_code() -> None:
    refuse_refuted(FOUND)
    refuse_refuted(replace(FOUND, claimed=None, bound=9.0))
    refuted = replace(FOUND, bound=1.5)
    assert str(refuted).endswith("; REFUTED")
    with pytest.raises(
        ClaimRefuted, match=r"at least 1.50 per record where 1.00 was claimed; no file was written"
    ) as caught:
        refuse_refuted(refuted)
    assert caught.value.exit_code == 3


# -- the canaries


def records(count: int, first: int = 0, subjects: list[int] | None = None) -> Examples:
    features = torch.arange(first, first + count, dtype=torch.float32)[:, None]
    return Examples(
        features, torch.zeros(count, dtype=torch.int64), None if subjects is None else torch.tensor(subjects)
    )


def test_canaries_that_are_in_are_subjects_of_their_own_at_the_largest_institution() -> None:
    sites = [
        Site("A", records(2), records(1), records(0)),
        Site("B", records(3, subjects=[5, 5, 7]), records(1), records(0)),
    ]
    canaries = Canaries(records(3, first=100), np.array([True, False, True]))
    first, second = planted(sites, canaries, 2)
    assert first is sites[0]
    assert second.train.features[:, 0].tolist() == [0, 1, 2, 100, 100, 102, 102]
    assert second.train.subjects is not None
    assert second.train.subjects.tolist() == [5, 5, 7, 8, 8, 10, 10]
    assert second.holdout is sites[1].holdout


def test_canaries_are_held_out_records_with_a_label_that_is_not_theirs() -> None:
    planned = plan(sim_config("privacy=none"), Names("", "", ""))
    canaries = draw(planned, AuditSettings(100, 1, 0.95), Randomness(1))
    held = {
        (*features.tolist(), int(label))
        for site in planned.loaded.sites
        for features, label in zip(site.holdout.features, site.holdout.labels, strict=True)
    }
    rows = zip(canaries.records.features, canaries.records.labels, strict=True)
    assert all((*features.tolist(), 1 - int(label)) in held for features, label in rows)
    assert 30 <= canaries.was_in.sum() <= 70
    with pytest.raises(ConfigError, match=r"audit.canaries 1000 need as many held-out records, and there are 175"):
        draw(planned, AuditSettings(1000, 1, 0.95), Randomness(1))


def test_a_canary_that_was_learned_scores_higher() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    found = scores(model, Examples(torch.tensor([[-5.0], [5.0]]), torch.tensor([0, 0])))
    assert found[0] > -0.01
    assert found[1] < -4.9


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["privacy=institution", "secure_aggregation=off"], "about whole institutions"),
        (["privacy=record", "audit.records_per_canary=2"], "of whom privacy=record promises nothing"),
        (["audit.canaries=0"], "audit.canaries must be at least 1"),
        (["audit.confidence=1"], "audit.confidence must lie between 0 and 1"),
    ],
)
def test_an_audit_that_would_show_nothing_is_refused(settings: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        audited("rounds=1", *settings)


# -- the command


@pytest.mark.slow
def test_the_command_says_the_bound_beside_the_claim_and_writes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [SIM, "audit", "rounds=2", "log=json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["event"] == "audit"
    assert found["bound"] <= found["claimed"] <= 1.0
    assert (found["unit"], found["consistent"], found["confidence"]) == ("record", True, 0.95)
    assert list(tmp_path.iterdir()) == []
