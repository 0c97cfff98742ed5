"""A finished run before its gates: held against the figures of its very model, and of nothing older."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lepton_fl.evaluation.gates import Gates, Spent, Verdict, judge, release
from lepton_fl.results.evaluated import assessed, last_evaluation
from lepton_fl.results.outcome import Outcome


def judged(gates: Gates | None, outcome: Outcome, folder: Path) -> Outcome:
    """The outcome with its verdict, which stands in the folder, and the model where the verdict lets it be."""
    if gates is None:
        return outcome
    verdict = verdict_of(gates, outcome)
    release(folder, verdict)
    return replace(outcome, verdict=verdict)


def verdict_of(gates: Gates, outcome: Outcome) -> Verdict:
    """Every declared gate held against this outcome; an evaluation of an earlier round says nothing of its model."""
    last, found = outcome.reports[-1], last_evaluation(outcome.facts, outcome.reports)
    is_of_the_last = found is not None and found[0].round == last.round
    assessment = assessed(outcome.facts, found[1]) if found is not None and is_of_the_last else None
    return judge(gates, assessment, Spent(last.epsilon if outcome.facts.claim.is_private else None, outcome.energy))
