"""Each clause of a policy accepts what it allows, refuses what it does not, and says both values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_client.clauses import (
    Clause,
    Proposal,
    RoundFacts,
    clauses,
    first_difference,
    refuse_unmet,
    round_clauses,
    rule_for,
)
from lepton_client.considering import Position, consider
from lepton_client.policy import Policy
from lepton_client.refused import Refused
from proposals import NOWHERE, PRICE, PUBLIC, SUMMED, WITHOUT, contract, heart, policy, proposal, terms

from lepton_fl.evaluation.settings import Private
from lepton_fl.explanation.release import Explanation
from lepton_fl.federation.contract import KINDS
from lepton_fl.federation.installed import installed_task, sha256_of
from lepton_fl.federation.terms import from_document, to_document
from lepton_fl.privacy.units import InstitutionPrivacy, PatientPrivacy, RecordPrivacy
from lepton_fl.tasks.split import HoldOut


@pytest.fixture
def careful(tmp_path: Path) -> Policy:
    return policy(tmp_path)


@pytest.fixture
def open_to_all(tmp_path: Path) -> Policy:
    return policy(tmp_path, **PUBLIC)


def unmet(found: tuple[Clause, ...]) -> list[str]:
    return [clause.name for clause in found if not clause.is_met]


def said(found: tuple[Clause, ...], name: str) -> str:
    return next(clause.says for clause in found if clause.name == name)


def older_patients() -> Any:
    task = to_document("task", heart())
    columns = {**task["columns"], "age": {**task["columns"]["age"], "high": 120.0}}
    return from_document("task", {**task, "columns": columns})


def test_an_acceptable_run_meets_every_clause(careful: Policy) -> None:
    found = clauses(careful, proposal(careful, terms()))
    assert unmet(found) == []
    refuse_unmet(found)
    assert [clause.name for clause in found] == [
        "policy.public_data",
        "policy.budget.unit",
        "policy.budget.delta",
        "policy.budget.epsilon",
        "policy.run.epsilon",
        "policy.run.rounds",
        "policy.run.holdout_share",
        "policy.run.compute_hours",
        "policy.may_leave",
        "policy.may_leave",
        "policy.tasks",
        "policy.models",
        "policy.strategies",
        "policy.plugins",
        "policy.least_cohort",
        "policy.secure_aggregation",
        "policy.hours",
    ]


@dataclass(frozen=True)
class Violation:
    """One thing an operator may ask for, or one stricter field; and the clause that must refuse it."""

    name: str
    says: str  # part of the refusal
    terms: dict[str, Any]
    policy: Callable[[Policy], Policy]
    known: Callable[[Proposal], Proposal]


def violation(
    name: str,
    says: str,
    terms: dict[str, Any] | None = None,
    policy: Callable[[Policy], Policy] = lambda same: same,
    known: Callable[[Proposal], Proposal] = lambda same: same,
) -> Violation:
    return Violation(f"policy.{name}", says, terms or {}, policy, known)


def record(epsilon: float = 1.0, delta: float = 1e-4) -> dict[str, Any]:
    return {"privacy": RecordPrivacy(epsilon, delta, 1.0)}


def budget(**fields: Any) -> Callable[[Policy], Policy]:
    return lambda same: replace(same, budget=replace(same.budget, **fields))


def priced(**fields: Any) -> Callable[[Proposal], Proposal]:
    return lambda same: replace(same, price=replace(same.price, **fields))


VIOLATIONS = [
    violation("public_data", "seed=1, with which noise can be subtracted", {"seed": 1}),
    violation("public_data", "privacy=none", {"privacy": WITHOUT}),
    violation("public_data", "asks for privacy=institution", {"privacy": InstitutionPrivacy(1.0, 1e-4, 1.0)}),
    violation(
        "budget.unit", "patients, with all of a patient's records", {"privacy": PatientPrivacy(1.0, 1e-4, 1.0, 8)}
    ),
    violation("budget.unit", "a patient with several records", policy=budget(unit="patient")),
    violation("budget.delta", "states delta 0.001, and 0.0001 may be", record(delta=1e-3)),
    violation("budget.epsilon", "1.5 now and 3.01 after the run", known=priced(epsilon_after=3.01)),
    violation("budget.epsilon", "at delta 0.001", known=priced(delta=1e-3)),
    violation("budget.epsilon", "per patient at delta", known=priced(unit="patient")),
    violation("budget.epsilon", "nan after the run", known=priced(epsilon_after=float("nan"))),
    violation("run.epsilon", "epsilon 1.1 at delta 0.0001, and 1 may be", record(epsilon=1.1)),
    violation("run.rounds", "31 rounds, and 30 may be", {"rounds": 31}),
    violation("run.holdout_share", "holds out 0.21 of the records, and 0.2 may", {"holdout": HoldOut("k", 0.21, 0.0)}),
    violation("run.compute_hours", "about 2.1 h here, and 2 h may be", known=priced(hours=2.1)),
    violation(
        "may_leave", "without noised-update, and only exact", policy=lambda p: replace(p, may_leave=["exact-counts"])
    ),
    violation("may_leave", "and only nothing may leave", policy=lambda p: replace(p, may_leave=[])),
    violation("tasks", "task.columns.age.high is 100.0 here and 120.0 in the run", {"task": older_patients()}),
    violation("tasks", "allowed are sha256:000", policy=lambda p: replace(p, tasks=["sha256:" + 64 * "0"])),
    violation("tasks", "allowed are nothing", policy=lambda p: replace(p, tasks=[])),
    violation("models", "uses logistic, and allowed are mlp, cnn", policy=lambda p: replace(p, models=["mlp", "cnn"])),
    violation("strategies", "uses fedavg, and allowed are krum", policy=lambda p: replace(p, strategies=["krum"])),
    violation("least_cohort", "at least 4 institutions, and 5 must be", policy=lambda p: replace(p, least_cohort=5)),
    violation(
        "secure_aggregation",
        "shows the operator each update, and secure aggregation is required",
        policy=lambda p: replace(p, secure_aggregation="required"),
    ),
    violation("hours", "it is 12:00 here", known=lambda p: replace(p, local_time=time(12, 0))),
]


def proposed(at: Policy, bad: Violation, **parts: Any) -> tuple[Policy, Proposal]:
    changed = bad.policy(at)
    return changed, bad.known(proposal(changed, terms(**(parts | bad.terms))))


@pytest.mark.parametrize("bad", VIOLATIONS, ids=lambda bad: f"{bad.name} {bad.says}")
def test_any_single_violation_refuses_the_run_and_names_its_field(careful: Policy, bad: Violation) -> None:
    found = clauses(*proposed(careful, bad))
    assert unmet(found)[0] == bad.name
    with pytest.raises(Refused) as caught:
        refuse_unmet(found)
    assert str(caught.value).startswith(f"{bad.name} refuses: ")
    assert bad.says in str(caught.value)
    assert str(caught.value).count(";") == 2
    assert caught.value.exit_code == 7


ACCEPTABLE = st.builds(
    dict,
    rounds=st.integers(1, 30),
    privacy=st.builds(RecordPrivacy, st.floats(0.01, 1.0), st.floats(1e-9, 1e-4), st.floats(0.1, 9.0)),
    holdout=st.builds(HoldOut, st.just("k"), st.floats(0.01, 0.2), st.just(0.0)),
    weight_cap=st.integers(1, 10**6),
)
KNOWN = st.builds(
    dict,
    price=st.builds(replace, st.just(PRICE), epsilon_after=st.floats(1.5, 3.0), hours=st.floats(0.0, 2.0)),
    local_time=st.integers(20 * 60, 30 * 60 - 1).map(lambda minute: time(minute // 60 % 24, minute % 60)),
)


@settings(deadline=None, max_examples=50)  # the first example reads a file, the others do not
@given(parts=ACCEPTABLE, known=KNOWN, bad=st.sampled_from(VIOLATIONS))
def test_whatever_else_an_acceptable_run_asks_a_violation_alone_decides(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Any], known: dict[str, Any], bad: Violation
) -> None:
    at = policy(tmp_path_factory.getbasetemp())
    assert unmet(clauses(at, proposal(at, terms(**parts), **known))) == []
    changed = bad.policy(at)
    asked = proposal(changed, terms(**(parts | bad.terms)), **known)
    # A run without noise of its own also sends other kinds of message; the first clause is the one that is told.
    assert unmet(clauses(changed, bad.known(asked)))[0] == bad.name


@pytest.mark.parametrize("parts", [{"seed": 1}, {"privacy": WITHOUT}, {}])
def test_public_data_may_be_trained_on_without_privacy(open_to_all: Policy, parts: dict[str, Any]) -> None:
    found = clauses(open_to_all, proposal(open_to_all, terms(**parts)))
    assert unmet(found) == []


def test_a_run_that_no_epsilon_covers_spends_nothing_of_the_budget(open_to_all: Policy) -> None:
    made = proposal(open_to_all, terms(seed=1))
    found = clauses(open_to_all, replace(made, price=replace(PRICE, epsilon_after=99.0)))
    assert unmet(found) == []
    assert "no epsilon covers what leaves" in said(found, "policy.budget.epsilon")


def test_a_public_run_still_needs_its_kinds_of_message(tmp_path: Path) -> None:
    at = policy(tmp_path, public_data=True)
    found = clauses(at, proposal(at, terms(privacy=WITHOUT)))
    assert unmet(found) == ["policy.may_leave"]
    assert "plain-update, record-count" in said(found, "policy.may_leave")


def test_what_a_run_can_do_without_is_declined_in_words(careful: Policy) -> None:
    found = clauses(careful, proposal(careful, terms()))
    (declined,) = [clause for clause in found if "exact-counts" in clause.says]
    assert declined.is_met
    assert "declined and stays here" in declined.says


def test_exact_counts_leave_where_they_are_allowed(tmp_path: Path) -> None:
    at = policy(tmp_path, may_leave=["noised-update", "exact-counts"])
    (also,) = [c for c in clauses(at, proposal(at, terms())) if "exact-counts" in c.says]
    assert "declined" not in also.says


def test_a_task_can_be_allowed_by_its_hash(tmp_path: Path) -> None:
    at = policy(tmp_path, tasks=[f"sha256:{sha256_of(to_document('task', older_patients()))}"])
    assert unmet(clauses(at, proposal(at, terms(task=older_patients())))) == []
    assert unmet(clauses(at, proposal(at, terms()))) == ["policy.tasks"]


def test_the_hash_of_a_task_is_that_of_the_contracts_own_document() -> None:
    assert sha256_of(contract(terms()).terms["task"]) == sha256_of(to_document("task", heart()))


def test_any_allows_any(tmp_path: Path) -> None:
    at = policy(tmp_path, tasks=["any"], models=["any"], strategies=["any"])
    model = from_document("model", {"kind": "mlp", "hidden": [4], "activation": "tanh"})
    strategy = from_document("strategy", {"kind": "krum", "num_malicious_nodes": 0})
    asked = terms(task=older_patients(), model=model, strategy=strategy)
    assert unmet(clauses(at, proposal(at, asked))) == []


def test_secure_aggregation_that_is_required_is_met_by_a_run_that_has_it(tmp_path: Path) -> None:
    at = policy(tmp_path, secure_aggregation="required")
    found = clauses(at, proposal(at, terms(**SUMMED)))
    assert unmet(found) == []
    assert said(found, "policy.secure_aggregation") == (
        "the run adds updates up under masks, and secure aggregation is required"
    )


def test_a_summed_run_without_noise_needs_the_kind_that_only_a_sum_shows(tmp_path: Path) -> None:
    at = policy(tmp_path, public_data=True)
    found = clauses(at, proposal(at, terms(privacy=WITHOUT, **SUMMED)))
    assert unmet(found) == ["policy.may_leave"]
    assert "cannot do without summed-update, and only noised-update" in said(found, "policy.may_leave")
    allowed = policy(tmp_path, public_data=True, may_leave=["summed-update"])
    assert unmet(clauses(allowed, proposal(allowed, terms(privacy=WITHOUT, **SUMMED)))) == []


@pytest.mark.parametrize("kind", ["noised-update", "plain-update", "summed-update"])
def test_shared_noise_leaves_only_where_the_policy_names_it(tmp_path: Path, kind: str) -> None:
    shared = terms(noise="shared", **SUMMED)
    at = policy(tmp_path, may_leave=[kind])
    assert unmet(clauses(at, proposal(at, shared))) == ["policy.may_leave"]
    allowed = policy(tmp_path, may_leave=["shared-noise-update"])
    assert unmet(clauses(allowed, proposal(allowed, shared))) == []


def test_summed_counts_are_declined_in_words_where_they_may_not_leave(tmp_path: Path) -> None:
    for allowed, word in (([], "declined and stays here"), (["summed-counts"], "it may leave")):
        at = policy(tmp_path, may_leave=["noised-update", *allowed])
        (said_of_it,) = [c for c in clauses(at, proposal(at, terms(**SUMMED))) if "summed-counts" in c.says]
        assert said_of_it.is_met
        assert word in said_of_it.says


def test_columns_in_another_order_are_another_task() -> None:
    here = to_document("task", heart())
    turned = {**here, "columns": dict(reversed(here["columns"].items()))}
    assert first_difference(here, here) is None
    assert "another order" in str(first_difference(here, turned))
    assert sha256_of(here) != sha256_of(turned)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (RoundFacts(3, time(22, 0), 1.99), None),
        (RoundFacts(2, time(22, 0), 0.0), "policy.least_cohort"),
        (RoundFacts(3, time(7, 0), 0.0), "policy.hours"),
        (RoundFacts(3, time(22, 0), 2.0), "policy.run.compute_hours"),
    ],
)
def test_a_round_is_looked_at_again(careful: Policy, facts: RoundFacts, name: str | None) -> None:
    assert unmet(round_clauses(careful, facts)) == ([] if name is None else [name])


def test_a_rule_is_named_for_each_kind_that_may_leave_and_for_no_other(careful: Policy) -> None:
    assert rule_for(careful, "noised-update") == "policy.may_leave: noised-update"
    for kind in (*KINDS[1:], "histogram"):
        with pytest.raises(Refused, match=r"policy\.may_leave refuses"):
            rule_for(careful, kind)


def test_a_run_is_agreed_to_outside_of_the_hours_and_its_rounds_are_not_answered_then(tmp_path: Path) -> None:
    at_noon = datetime(2026, 3, 1, 12, 0)
    agreed = policy(tmp_path, hours="20:00-06:00")
    position = Position(agreed, {"heart": installed_task("heart", NOWHERE)}, None, torch.device("cpu"))
    found = consider(contract(terms()), position, at_noon, in_full=False)
    assert found.refused is None
    assert any("its rounds are answered then" in one.says for one in found.clauses)
    unmet = [one.name for one in round_clauses(agreed, RoundFacts(4, at_noon.time(), 0.0)) if not one.is_met]
    assert unmet == ["policy.hours"]


@pytest.mark.parametrize(("epsilon", "is_met"), [(2.0, True), (4.0, False)])
def test_evaluations_that_do_not_fit_the_budget_of_who_is_held_out_are_refused(
    tmp_path: Path, epsilon: float, is_met: bool
) -> None:
    most = {"epsilon": 5.0, "rounds": 30, "holdout_share": 0.2, "compute_hours": 2.0}
    allowed = policy(tmp_path, may_leave=["noised-update", "noised-counts"], run=most)
    position = Position(allowed, {"heart": to_document("task", heart())}, None, torch.device("cpu"))
    asked = terms(rounds=2, evaluation=Private(1, 20, 0.95, epsilon, by_institution=False))
    found = consider(contract(asked), position, datetime(2026, 3, 2, 22, 0), in_full=False)
    held_out = [clause for clause in found.clauses if "of who is held out is 0 now" in clause.says]
    assert [clause.name for clause in held_out] == ["policy.budget.epsilon"] * 2  # of the routine, and the final one
    assert {clause.is_met for clause in held_out} == {is_met}
    assert "and 3 may be" in held_out[0].says
    assert found.refused is None or not is_met


@pytest.mark.parametrize(
    ("evaluation", "explanation", "is_met"), [(1.0, None, True), (1.1, None, False), (0.7, 0.4, False)]
)
def test_one_run_tells_of_who_is_held_out_no_more_than_one_run_may(
    careful: Policy, evaluation: float, explanation: float | None, is_met: bool
) -> None:
    settings = Private(5, 20, 0.95, evaluation, by_institution=False)
    found = clauses(
        careful, proposal(careful, terms(evaluation=settings, explanation=Explanation(explanation, 1.0, 5)))
    )
    (clause,) = [one for one in found if one.name == "policy.run.epsilon" and "held out" in one.says]
    assert clause.is_met == is_met
