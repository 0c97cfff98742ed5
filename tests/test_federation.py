"""An operator and four institutions over mutual TLS, as real processes, with the README's commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from federations import HOSPITALS, PATIENCE_S, PLAIN, PUBLIC, Federation

SECOND_VERIFIER = Path(__file__).resolve().parent.parent / "docs" / "verify_log.py"


def test_hospitals_train_over_mutual_tls_the_very_model_of_a_simulation(federation: Federation) -> None:
    three = HOSPITALS[:3]
    simulation = federation.simulate(three, "rounds=3", "seed=1")
    invitations = {hospital: federation.invite(hospital) for hospital in three}
    server = federation.serve("rounds=3", "seed=1", "output=out")
    federation.wait_for("server.log", "waiting for 3 institutions")
    for hospital, invitation in invitations.items():
        enrolled = federation.enroll(hospital, invitation)
        assert enrolled.returncode == 0, enrolled.stderr
        key = federation.folder / f"client {hospital}" / "institution.key"
        assert key.stat().st_mode & 0o777 == 0o600
    clients = [federation.client(hospital, *PUBLIC) for hospital in three]

    assert [server.wait(PATIENCE_S), simulation.wait(PATIENCE_S)] == [0, 0]

    over_the_network, in_one_process = federation.result(), federation.result("sim")
    same = ("model_sha256", "metrics", "secure_aggregation", "noise_multiplier", "private", "institutions")
    assert {key: over_the_network[key] for key in same} == {key: in_one_process[key] for key in same}
    assert over_the_network["secure_aggregation"] is True
    assert (over_the_network["metrics_by_institution"], over_the_network["metrics"] is None) == ({}, False)
    for hospital, client in zip(three, clients, strict=True):
        identity = federation.folder / f"client {hospital}" / "identity.key"
        assert identity.stat().st_mode & 0o777 == 0o600
        client.send_signal(signal.SIGTERM)
        assert client.wait(PATIENCE_S) == 0
    assert "Traceback" not in (federation.folder / "server.log").read_text()
    the_log_is_checked(federation, three)


def the_log_is_checked(federation: Federation, hospitals: list[str]) -> None:
    """The log among the results, by both sides and by the second verifier, with the heads that a hospital kept."""
    (federation.folder / "log.json").write_bytes((federation.folder / "out" / "log.json").read_bytes())
    assert federation.call("lepton-server", "verify", "log.json", "--home", "server").returncode == 0
    home = f"client {hospitals[0]}"
    given = ("log.json", "--home", home, "--model", "out/model.safetensors")
    checked = federation.call("lepton-client", "verify", *given)
    assert checked.returncode == 0, checked.stderr
    for hospital in hospitals:
        assert f"the head that {hospital} countersigned has" in checked.stdout
    assert "a head that was kept has" in checked.stdout
    assert "is the one that run" in checked.stdout
    key = next(line.split()[1] for line in checked.stdout.splitlines() if line.startswith("key"))
    heads = str(federation.folder / home / "heads.jsonl")
    second = [sys.executable, str(SECOND_VERIFIER), str(federation.folder / "log.json"), key, heads]
    assert subprocess.run(second, check=False, timeout=PATIENCE_S).returncode == 0
    log = json.loads((federation.folder / "log.json").read_text())
    assert log["contracts"][0]["contract"] == (federation.folder / "out" / "contract.json").read_text()
    kinds = [json.loads(entry)["kind"] for entry in log["entries"]]
    assert [kind for kind in kinds if kind != "release"] == [
        "log-key",
        *["enrolled"] * 3,
        "run",
        *["decision"] * 3,
        *["round"] * 4,
        "run-ended",
    ]


@pytest.mark.slow
def test_a_killed_institution_comes_back_and_the_round_goes_on_with_the_others(federation: Federation) -> None:
    for hospital in HOSPITALS[:2]:
        federation.invite(hospital)  # the invitation of before holds no more
    server = federation.gather(HOSPITALS, "rounds=40", "privacy=none", "output=out", "grace_s=1")
    clients = {hospital: federation.client(hospital, *PUBLIC) for hospital in HOSPITALS}
    federation.wait_for("server.log", "round  5/40")
    os.kill(clients["Hungary"].pid, signal.SIGKILL)
    federation.wait_for("server.log", "Hungary left out")
    federation.client("Hungary", *PUBLIC)
    said = federation.wait_for("server.log", "result ")
    assert server.wait(PATIENCE_S) == 0
    assert said.count("Hungary connected") == 2
    lines = [json.loads(line) for line in (federation.folder / "out" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(1, 41))
    # Of four, three suffice for a sum.
    assert any(line["replied"] == ["Cleveland", "Switzerland", "VA Long Beach"] for line in lines)
    assert lines[-1]["replied"] == HOSPITALS


def test_a_revoked_institution_is_cut_off_and_kept_out(federation: Federation) -> None:
    invitation = federation.invite("Cleveland")
    federation.invite("Hungary")  # never comes, so the run stays in its waiting room
    federation.serve("rounds=1")
    federation.wait_for("server.log", "waiting for 2 institutions")
    assert federation.enroll("Cleveland", invitation).returncode == 0
    client = federation.client("Cleveland", *PUBLIC)
    federation.wait_for("server.log", "Cleveland connected")
    assert federation.call("lepton-server", "revoke", "Cleveland", "--home", "server").returncode == 0
    assert client.wait(PATIENCE_S) == 7
    assert "this institution was revoked" in (federation.folder / "Cleveland.log").read_text()
    again = federation.client("Cleveland", *PUBLIC)
    assert again.wait(PATIENCE_S) == 7
    assert "not a member's, or was revoked" in (federation.folder / "Cleveland.log").read_text()


@pytest.mark.parametrize(
    ("settings", "clause", "reason"),
    [
        pytest.param(
            ["seed=1"],
            "policy.public_data",
            "seed=1, with which noise can be subtracted",
            marks=pytest.mark.slow,
        ),
        pytest.param(["privacy=none"], "policy.public_data", "privacy=none", marks=pytest.mark.slow),
        pytest.param(
            ["privacy.epsilon=5"],
            "policy.budget.epsilon",
            "1 per record at delta 0.0001 may be",
            marks=pytest.mark.slow,
        ),
        pytest.param(["holdout.share=0.9"], "policy.run.holdout_share", "holds out 0.9", marks=pytest.mark.slow),
    ],
)
def test_a_run_beyond_the_policy_is_refused_on_both_sides_by_the_clause(
    federation: Federation, settings: list[str], clause: str, reason: str
) -> None:
    invitation = federation.invite("Cleveland")
    server = federation.serve("rounds=1", PLAIN, *settings)
    federation.wait_for("server.log", "waiting for 1 institution")
    assert federation.enroll("Cleveland", invitation).returncode == 0
    federation.client("Cleveland")
    assert server.wait(PATIENCE_S) == 10
    assert f"Cleveland refused: {clause}" in (federation.folder / "server.log").read_text()
    # The agent stays for the next run.
    said = federation.wait_for("Cleveland.log", "waiting for the next")
    assert clause in said
    assert reason in said
    assert "nothing was read or sent" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_exact_counts_stay_at_home_unless_they_are_allowed_to_leave(federation: Federation) -> None:
    invitation = federation.invite("Cleveland")
    server = federation.serve("rounds=2", PLAIN, "output=out")
    federation.wait_for("server.log", "waiting for 1 institution")
    assert federation.enroll("Cleveland", invitation).returncode == 0
    federation.client("Cleveland")
    assert server.wait(PATIENCE_S) == 0
    result = json.loads((federation.folder / "out" / "result.json").read_text())
    assert result["metrics"] is None
    assert result["private"] is True
    assert 0.9 < result["epsilon"] <= 1.0
