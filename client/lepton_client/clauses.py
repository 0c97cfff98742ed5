"""The policy's clauses on a run: each one field, whether it is met, and a sentence with what is asked and allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import time
from typing import Any

from lepton_client.policy import ANY, OPTIONAL, Policy, is_within
from lepton_client.price import Price, duration
from lepton_client.refused import Refused
from lepton_fl.evaluation.settings import Private
from lepton_fl.federation.contract import Contract, is_covered
from lepton_fl.federation.installed import Document, sha256_of
from lepton_fl.federation.terms import SHARED, Terms, plugins_of, to_document
from lepton_fl.plugins import admitted_sha256
from lepton_fl.show import counted_institutions, printable

_NOTHING = "nothing was read or sent; only the policy can allow it"
_SINGLE = {"record": "single records", "patient": "patients, with all of a patient's records"}


@dataclass(frozen=True)
class Clause:
    """One field of the policy beside one run."""

    name: str  # the field as it is written: policy.budget.epsilon
    is_met: bool
    says: str  # one sentence for people, without a stop


@dataclass(frozen=True)
class Proposal:
    """A run that an operator proposes, and what is known here about it."""

    contract: Contract
    terms: Terms  # of the contract, typed
    price: Price
    local_time: time
    tasks: Mapping[str, Document]  # that the policy names, as they are on this machine: `policy.approved_tasks`


@dataclass(frozen=True)
class RoundFacts:
    """What is known when a round is about to start."""

    cohort: int  # institutions asked in this round
    local_time: time
    hours_used: float  # of training in this run, on this machine


def clauses(policy: Policy, proposal: Proposal) -> tuple[Clause, ...]:
    """Every clause of the policy on this run, in the order of the file."""
    contract, terms = proposal.contract, proposal.terms
    return (
        _public_data(policy, terms),
        *_budget(policy, proposal),
        *_most_of_a_run(policy, proposal),
        *_may_leave(policy, contract),
        _task(policy, terms, proposal.tasks),
        _named("models", policy.models, str(to_document("model", terms.model)["kind"])),
        _named("strategies", policy.strategies, str(to_document("strategy", terms.strategy)["kind"])),
        _plugins(policy, plugins_of(terms)),
        _least_cohort(policy, contract.least_cohort, "the run asks at least"),
        _secure_aggregation(policy, contract),
        _hours(policy, proposal.local_time),
    )


def round_clauses(policy: Policy, facts: RoundFacts) -> tuple[Clause, ...]:
    """The clauses that can come to be unmet while a run goes on; to be looked at before each round."""
    used, most = facts.hours_used, policy.run.compute_hours
    return (
        _clause(
            "run.compute_hours", used < most, f"this run has trained for {duration(used)} here, and {most:g} h may be"
        ),
        _least_cohort(policy, facts.cohort, "the round asks"),
        _hours(policy, facts.local_time),
    )


def refuse_unmet(found: Iterable[Clause]) -> None:
    """Raise `Refused` for the first clause that is not met, with its field and both values."""
    for clause in found:
        if not clause.is_met:
            raise Refused(f"{clause.name} refuses: {clause.says}; {_NOTHING}")


def rule_for(policy: Policy, kind: str) -> str:
    """The rule that lets this kind of message leave, for the journal; raises `Refused` where none does."""
    if kind not in policy.may_leave:
        raise Refused(f"policy.may_leave refuses: {kind} is not among {_listed(policy.may_leave)}; {_NOTHING}")
    return f"policy.may_leave: {kind}"


def _clause(field: str, is_met: bool, says: str) -> Clause:
    return Clause(f"policy.{field}", is_met, says)


def _public_data(policy: Policy, terms: Terms) -> Clause:
    if is_covered(terms):
        whose = (
            "this institution adds its share of the noise"
            if terms.noise == SHARED
            else "this institution adds the noise"
        )
        return _clause("public_data", True, f"{whose} itself, and nobody else can subtract it")
    if terms.seed is not None:
        what = f"seed={terms.seed}, with which noise can be subtracted"
    elif terms.privacy.unit == "none":
        what = "privacy=none, so the trained model leaves without noise"
    else:
        what = f"privacy={terms.privacy.unit}, so the model leaves here without noise of this institution's own"
    said = "the policy says that the data is public" if policy.public_data else "public_data is false"
    return _clause("public_data", policy.public_data, f"the run asks for {what}, and {said}")


def _budget(policy: Policy, proposal: Proposal) -> Iterator[Clause]:
    budget, price, terms = policy.budget, proposal.price, proposal.terms
    if not is_covered(terms):
        for field in ("unit", "delta", "epsilon"):
            yield _clause(
                f"budget.{field}", True, "the run spends nothing of the budget: no epsilon covers what leaves"
            )
        return
    asked, delta = terms.privacy.unit, _stated(terms, "delta")
    yield _clause("budget.unit", asked == budget.unit, _unit_says(asked, budget.unit))
    yield _clause("budget.delta", delta <= budget.delta, f"the run states delta {delta:g}, and {budget.delta:g} may be")
    # A price in another unit or at another delta says nothing about this budget.
    is_same = (price.unit, price.delta) == (budget.unit, budget.delta)
    after = f"epsilon of {policy.data_set} is {price.epsilon_now:.3g} now and {price.epsilon_after:.3g} after the run"
    yield _clause(
        "budget.epsilon",
        is_same and price.epsilon_after <= budget.epsilon,
        f"{after}, per {price.unit} at delta {price.delta:g}, and {budget.epsilon:g} per {budget.unit} at delta "
        f"{budget.delta:g} may be",
    )


def _unit_says(asked: str, allowed: str) -> str:
    protects = f"the run protects {_SINGLE.get(asked, asked)}, and the budget is for {_SINGLE[allowed]}"
    if asked == allowed:
        return f"run and budget are both for {_SINGLE[allowed]}"
    if allowed == "patient":
        return f"{protects}: a patient with several records would be protected less than the figure says"
    return f"{protects}: their figures cannot be added up in one budget"


def _stated(terms: Terms, name: str) -> float:
    """What the run's privacy states; infinitely much where it states nothing, which no policy allows."""
    value = vars(terms.privacy).get(name)
    return float(value) if isinstance(value, int | float) else float("inf")


