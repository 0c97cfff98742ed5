"""Figures of the hold-out leave with noise, are paid for once, and stop where the budget does: with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from federations import HOSPITALS, Federation, policy_text

from lepton_fl.evaluation.figures import SHOWN, SUPPRESSED

pytestmark = pytest.mark.slow  # `link/test_masked_rounds.py` and `client/test_clauses.py` have fast ones

THREE = HOSPITALS[:3]
COUNTS = "may_leave: [noised-update, noised-counts]"
RUN = ["rounds=4", "evaluation.every=2", "evaluation.epsilon=0.6", "output=out"]


def gathered(federation: Federation, policy: str, *settings: str) -> int:
    server = federation.gather(THREE, *RUN, *settings)
    for hospital in THREE:
        (federation.folder / f"client {hospital}" / "policy.yaml").write_text(policy)
        federation.client(hospital)
    return server.wait(90)


def accounts(federation: Federation, hospital: str) -> dict[str, dict[str, float]]:
    said = federation.call("lepton-client", "ledger", "--json", "--home", f"client {hospital}")
    return {one["account"]["part"]: one["account"] for one in json.loads(said.stdout)["accounts"]}


def test_who_is_held_out_pays_for_the_evaluations_and_who_is_trained_on_for_the_training(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        assert gathered(federation, policy_text(COUNTS)) == 0, (tmp_path / "server.log").read_text()
        found = accounts(federation, THREE[0])
        assert set(found) == {"", "held out"}
        assert 0.55 < found["held out"]["epsilon_pld"] <= 0.6
        assert found["held out"]["uncovered"] == found[""]["uncovered"] == 0
        assert 0.9 < found[""]["epsilon_pld"] <= 1.0
        result = federation.result()
        assert result["evaluation"].startswith("noised counts of the hold-out, epsilon 0.6 at delta 0.0001 per record")
        evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert (evaluation["evaluation"], evaluation["epsilon"], evaluation["releases"]) == ("private", 0.6, 2)
        # Some hundred and forty held-out patients are too few for this noise: nothing is said of women.
        women = next(one for one in evaluation["assessment"]["groups"] if one["group"] == "Female")
        assert {figure["status"] for figure in women["figures"]} <= {SUPPRESSED, SHOWN}
        assert next(figure for figure in women["figures"] if figure["metric"] == "recall")["status"] == SUPPRESSED
        left = federation.call("lepton-client", "ledger", "--left", "--json", "--home", f"client {THREE[0]}")
        counts = [one for one in json.loads(left.stdout)["left"] if one["kind"] == "noised-counts"]
        assert [one["round"] for one in counts] == [2, 4]
        assert counts[-1]["epsilon"] >= counts[0]["epsilon"] > 0
    finally:
        federation.end()


def test_a_run_whose_evaluations_do_not_fit_the_budget_is_refused_before_a_record_is_read(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        federation.gather(HOSPITALS, "rounds=4", "evaluation.epsilon=2.0", "output=out", "grace_s=1")
        for hospital in HOSPITALS:
            (federation.folder / f"client {hospital}" / "policy.yaml").write_text(policy_text(COUNTS))
            federation.client(hospital)
        said = federation.wait_for(f"{HOSPITALS[0]}.log", "policy.budget.epsilon")
        assert "epsilon of who is held out is 0 now and" in said
        assert "and 1 may be" in said
        assert set(accounts(federation, HOSPITALS[0])) == set()
    finally:
        federation.end()
