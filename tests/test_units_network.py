"""Every unit over the network: the very model of a simulation, and the promise said where the institution reads it."""

from __future__ import annotations

import pytest
from federations import HOSPITALS, PATIENCE_S, PLAIN, PUBLIC, Federation, policy_text

PAIR = HOSPITALS[:2]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["patient", "institution"])
def test_a_unit_trains_over_the_network_the_very_model_of_a_simulation(unit: str, federation: Federation) -> None:
    settings = ["rounds=3", "seed=1", f"privacy={unit}", PLAIN]
    server = federation.gather(PAIR, *settings, "output=out")
    for hospital in PAIR:
        federation.client(hospital, *PUBLIC)
    assert server.wait(PATIENCE_S) == 0, (federation.folder / "server.log").read_text()
    result = federation.result()
    assert result["unit"] == unit
    assert result["model_sha256"] == federation.simulated(PAIR, *settings)


@pytest.mark.slow
def test_an_institution_with_a_budget_for_patients_joins_a_run_per_patient(federation: Federation) -> None:
    server = federation.gather(PAIR[:1], "rounds=2", "privacy=patient", PLAIN, "output=out")
    policy = federation.folder / f"client {PAIR[0]}" / "policy.yaml"
    policy.write_text(policy_text("budget: {unit: patient, epsilon: 1.0, delta: 1.0e-4}"))
    federation.client(PAIR[0])
    assert server.wait(PATIENCE_S) == 0, (federation.folder / "server.log").read_text()
    assert "per patient, epsilon 1 at delta 0.0001" in (federation.folder / f"{PAIR[0]}.log").read_text()
    result = federation.result()
    assert result["private"]
    assert result["neighbouring_relation"] == "add or remove one patient with all of their records"