def _of_the_held_out(terms: Terms) -> float:
    """What the run tells of them: its evaluations and its explanation, added up."""
    evaluation = terms.evaluation.epsilon if isinstance(terms.evaluation, Private) else 0.0
    return evaluation + (terms.explanation.epsilon or 0.0)


def _most_of_a_run(policy: Policy, proposal: Proposal) -> Iterator[Clause]:
    terms, most, hours = proposal.terms, policy.run, proposal.price.hours
    if is_covered(terms):
        epsilon, delta = _stated(terms, "epsilon"), _stated(terms, "delta")
        says = f"the run states epsilon {epsilon:g} at delta {delta:g}, and {most.epsilon:g} may be"
        yield _clause("run.epsilon", epsilon <= most.epsilon, says)
        held_out = _of_the_held_out(terms)
        if held_out > 0:
            says = f"of who is held out it tells epsilon {held_out:g} at most, and {most.epsilon:g} may be"
            yield _clause("run.epsilon", held_out <= most.epsilon, says)
    else:
        yield _clause("run.epsilon", True, "the run states no epsilon that would hold here")
    yield _clause(
        "run.rounds", terms.rounds <= most.rounds, f"the run has {terms.rounds} rounds, and {most.rounds} may be"
    )
    yield _clause(
        "run.holdout_share",
        terms.holdout.held_out <= most.holdout_share,
        f"the run holds out {terms.holdout.held_out:g} of the records, and {most.holdout_share:g} may be",
    )
    yield _clause(
        "run.compute_hours",
        hours <= most.compute_hours,
        f"training would take about {duration(hours)} here, and {most.compute_hours:g} h may be",
    )


