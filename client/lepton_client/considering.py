"""What this institution thinks of a contract: the program it would run, the price, and the policy clause by clause.

Nothing of the data is read here; only what stands in the contract, the policy and the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import torch

from lepton_client.clauses import Clause, Proposal, clauses
from lepton_client.ledger import Ledger
from lepton_client.policy import Policy
from lepton_client.price import Price, Spending
from lepton_client.proposing import propose
from lepton_fl.federation.client_app import ClientProgram
from lepton_fl.federation.contract import Contract, digest, is_covered
from lepton_fl.federation.installed import Document
from lepton_fl.federation.program import program
from lepton_fl.federation.terms import Terms
from lepton_fl.privacy import budget
from lepton_fl.privacy.accounting import SKELLAM
from lepton_fl.privacy.books import Books, Declared, Step

_NOT_READ = ""  # the data's digest, before anybody agreed that it is read
_EACH_ROUND = "policy.hours"  # a run may be agreed to at any hour; each of its rounds is held against this clause


@dataclass(frozen=True)
class Position:
    """What this institution judges a contract from."""

    policy: Policy
    tasks: Mapping[str, Document]  # that the policy names, as they are on this machine
    ledger: Ledger | None  # None: there is none yet, so nothing was spent
    device: torch.device


@dataclass(frozen=True)
class Considered:
    """A contract, and what it would mean here."""

    proposal: Proposal
    program: ClientProgram | None  # None: refused before it was worth building
    declared: Declared | None  # as the ledger would hold it
    evaluations: tuple[Declared, ...]  # what judging the model would cost those who are held out, in the same way
    clauses: tuple[Clause, ...]

    @property
    def contract(self) -> Contract:
        """What was considered."""
        return self.proposal.contract

    @property
    def terms(self) -> Terms:
        """Of the contract."""
        return self.proposal.terms

    @property
    def refused(self) -> Clause | None:
        """The first clause that keeps this institution from agreeing."""
        return next((one for one in self.clauses if not one.is_met), None)


def consider(contract: Contract, position: Position, now: datetime, *, in_full: bool) -> Considered:
    """What the contract would mean here, at this local time.

    Args:
        in_full: with its price even where a clause refuses it at first sight; not for a stranger's numbers.

    Raises:
        ConfigError: its terms do not fit together, or name what is not installed here.
    """
    terms, policy = contract.settings(), position.policy
    # First what costs nothing to look at: the numbers of a stranger decide how long the rest takes.
    free = Price(policy.budget.unit, policy.budget.delta, 0.0, 0.0, 0.0, 0.0, 0.0)
    glance = Proposal(contract, terms, free, now.time(), position.tasks)
    judged = Considered(glance, None, None, (), _judged(policy, glance))
    if judged.refused is not None and not in_full:
        return judged
    made = program(terms, len(contract.institutions)).on(position.device)
    declared = _declared(contract, terms, made, policy)
    evaluations = _evaluations(contract, made, policy, declared)
    cost, left = _cost(position, declared, ())
    spending = Spending(declared.unit, declared.delta, cost.epsilon_now, cost.epsilon_after)
    proposal = propose(policy, position.tasks, contract, (made, spending, now))
    found = (
        *_judged(policy, proposal),
        _by_the_ledger(cost.rounds_that_fit, left),
        *(_of_evaluation(one, position, evaluations) for one in evaluations),
    )
    return Considered(proposal, made, declared, evaluations, found)


def _judged(policy: Policy, proposal: Proposal) -> tuple[Clause, ...]:
    """The clauses on the run; the hours bind its rounds, and it may be agreed to at any time."""
    return tuple(
        replace(one, is_met=True, says=f"{one.says}; its rounds are answered then")
        if one.name == _EACH_ROUND and not one.is_met
        else one
        for one in clauses(policy, proposal)
    )


def _evaluations(contract: Contract, made: ClientProgram, policy: Policy, declared: Declared) -> tuple[Declared, ...]:
    """One for each noise that a histogram of the hold-out has; none where no epsilon covers them, or they stay here."""
    if declared.mechanism is None or not {*contract.may_leave} <= {*policy.may_leave}:
        return ()
    return tuple(
        replace(
            declared,
            run=evaluation_run(declared.run, charge.name),
            mechanism=charge.step,
            steps_per_round=1,
            rounds=charge.releases,
            part=charge.part,
        )
        for charge in made.evaluating.charges()
    )


def evaluation_run(run: str, charge: str) -> str:
    """As the ledger calls what a run's evaluations cost."""
    return f"{run}/{charge}" if charge else run


def _of_evaluation(declared: Declared, position: Position, evaluations: Sequence[Declared]) -> Clause:
    """Who is held out pays from an account of their own, with the same cap."""
    beside = [one for one in evaluations if one.account == declared.account and one != declared]
    cost, left = _cost(position, declared, beside)
    cap = position.policy.budget.epsilon
    says = (
        f"epsilon of who is {declared.part} is {cost.epsilon_now:.3g} now and {cost.epsilon_after:.3g} after the run, "
        f"and {cap:g} may be; {cost.rounds_that_fit} of {left} {declared.run.split('/')[-1]} fit"
    )
    is_met = left == 0 or (cost.epsilon_after <= cap and cost.rounds_that_fit >= left)
    return Clause("policy.budget.epsilon", is_met, says)


def read_from(declared: Declared, data_sha256: str) -> Declared:
    """The same declaration with the digest of the data that is read."""
    return replace(declared, data_sha256=data_sha256)


def _declared(contract: Contract, terms: Terms, made: ClientProgram, policy: Policy) -> Declared:
    mechanism = None
    if made.mechanism is not None and is_covered(terms):
        mechanism = Step(made.mechanism.noise_multiplier, made.mechanism.sampling_rate)
    elif made.shared is not None and is_covered(terms):
        shared = made.shared
        mechanism = Step(shared.noise_multiplier, shared.sampling_rate, SKELLAM, shared.own_multiplier)
    return Declared(
        run=str(contract.run_id),
        operator=contract.federation,
        data_set=policy.data_set,
        unit=policy.budget.unit if mechanism is None else terms.privacy.unit,
        neighbouring_relation=None if mechanism is None else terms.privacy.neighbouring_relation,
        delta=policy.budget.delta,
        epsilon_cap=policy.budget.epsilon,
        mechanism=mechanism,
        steps_per_round=terms.training.local_steps,
        rounds=terms.rounds,
        data_sha256=_NOT_READ,
        contract_sha256=digest(contract),
        split="" if mechanism is None else terms.holdout.sha256,
    )


def _cost(position: Position, declared: Declared, beside: Sequence[Declared]) -> tuple[budget.Price, int]:
    """What the run would cost the account, and how many of its rounds are still to come."""
    ledger, may_follow = position.ledger, position.policy.public_data
    if ledger is None:
        return budget.price(Books(), declared, beside=beside, may_follow_uncovered=may_follow), declared.rounds
    known = ledger.run(declared.run)
    left = declared.rounds - (0 if known is None else known.rounds)
    return ledger.price(declared, beside=beside, may_follow_uncovered=may_follow), left


def _by_the_ledger(fits: int, left: int) -> Clause:
    """The ledger's own rule, under which each round is reserved: a run that would stop half-way is not begun."""
    if left == 0:
        return Clause("policy.budget.epsilon", True, "each of its rounds is in the ledger already")
    says = f"{fits} of its {left} rounds fit the budget by the rule that holds when runs are chosen one after the other"
    return Clause("policy.budget.epsilon", fits >= left, says)
