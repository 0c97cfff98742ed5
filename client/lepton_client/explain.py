"""A policy, a run's price and every clause, in sentences for a person and as JSON for a machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lepton_client.clauses import Clause, Proposal
from lepton_client.outbound import ENERGY
from lepton_client.policy import ANY, BY_HAND, Policy
from lepton_client.price import duration
from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import (
    EXACT_COUNTS,
    LARGEST,
    NOISED_COUNTS,
    NOISED_UPDATE,
    PLAIN_UPDATE,
    RECORD_COUNT,
    SHARED_NOISE_COUNTS,
    SHARED_NOISE_UPDATE,
    SUMMED_COUNTS,
    SUMMED_UPDATE,
    Contract,
    digest,
    from_bytes,
)
from lepton_fl.federation.installed import sha256_of
from lepton_fl.federation.terms import to_document
from lepton_fl.privacy.accounting import epsilon_of_history
from lepton_fl.privacy.books import Declared
from lepton_fl.secure_aggregation.cohort import most_corrupt, threshold
from lepton_fl.show import counted_institutions, printable

KIND_SAYS = {
    NOISED_UPDATE: "the model, trained with this institution's own noise; covered by the budget",
    SHARED_NOISE_UPDATE: "a step with its share of the noise, in a masked sum alone; the budget covers the sum",
    NOISED_COUNTS: "histograms of the held-out records with this institution's own noise; covered by the budget",
    SHARED_NOISE_COUNTS: "the same with its share of the noise, in a masked sum alone; the budget covers the sum",
    SUMMED_UPDATE: "an update without such noise, in a masked sum alone; no epsilon covers it",
    SUMMED_COUNTS: "counts of the held-out records, label by score, in a masked sum alone; no epsilon covers them",
    PLAIN_UPDATE: "the model, trained without noise of this institution's own; no epsilon covers it",
    RECORD_COUNT: "how many records were trained on, and their mean loss; no epsilon covers them",
    EXACT_COUNTS: "exact counts of the held-out records, label by score; no epsilon covers them",
    ENERGY: "seconds and joules of each round, to two digits; no epsilon covers them",
}
_LEAST_DIGEST = 4  # digits of a contract's digest that name it


def find_contract(home: Path, run: str) -> Contract:
    """The contract that `run` names: a file, a run proposed here by the first digits of its number or its digest.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if Path(run).is_file():
        return _read(Path(run))
    stored = sorted((home / "contracts").glob("*/contract.json"))
    numbered = [path for path in stored if path.parent.name == run] or [
        path for path in stored if run and path.parent.name.startswith(run)
    ]
    found = [_read(path) for path in numbered or stored]
    if not numbered:
        found = [one for one in found if len(run) >= _LEAST_DIGEST and digest(one).startswith(run.lower())]
    if len(found) != 1:
        numbers = ", ".join(path.parent.name for path in stored[-10:]) or "none"
        raise ConfigError(
            f"{'no contract' if not found else 'more than one contract'} is {printable(run)[:80]}: neither a file, nor "
            f"a run proposed here ({numbers}), nor the beginning of one digest; nothing was done; give one of them"
        )
    return found[0]


def _read(path: Path) -> Contract:
    with path.open("rb") as file:
        return from_bytes(file.read(LARGEST + 1))


