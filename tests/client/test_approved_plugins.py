"""A run that uses code of the site's own needs a policy that approves of those very bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lepton_client.clauses import clauses
from lepton_client.policy import approved_tasks, load_plugins
from lepton_client.policy_command import policy as command
from proposals import policy, proposal, terms

from lepton_fl.errors import ConfigError
from lepton_fl.federation.terms import from_document
from lepton_fl.plugins import snapshot

CODE = """
from dataclasses import dataclass
from lepton_fl.models.logistic import Logistic

LEPTON_FL = {"model": {"bedside": "bedside_models:Bedside"}}

@dataclass
class Bedside(Logistic):
    pass
"""


def test_a_plugin_is_run_and_used_only_as_the_policy_approves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bedside_models.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    sha256 = snapshot("bedside_models").sha256

    command(["hash", "bedside_models"])
    assert capsys.readouterr().out == f"{{module: bedside_models, sha256: {sha256}}}\n"

    changed = policy(tmp_path, models=["bedside"], plugins=[{"module": "bedside_models", "sha256": 64 * "0"}])
    with pytest.raises(ConfigError, match="nothing of it was run"):
        load_plugins(changed)
    with pytest.raises(ConfigError, match=r"policy\.models names bedside, which is not installed here"):
        approved_tasks(changed, tmp_path / "policy.yaml")

    approving = policy(tmp_path, models=["bedside"], plugins=[{"module": "bedside_models", "sha256": sha256}])
    load_plugins(approving)
    approved_tasks(approving, tmp_path / "policy.yaml")
    asked = terms(model=from_document("model", {"kind": "bedside"}))
    found = clauses(approving, proposal(approving, asked))
    assert [clause.name for clause in found if not clause.is_met] == []
    assert "the run uses bedside_models, as it was approved" in [clause.says for clause in found]

    for other in (changed, policy(tmp_path, models=["bedside"]), policy(tmp_path, models=["any"])):
        found = clauses(other, proposal(other, asked))
        assert [clause.name for clause in found if not clause.is_met] == ["policy.plugins"]


def test_show_says_which_plugins_are_approved_without_running_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy(tmp_path, plugins=[{"module": "not_installed", "sha256": 64 * "0"}])
    command(["show", "--home", str(tmp_path)])
    assert f"plug-in     not_installed, sha256 {64 * '0'}" in capsys.readouterr().out
    command(["show", "--home", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["plugins"] == [{"module": "not_installed", "sha256": 64 * "0"}]
