"""The facts of a run, before and after, as values; `docs/results.md` explains every key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from lepton_fl.evaluation.gates import Verdict
from lepton_fl.evaluation.metrics import Metrics
from lepton_fl.evaluation.settings import Private
from lepton_fl.federation.evaluating import Evaluating
from lepton_fl.federation.journal import RoundReport
from lepton_fl.federation.terms import Terms
from lepton_fl.privacy.units import Budgeted
from lepton_fl.training.private import Mechanism
from lepton_fl.training.shared_noise import SharedMechanism, epsilons


@dataclass(frozen=True)
class Sharing:
    """What the promise rests on where the institutions share the noise."""

    honest: int  # institutions that are surely in a sum and do not side with the operator: they carry all the noise
    epsilon_of_a_share: float  # of the whole run, against an operator who takes an institution's masks off


@dataclass(frozen=True)
class Claim:
    """What a run promises about the people in the data, and why not, if it does not."""

    unit: str  # whose presence is hidden; "none" without privacy
    neighbouring_relation: str | None
    epsilon_budget: float | None
    delta: float | None
    noise_multiplier: float | None
    clipping_norm: float | None
    sampling_rate: float | None
    steps: int | None  # over the whole run, at one institution
    seed: int | None
    sharing: Sharing | None = None  # of the noise; None: whoever adds it adds all of it

    @property
    def is_private(self) -> bool:
        """True if the promise holds: a mechanism is in place and nobody can repeat its noise."""
        return self.epsilon_budget is not None and self.seed is None

    @property
    def why_not(self) -> str | None:
        """One clause, or None if the run is private."""
        if self.epsilon_budget is None:
            return "privacy=none: updates are exact"
        if self.seed is not None:
            return f"seed={self.seed}: whoever knows the seed can subtract the noise"
        return None


def no_claim(seed: int | None) -> Claim:
    """What `privacy=none` promises: nothing."""
    return Claim("none", None, None, None, None, None, None, None, seed)


def claim_of(terms: Terms, mechanism: Mechanism | SharedMechanism | None) -> Claim:
    """What these terms promise with this mechanism."""
    privacy = terms.privacy
    if mechanism is None or not isinstance(privacy, Budgeted):
        return no_claim(terms.seed)
    return Claim(
        unit=privacy.unit,
        neighbouring_relation=privacy.neighbouring_relation,
        epsilon_budget=privacy.epsilon,
        delta=privacy.delta,
        noise_multiplier=mechanism.noise_multiplier,
        clipping_norm=mechanism.clipping_norm,
        sampling_rate=mechanism.sampling_rate,
        steps=terms.rounds * steps_of_a_round(terms),
        seed=terms.seed,
        sharing=_sharing(terms, mechanism, privacy),
    )


def _sharing(terms: Terms, mechanism: Mechanism | SharedMechanism, privacy: Budgeted) -> Sharing | None:
    if not isinstance(mechanism, SharedMechanism):
        return None
    return Sharing(mechanism.honest, epsilons(mechanism, privacy.delta, terms.rounds).of_a_share)


def steps_of_a_round(terms: Terms) -> int:
    """Noisy releases in one round: an institution's local steps, or the server's one."""
    privacy = terms.privacy
    return terms.training.local_steps if not isinstance(privacy, Budgeted) or privacy.is_local else 1


@dataclass(frozen=True)
class Facts:
    """What is known before the first round."""

    task: str
    title: str
    model: str
    strategy: str
    rounds: int
    institutions: tuple[str, ...]
    parameters: int
    claim: Claim
    is_summed: bool  # the operator sees sums over the cohort alone
    evaluating: Evaluating
    warnings: tuple[str, ...] = ()  # of what the promise costs, and whom it does not cover


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to tell."""

    facts: Facts
    reports: tuple[RoundReport, ...]
    seconds: float
    model_sha256: str
    energy: Mapping[str, Any] | None = None  # totals, as `energy.summary.as_json` has them; None: nobody metered
    verdict: Verdict | None = None  # of the gates; None: nobody judged
    stopped: str | None = None  # why it ended before its last round; None: it did not

    def as_json(self) -> dict[str, Any]:
        """The content of `result.json`."""
        facts, claim, last = self.facts, self.facts.claim, self.reports[-1]
        return {
            "schema": "lepton-fl/result/1",
            "version": version("lepton-fl"),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": facts.task,
            "model": facts.model,
            "strategy": facts.strategy,
            "parameters": facts.parameters,
            "institutions": list(facts.institutions),
            "rounds": len(self.reports),
            "metrics": metrics_as_json(last.metrics),
            "metrics_by_institution": {n: metrics_as_json(m) for n, m in last.metrics_by_institution.items()},
            "evaluation": evaluation_says(facts),
            "secure_aggregation": facts.is_summed,
            **privacy_as_json(claim, last.epsilon),
            "seconds": round(self.seconds, 3),
            "energy": None if self.energy is None else dict(self.energy),
            "stopped": self.stopped,
            "verdict": None if self.verdict is None else self.verdict.verdict,
            "model_sha256": self.model_sha256,
        }


def evaluation_says(facts: Facts) -> str:
    """How the figures came about, in one clause."""
    settings = facts.evaluating.settings
    if not isinstance(settings, Private):
        return f"{'summed' if facts.is_summed else 'exact'} counts of the hold-out; no epsilon covers them"
    if not facts.claim.is_private:
        return "counts of the hold-out with noise that a seed lets others subtract; no epsilon covers them"
    return (
        f"noised counts of the hold-out, epsilon {settings.epsilon:g} at delta {facts.claim.delta:g} per "
        f"{facts.claim.unit} held out, who is never trained on"
    )


def privacy_as_json(claim: Claim, accounted: float | None) -> dict[str, Any]:
    """Epsilon with its unit and relation; null, whatever was accounted, where the run is not private."""
    return {
        "private": claim.is_private,
        "not_private_because": claim.why_not,
        "unit": claim.unit,
        "neighbouring_relation": claim.neighbouring_relation,
        "epsilon": accounted if claim.is_private else None,
        "epsilon_without_seed": accounted,
        "epsilon_budget": claim.epsilon_budget,
        "delta": claim.delta,
        "noise_multiplier": claim.noise_multiplier,
        "clipping_norm": claim.clipping_norm,
        "sampling_rate": claim.sampling_rate,
        "steps": claim.steps,
        "seed": claim.seed,
        "noise": "shared" if claim.sharing is not None else "own",
        "honest": None if claim.sharing is None else claim.sharing.honest,
        "epsilon_of_a_share": _finite(claim.sharing.epsilon_of_a_share) if claim.sharing is not None else None,
    }


def _finite(epsilon: float) -> float | None:
    """JSON has no infinity: null stands for no bound."""
    return epsilon if epsilon < math.inf else None


def report_as_json(report: RoundReport, claim: Claim) -> dict[str, Any]:
    """One line of `rounds.jsonl`."""
    return {
        "round": report.round,
        "cohort": list(report.cohort),
        "replied": list(report.replied),
        "refused": dict(report.refused),
        "not_evaluated": dict(report.not_evaluated),
        "skipped": report.skipped,
        "metrics": metrics_as_json(report.metrics),
        "private": claim.is_private,
        "unit": claim.unit,
        "neighbouring_relation": claim.neighbouring_relation,
        "epsilon": report.epsilon if claim.is_private else None,
        "epsilon_without_seed": report.epsilon,
        "seconds": round(report.seconds, 3),
    }


def metrics_as_json(metrics: Metrics | None) -> Mapping[str, Any] | None:
    """Null where nobody answered."""
    return None if metrics is None else asdict(metrics)
