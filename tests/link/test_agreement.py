"""A run is what was signed: another run under its number, or an instruction beyond it, is refused by its field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreed import Institution, Run, arrays_of, begun, institution, now
from federations import policy_text, write_rows
from lepton_client.considering import Position, consider
from lepton_client.policy import read
from lepton_client.refused import Refused
from proposals import heart, terms
from served import until

from lepton_fl.errors import LeptonError
from lepton_fl.federation.contract import CONTRACT_KEY, Contract
from lepton_fl.federation.terms import Terms, from_document
from lepton_fl.flower import Array, ArrayRecord
from lepton_fl.link import signature
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.privacy.units import RecordPrivacy

MLP = from_document("model", {"kind": "mlp", "hidden": [4], "activation": "tanh"})
SIGNED = terms(training=replace(terms().training, sampling_rate=0.2))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with begun(tmp_path) as made:
        yield made


@pytest.fixture
def elm(run: Run, tmp_path: Path) -> Institution:
    write_rows(tmp_path / "data.csv", ["Cleveland"])
    return institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port)


def agreed(run: Run, elm: Institution, least_cohort: int = 2) -> Contract:
    """The signed contract, accepted by the institution, whose stream is open."""
    contract = run.contract(SIGNED, least_cohort)
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    return contract


def task_with(**changes: Any) -> Terms:
    return replace(SIGNED, task=replace(heart(), **changes))


ANOTHER_RUN: dict[str, tuple[Callable[[Run], Contract], str]] = {
    "more rounds": (lambda run: run.contract(replace(SIGNED, rounds=31), 2), "rounds: signed 30, now 31"),
    "less noise": (
        lambda run: run.contract(replace(SIGNED, privacy=RecordPrivacy(2.0, 1e-4, 1.0)), 2),
        "privacy.epsilon: signed 1.0, now 2.0",
    ),
    "another model": (
        lambda run: run.contract(replace(SIGNED, model=MLP), 2),
        'model.kind: signed "logistic", now "mlp"',
    ),
    "a smaller cohort": (lambda run: run.contract(SIGNED, 1), "least_cohort: signed 2, now 1"),
    "another task": (lambda run: run.contract(task_with(title="heart attacks"), 2), "task.title: signed"),
    "others who take part": (
        lambda run: run.contract(SIGNED, 2, ("elm", "ash", "oak")),
        'institutions: signed ["elm", "oak"]',
    ),
}


@pytest.mark.parametrize("change", sorted(ANOTHER_RUN))
def test_a_contract_that_changes_in_mid_run_is_refused_by_its_field(run: Run, elm: Institution, change: str) -> None:
    agreed(run, elm)
    another, said = ANOTHER_RUN[change]
    run.offer(another(run))
    refused = elm.over()
    assert isinstance(refused, Refused)
    assert f"no longer what was signed: {said}" in str(refused)
    assert "nothing more was read or sent" in str(refused)
    assert elm.ledger.run(str(run.run_id)).rounds == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"server-round": "one"}, "rounds: signed 30, now one"),
        ({"cohort-size": "all"}, "least_cohort: signed 2, now all"),
        ({"server-round": 31}, "rounds: signed 30, now 31"),
        ({"server-round": 0}, "rounds: signed 30, now 0"),
        ({"cohort-size": 1}, "least_cohort: signed 2, now 1"),
        ({CONTRACT_KEY: "ab" * 32}, "contract: signed"),
    ],
)
def test_an_instruction_beyond_the_contract_is_refused_by_its_field(
    run: Run, elm: Institution, asked: dict[str, Any], said: str, kind: str
) -> None:
    contract = agreed(run, elm)
    run.ask(kind, contract, arrays_of(SIGNED), asked)
    refused = elm.over()
    assert isinstance(refused, Refused)
    assert f"asks for what was not signed: {said}" in str(refused)
    assert elm.ledger.run(str(run.run_id)).rounds == 0  # type: ignore[union-attr]


def test_another_models_parameters_are_refused_as_the_model(run: Run, elm: Institution) -> None:
    contract = agreed(run, elm)
    larger = {name: Array(np.zeros((2, *array.shape), np.float32)) for name, array in arrays_of(SIGNED).items()}
    run.ask("train", contract, ArrayRecord(larger))
    assert "not signed: model: " in str(elm.over())


def test_a_pull_that_was_signed_is_part_of_training_alone(run: Run, elm: Institution) -> None:
    strategy = from_document("strategy", {"kind": "fedprox", "proximal_mu": 0.5})
    contract = run.contract(replace(SIGNED, strategy=strategy), 2)
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    arrays = arrays_of(SIGNED)
    assert not run.answer(run.ask("train", contract, arrays, {"proximal-mu": 0.5})).has_error()
    assert not run.answer(run.ask("evaluate", contract, arrays)).has_error()
    run.ask("train", contract, arrays, {"server-round": 2})
    assert "strategy.proximal_mu: signed 0.5, now 0.0" in str(elm.over())


def test_a_signed_round_is_trained_and_answered_once(run: Run, elm: Institution) -> None:
    contract = agreed(run, elm)
    answer = run.answer(run.ask("train", contract, arrays_of(SIGNED)))
    assert not answer.has_error(), answer.error
    known = elm.ledger.run(str(run.run_id))
    assert known is not None
    assert (known.rounds, known.declared.rounds) == (1, 30)
    again = run.answer(run.ask("train", contract, arrays_of(SIGNED), {"again": 1}))
    assert again.error.reason == "BudgetSpent"


def test_a_contract_that_another_key_signed_is_refused(run: Run, elm: Institution) -> None:
    contract = run.contract(SIGNED)
    run.offer(contract, signature.signer(elm.home.key, elm.home.certificate))
    elm.connect()
    refused = elm.over()
    assert isinstance(refused, BadCertificate)
    assert "lepton://operator" in str(refused)
    assert elm.ledger.head.position <= 1  # at most that a connection was made


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ("models: [mlp]", "policy.models"),
        ("strategies: [krum]", "policy.strategies"),
        ("tasks: [adult]", "policy.tasks"),
        ("least_cohort: 3", "policy.least_cohort"),
        ("secure_aggregation: required", "policy.secure_aggregation"),
        ("may_leave: []", "policy.may_leave"),
        ("budget: {unit: patient, epsilon: 1.0, delta: 1.0e-4}", "policy.budget.unit"),
        ("budget: {unit: record, epsilon: 0.9, delta: 1.0e-4}", "policy.budget.epsilon"),
        ("run: {epsilon: 1.0, rounds: 29, holdout_share: 0.3, compute_hours: 1.0}", "policy.run.rounds"),
    ],
)
def test_a_run_that_the_policy_does_not_allow_is_refused_and_the_operator_hears_the_clause_alone(
    run: Run, tmp_path: Path, change: str, clause: str
) -> None:
    write_rows(tmp_path / "data.csv", ["Cleveland"])
    elm = institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port, policy_text(change))
    run.offer(run.contract(SIGNED, 2))
    elm.connect()
    until(lambda: run.federation.hub.consent.refused)
    assert run.federation.hub.consent.refused == {"elm": clause}
    assert elm.ledger.run(str(run.run_id)) is None


def test_a_run_within_the_budget_is_refused_once_another_has_spent_of_it(run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "data.csv", ["Cleveland"])
    policy = policy_text("budget: {unit: record, epsilon: 1.2, delta: 1.0e-4}")
    elm = institution(run.member, tmp_path / "elm", tmp_path / "data.csv", run.operator.port, policy)
    contract = run.contract(replace(SIGNED, rounds=1))
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    assert not run.answer(run.ask("train", contract, arrays_of(SIGNED))).has_error()
    spent = elm.ledger.spent("heart", "record").epsilon_pld
    assert 0.9 < spent <= 1.0
    second = replace(run, run_id=run.run_id + 1)
    position = Position(read(elm.home.path / "policy.yaml"), {}, elm.ledger, torch.device("cpu"))
    found = consider(second.contract(replace(SIGNED, rounds=1)), position, now(), in_full=True)
    refused = found.refused
    assert refused is not None
    assert refused.name == "policy.budget.epsilon"
    assert found.proposal.price.epsilon_now == pytest.approx(spent)
    assert 1.2 < found.proposal.price.epsilon_after < 2 * spent  # composed, not added


def test_the_policy_is_asked_before_any_work_is_done(run: Run, tmp_path: Path) -> None:
    """A stranger's numbers do not decide how long an institution calculates."""
    asked = replace(SIGNED, rounds=10**9)
    elm = institution(run.member, tmp_path / "elm", tmp_path / "absent.csv", run.operator.port, policy_text())
    run.offer(run.contract(asked))
    elm.connect()
    until(lambda: run.federation.hub.consent.refused)
    assert run.federation.hub.consent.refused == {"elm": "policy.run.rounds"}
    assert not isinstance(elm.ended[-1] if elm.ended else None, LeptonError)
