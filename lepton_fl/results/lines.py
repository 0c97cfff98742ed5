"""The lines of a run for people: who trains what, one line a round with fixed columns, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lepton_fl.evaluation.gates import HELD, HELD_MODEL, MODEL
from lepton_fl.evaluation.metrics import Metrics
from lepton_fl.federation.journal import RoundReport
from lepton_fl.results.evaluated import evaluation_lines
from lepton_fl.results.outcome import (
    Claim,
    Facts,
    Outcome,
    Sharing,
    evaluation_says,
)
from lepton_fl.secure_aggregation.cohort import most_corrupt, threshold
from lepton_fl.show import counted_institutions


def opening(facts: Facts) -> list[str]:
    """The lines before the first round: who trains what, and what is promised."""
    claim = facts.claim
    lines = [
        f"federation  {facts.title}: {counted_institutions(len(facts.institutions))}, {facts.model} "
        f"({facts.parameters:,} parameters), {facts.strategy}"
    ]
    if claim.epsilon_budget is not None:
        lines.append(
            f"privacy     per {claim.unit} ({claim.neighbouring_relation}), epsilon {claim.epsilon_budget:.2f} at "
            f"delta {claim.delta:g}, clipping norm {claim.clipping_norm:g}, noise multiplier "
            f"{claim.noise_multiplier:.2f}, {_who_adds(claim)}"
        )
    if claim.sharing is not None:
        lines.append(
            f"            against an operator who takes an institution's masks off: {_of_a_share(claim.sharing)}"
        )
    lines += [f"warning     {warning}" for warning in facts.warnings]
    lines.append(_aggregation(facts))
    lines.append(f"evaluation  {evaluation_says(facts)}; {_when(facts)}")
    if claim.why_not:
        lines.append(f"NOT PRIVATE {claim.why_not}")
    return lines


def _when(facts: Facts) -> str:
    every = facts.evaluating.settings.every
    if every == 1:
        return "after each round"
    return f"every {every} rounds and at the end" if every < facts.rounds else "after the last round"


def _aggregation(facts: Facts) -> str:
    count = len(facts.institutions)
    if not facts.is_summed:
        return "aggregation NOT SECURE: the operator sees each institution's update"
    return (
        f"aggregation secure: the operator sees sums alone; {threshold(count)} of {count} must answer, "
        f"{most_corrupt(count)} may side with the operator"
    )


def _of_a_share(sharing: Sharing) -> str:
    if sharing.epsilon_of_a_share == math.inf:
        return "no bound"
    return f"epsilon {sharing.epsilon_of_a_share:.2f}"


def _who_adds(claim: Claim) -> str:
    if claim.sharing is not None:
        return f"shared: any {claim.sharing.honest} honest institutions carry all of it"
    return "added by the operator" if claim.unit == "institution" else "each institution adds all of it"


def round_line(report: RoundReport, facts: Facts) -> str:
    """One round in fixed columns."""
    width, people = len(str(facts.rounds)), len(str(len(facts.institutions)))
    return "  ".join(
        [
            f"round {report.round:>{width}}/{facts.rounds}",
            f"cohort {len(report.cohort):>{people}}",
            f"replied {len(report.replied):>{people}}",
            "  ".join(figures(report.metrics)).ljust(_FIGURES),
            spent(report.epsilon, facts.claim),
            f"{report.seconds:6.1f} s",
        ]
    )


_FIGURES = len("loss   0.000  auc 0.000  accuracy 0.0000")


def figures(metrics: Metrics | None) -> list[str]:
    """Loss, and AUC where there are two classes, and accuracy, in fixed widths."""
    if metrics is None or metrics.accuracy is None:
        why = "not evaluated" if metrics is None else "suppressed: too few for the noise"
        return [why]
    loss = [] if metrics.loss is None else [f"loss {metrics.loss:7.3f}"]
    auc = [f"auc {metrics.auc:.3f}"] if metrics.auc is not None else []
    return [*loss, *auc, f"accuracy {metrics.accuracy:.4f}"]


def spent(epsilon: float | None, claim: Claim) -> str:
    """Epsilon of budget, or that there is no promise."""
    if not claim.is_private or epsilon is None:
        return "not private"
    budget = f"{claim.epsilon_budget:.2f}"
    return f"epsilon {epsilon:{len(budget)}.2f} of {budget} per {claim.unit}"


def closing(outcome: Outcome, folder: str) -> list[str]:
    """The lines after the last round: each institution's hold-out, the pooled result, the files."""
    last, facts = outcome.reports[-1], outcome.facts
    width = max((len(name) for name in last.metrics_by_institution), default=0)
    about = "about " if facts.evaluating.is_private else ""
    lines = [
        f"  {name:<{width}}  {about}{metrics.records:>6} held out  {'  '.join(figures(metrics))}"
        for name, metrics in last.metrics_by_institution.items()
    ]
    result = "  ".join([*figures(last.metrics), spent(last.epsilon, facts.claim)])
    return [
        *(lines if len(lines) <= 20 else []),
        *evaluation_lines(outcome),
        *([] if outcome.stopped is None else [f"stopped     {outcome.stopped}"]),
        *([] if outcome.energy is None else [_energy(outcome.energy)]),
        f"result      {result}  in {outcome.seconds:.1f} s",
        f"written     {folder}: {', '.join(_files(outcome))}",
    ]


def _files(outcome: Outcome) -> list[str]:
    verdict = outcome.verdict
    is_held = verdict is not None and verdict.verdict == HELD
    return [
        "result.json",
        "evaluation.json",
        "rounds.jsonl",
        HELD_MODEL if is_held else MODEL,
        "learning_curve.png",
        *([] if outcome.facts.evaluating.explaining is None else ["explanation.json"]),
        *([] if outcome.energy is None else ["energy.jsonl"]),
        *([] if verdict is None or not verdict.gates else ["gates.json"]),
    ]


def _energy(energy: Mapping[str, Any]) -> str:
    grams = "" if energy["gco2e"] is None else f", {energy['gco2e']:g} g CO2e"
    silent = f"; not told: {', '.join(energy['not_told'])}" if energy["not_told"] else ""
    return f"energy      {1000 * energy['kwh']:.2g} Wh ({energy['tier']}){grams}{silent}"
