"""A person decides: a contract waits, is read with its price, and is accepted or refused, by the commands as typed."""

from __future__ import annotations

import json
import re

import pytest
from federations import PATIENCE_S, PLAIN, Federation, policy_text
from homes import enrolled
from lepton_client.home import Home
from one_process import Answer, answers


def waiting(federation: Federation) -> str:
    """Cleveland's agent has a contract that waits for a person; returns the run's number."""
    federation.gather(["Cleveland"], "rounds=2", PLAIN, "output=out", "purpose.contact=ethics@example.org")
    policy = federation.folder / "client Cleveland" / "policy.yaml"
    policy.write_text(policy_text("accept: by-hand"))
    federation.client("Cleveland")
    said = federation.wait_for("Cleveland.log", "a contract waits to be read")
    found = re.search(r"lepton-client review (\d+)", said)
    assert found is not None
    return found[1]


def review(federation: Federation, *arguments: str) -> str:
    done = federation.call("lepton-client", "review", *arguments, "--home", "client Cleveland")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_nothing_is_trained_before_a_person_accepted_what_they_read(federation: Federation) -> None:
    run = waiting(federation)
    assert review(federation).split() == [
        run,
        "heart",
        "disease,",
        "four",
        "hospitals",
        "waits",
        "for",
        "a",
        "decision",
    ]
    shown = review(federation, run)
    for line in (
        "privacy     per record (add or remove one record)",
        "price       epsilon 0.00 now, 1.00 after, of 1 per record at delta 0.0001",
        "leaves      noised-update; also asked for: noised-counts",
        "contact     ethics@example.org",
        f"decide      lepton-client review {run} --accept, or --refuse REASON",
    ):
        assert line in shown, shown
    assert "estimate    about" in shown
    ledger = federation.folder / "client Cleveland" / "ledger" / "ledger.jsonl"
    assert not ledger.exists() or "declared" not in ledger.read_text()

    assert "state       accepted by " in review(federation, run[:6], "--accept")
    said = federation.wait_for("server.log", "result ")
    assert "Cleveland accepted the contract" in said
    assert federation.processes[0].wait(PATIENCE_S) == 0
    kept = federation.folder / "client Cleveland" / "contracts" / run
    assert sorted(path.name for path in kept.iterdir()) == [
        "considered.json",
        "contract.json",
        "decision.json",
        "operator.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    assert json.loads((kept / "decision.json").read_text())["accepted"] is True


@pytest.mark.slow
def test_a_person_can_stop_a_run_that_goes_on_and_it_stays_stopped(federation: Federation) -> None:
    pair = ["Cleveland", "Hungary"]
    server = federation.gather(pair, "rounds=200", PLAIN, "privacy.epsilon=1", "output=out", "least_cohort=1")
    for hospital in pair:
        federation.client(hospital)
    federation.wait_for("server.log", "round   3/200")
    run = review(federation).split()[0]
    assert "state       refused by" in review(federation, run, "--refuse", "a patient objected")
    federation.wait_for("Cleveland.log", f"left the run {run}: refused by")
    said = federation.wait_for("server.log", "result ")
    assert server.wait(PATIENCE_S) == 0
    assert "Cleveland left out: it failed: it refused the contract: the institution" in said
    assert "objected" not in said
    asked = federation.rounds()
    answered = [line["round"] for line in asked if "Cleveland" in line["replied"]]
    assert answered == list(range(1, len(answered) + 1))
    assert len(answered) < 200
    left = federation.call("lepton-client", "ledger", "--left", "--json", "--home", "client Cleveland")
    updates = [row for row in json.loads(left.stdout)["left"] if row["kind"] == "noised-update"]
    assert len(updates) in (len(answered), len(answered) + 1)


@pytest.mark.slow
def test_a_refusal_by_hand_ends_the_operators_wait_and_keeps_its_reason_at_home(federation: Federation) -> None:
    run = waiting(federation)
    assert "refused by" in review(federation, run, "--refuse", "not in holiday season")
    assert federation.processes[0].wait(PATIENCE_S) == 10
    said = (federation.folder / "server.log").read_text()
    assert "Cleveland refused: the institution" in said
    assert "holiday" not in said
    assert "not in holiday season" in review(federation)


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What an institution hears that has a home and no contract yet."""
    path = tmp_path_factory.mktemp("cleveland") / "home"
    home = Home(path, "Cleveland", ("127.0.0.1:1",))
    enrolled(home)
    (path / "policy.yaml").write_text(policy_text())
    cases = {said: ("review", *arguments, "--home", str(path)) for said, arguments in MISTAKES.items()}
    return answers("lepton-client", cases, path.parent)


MISTAKES = {
    "which run is meant?": ["--accept"],
    "contradict each other": ["7", "--accept", "--refuse", "no"],
    "0 contracts are called '7'": ["7"],
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_decides_nothing(mistakes: dict[str, Answer], said: str) -> None:
    done = mistakes[said]
    assert done.code == 2
    assert said in done.err
    assert "nothing was decided" in done.err
    assert len(done.err.splitlines()) == 1
