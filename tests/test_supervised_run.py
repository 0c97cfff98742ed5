"""A federation of real processes whose model fails a gate: held, logged, and released by a named person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from federations import PLAIN, Federation, policy_text

HOSPITALS = ["Cleveland", "Hungary"]
TELLS = policy_text("may_leave: [noised-update, energy]")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    yield made
    made.end()


@pytest.mark.slow
def test_a_held_model_is_released_by_a_person_and_both_are_in_the_log(federation: Federation) -> None:
    settings = [PLAIN, "rounds=2", "output=out", "gates.epsilon=0.01", "gates.energy_kwh=5"]
    server = federation.gather(HOSPITALS, *settings)
    # One of the two tells its energy.
    (federation.folder / "client Cleveland" / "policy.yaml").write_text(TELLS)
    for hospital in HOSPITALS:
        federation.client(hospital)
    assert server.wait(90) == 13
    out = federation.folder / "out"
    assert (out / "held" / "model.safetensors").exists()
    assert not (out / "model.safetensors").exists()
    gates = json.loads((out / "gates.json").read_text())
    assert [(one["gate"], one["holds"]) for one in gates["gates"]] == [("epsilon", False), ("energy_kwh", False)]
    assert "nothing was told by Hungary" in gates["gates"][1]["why"]
    energy = federation.result()["energy"]
    assert energy["not_told"] == ["Hungary"]
    assert {*energy["by_institution"]} == {"(operator)", "Cleveland"}
    told = [json.loads(line) for line in (out / "energy.jsonl").read_text().splitlines()]
    assert {(one["round"], one["phase"]) for one in told if one["institution"] == "Cleveland"} >= {
        (1, "train"),
        (1, "communicate"),
        (2, "train"),
    }
    assert logged(out) == [("gate", "held")]
    run = json.loads((out / "contract.json").read_text())["run_id"]
    said = ["--by", "the head of cardiology", "--reason", "for the trial alone", "--home", "server"]
    released = federation.call("lepton-server", "release", str(run), *said)
    assert released.returncode == 0, released.stderr
    assert (out / "model.safetensors").exists()
    assert logged(out) == [("gate", "held"), ("override", None), ("gate", "overridden")]
    assert "cardiology" not in (out / "log.json").read_text()


def logged(folder: Path) -> list[tuple[str, str | None]]:
    """Kind and verdict of the log's entries about gates."""
    entries = json.loads((folder / "log.json").read_text())["entries"]
    plain = [json.loads(one) if isinstance(one, str) else one for one in entries]
    return [(one["kind"], one["fields"].get("verdict")) for one in plain if one["kind"] in ("gate", "override")]