def sentences(policy: Policy) -> Iterator[str]:
    """The whole policy for people, a field a line."""
    budget, run = policy.budget, policy.run
    yield f"data set    {policy.data_set}"
    yield (
        f"budget      per {budget.unit}: epsilon {budget.epsilon:g} at delta {budget.delta:g}, over all runs, all "
        "operators and every file that holds these records"
    )
    yield (
        f"a run       at most epsilon {run.epsilon:g}, {run.rounds} rounds, {run.compute_hours:g} h of training here, "
        f"{run.holdout_share:g} of the records held out"
    )
    yield f"public      {'yes: runs that no epsilon covers are allowed' if policy.public_data else _NOT_PUBLIC}"
    yield f"accept      {_accept(policy)}"
    for kind in policy.may_leave:
        yield f"may leave   {kind}: {KIND_SAYS[kind]}"
    if not policy.may_leave:
        yield "may leave   nothing, so that every run is refused"
    for name in ("tasks", "models", "strategies"):
        names: list[str] = getattr(policy, name)
        yield f"{name:<11} {'any that an operator names' if names == [ANY] else ', '.join(names) or 'none'}"
    for plugin in policy.plugins:
        yield f"plug-in     {plugin.module}, sha256 {plugin.sha256}"
    if not policy.plugins:
        yield "plug-ins    none: only what ships with Lepton FL"
    yield f"cohort      at least {counted_institutions(policy.least_cohort)} in each round"
    yield f"aggregation secure aggregation is {policy.secure_aggregation}"
    yield f"hours       {'always' if policy.hours is None else f'{policy.hours}, local time'}"
    yield f"power       {policy.power_w:g} W while training, for the estimate of energy"


_NOT_PUBLIC = "no: runs without privacy, with a seed, or with noise that is added elsewhere are refused"


def explanation(policy: Policy, proposal: Proposal, found: tuple[Clause, ...]) -> Iterator[str]:
    """The run, its price and each clause, for people."""
    contract, price = proposal.contract, proposal.price
    yield f"run         {contract.run_id}, contract {digest(contract)}"
    yield f"task        {printable(proposal.terms.task.title)}, {proposal.terms.rounds} rounds"
    yield f"            sha256:{sha256_of(to_document('task', proposal.terms.task))}"
    purpose = printable(contract.purpose.purpose or proposal.terms.task.title)
    yield f"purpose     {purpose}; kept for {contract.purpose.retention_days} days"
    yield f"with        {', '.join(printable(name) for name in contract.institutions)}"
    count = len(contract.institutions)
    yield (
        f"aggregation under masks: the operator sees sums; {threshold(count)} of {count} must answer, and "
        f"{most_corrupt(count)} may side with the operator"
        if contract.secure_aggregation
        else "aggregation the operator sees each update"
    )
    if contract.neighbouring_relation is not None:
        yield f"privacy     per {contract.unit} ({printable(contract.neighbouring_relation)})"
    else:
        yield "privacy     none"
    yield (
        f"price       epsilon {price.epsilon_now:.2f} now, {price.epsilon_after:.2f} after, of "
        f"{policy.budget.epsilon:g} per {policy.budget.unit} at delta {price.delta:g}"
    )
    yield (
        f"estimate    about {duration(price.hours)} of training here, {price.megabytes_out:.3g} MB out, "
        f"{1000 * price.energy_kwh:.2g} Wh"
    )
    for clause in found:
        yield f"{'ok' if clause.is_met else 'refused':<11} {clause.name:<26} {clause.says}"
    if all(clause.is_met for clause in found):
        yield f"accepted    {_accept(policy)}"


def own_share(declared: Declared | None) -> Iterator[str]:
    """Under shared noise, what the run would tell whoever takes this institution's masks off; else nothing."""
    step = None if declared is None else declared.mechanism
    if declared is None or step is None or step.own_multiplier is None:
        return
    whole = (step.segment(declared.rounds * declared.steps_per_round, is_own=True),)
    epsilon = epsilon_of_history(whole, declared.delta)
    says = "no bound" if epsilon == math.inf else f"epsilon {epsilon:.2f}"
    yield f"share       {says} of the whole run against an operator with more colluders than are withstood"


def as_document(proposal: Proposal, found: tuple[Clause, ...]) -> dict[str, Any]:
    """The same for machines."""
    return {
        "run_id": proposal.contract.run_id,
        "contract_sha256": digest(proposal.contract),
        "is_accepted": all(clause.is_met for clause in found),
        "price": asdict(proposal.price),
        "clauses": [asdict(clause) for clause in found],
    }


def _accept(policy: Policy) -> str:
    if policy.accept == BY_HAND:
        return "by hand: a run that meets the policy waits for lepton-client review"
    return "by policy: a run that meets the policy starts by itself"