def _may_leave(policy: Policy, contract: Contract) -> Iterator[Clause]:
    refused = [kind for kind in contract.must_leave if kind not in policy.may_leave]
    if refused:
        says = f"the run cannot do without {_listed(refused)}, and only {_listed(policy.may_leave)} may leave"
        yield _clause("may_leave", False, says)
        return
    yield _clause("may_leave", True, f"the run sends {_listed(contract.must_leave)}, which may leave")
    for kind in contract.may_leave:
        says = "the run also asks for it, and it may leave"
        if kind not in policy.may_leave:
            says = "the run also asks for it and can do without; it is declined and stays here"
        yield _clause("may_leave", True, f"{kind}: {says}")


def _task(policy: Policy, terms: Terms, installed: Mapping[str, Document]) -> Clause:
    asked = to_document("task", terms.task)
    sha256 = f"sha256:{sha256_of(asked)}"
    if policy.tasks == [ANY]:
        return _clause("tasks", True, f"any task is allowed; this one is {sha256}")
    if sha256 in policy.tasks:
        return _clause("tasks", True, f"the run's task is {sha256}, which is allowed")
    found = {name: first_difference(task, asked) for name, task in installed.items() if name in policy.tasks}
    for name, difference in found.items():
        if difference is None:
            return _clause("tasks", True, f"the run's task is {name}, field by field as it is on this machine")
    # Of several, the one the operator probably means: the one of the same title.
    near = [name for name in found if installed[name]["title"] == asked["title"]] or [*found]
    if near:
        says = f"the run's task is not {near[0]}, as it is on this machine: {found[near[0]]}"
        return _clause("tasks", False, f"{says}; allowed are {_listed(policy.tasks)}".replace(";", ","))
    return _clause("tasks", False, f"the run's task is {sha256}, and allowed are {_listed(policy.tasks)}")


def first_difference(here: Document, asked: Document) -> str | None:
    """The first field in which two tasks differ, with both values; None where they are the same, their order too."""
    ours, theirs = dict(_leaves(here)), dict(_leaves(asked))
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            return f"{name} is {_shown(ours, name)} here and {_shown(theirs, name)} in the run"
    return None if [*ours] == [*theirs] else "its columns have another order, which is the order of the features"


def _leaves(document: Any, path: str = "task") -> Iterator[tuple[str, Any]]:
    if isinstance(document, Mapping) and document:
        for name, value in document.items():
            yield from _leaves(value, f"{path}.{name}")
    else:
        yield path, document


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return printable(str(leaves[name]))[:60] if name in leaves else "absent"


def _named(field: str, allowed: list[str], asked: str) -> Clause:
    if allowed == [ANY]:
        return _clause(field, True, f"the run uses {asked}, and any is allowed")
    return _clause(field, asked in allowed, f"the run uses {asked}, and allowed are {_listed(allowed)}")


def _plugins(policy: Policy, used: Sequence[str]) -> Clause:
    if not used:
        return _clause("plugins", True, "the run uses only what ships with Lepton FL")
    # With which bytes a plug-in runs was decided when it was loaded; here, whether this policy approves of those.
    approved = {plugin.module: plugin.sha256 for plugin in policy.plugins}
    for module in used:
        if admitted_sha256(module) is None or approved.get(module) != admitted_sha256(module):
            return _clause("plugins", False, f"the run uses plug-in {module}, and approved are {_listed(approved)}")
    return _clause("plugins", True, f"the run uses {_listed(used)}, as it was approved")


def _least_cohort(policy: Policy, asked: int, who: str) -> Clause:
    least = policy.least_cohort
    return _clause("least_cohort", asked >= least, f"{who} {counted_institutions(asked)}, and {least} must be")


def _secure_aggregation(policy: Policy, contract: Contract) -> Clause:
    does = "adds updates up under masks" if contract.secure_aggregation else "shows the operator each update"
    is_met = contract.secure_aggregation or policy.secure_aggregation == OPTIONAL
    says = f"the run {does}, and secure aggregation is {policy.secure_aggregation}"
    return _clause("secure_aggregation", is_met, says)


def _hours(policy: Policy, now: time) -> Clause:
    if policy.hours is None:
        return _clause("hours", True, "runs are allowed at any time")
    says = f"it is {now:%H:%M} here, and runs are allowed at {policy.hours}"
    return _clause("hours", is_within(policy.hours, now), says)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
