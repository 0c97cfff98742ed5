"""What the evaluations of a run say: `evaluation.json`, and the lines that a person reads at the end.

Everything here follows from histograms that were released; nothing is charged for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lepton_fl.evaluation.assess import Assessment, assess, assessment_as_json
from lepton_fl.evaluation.figures import SHOWN, SUPPRESSED, Figure, figure_as_json
from lepton_fl.evaluation.settings import Private
from lepton_fl.evaluation.spread import spread
from lepton_fl.explanation.ranking import as_json, from_sum
from lepton_fl.federation.evaluating import DECISIONS, OWN, SCORES
from lepton_fl.federation.histograms import Evaluated, from_plain
from lepton_fl.federation.journal import RoundReport
from lepton_fl.privacy.accounting import epsilon_of_history
from lepton_fl.results.outcome import Facts, Outcome

_SHOWN_OF_A_GROUP = ("accuracy", "recall", "selection rate", "AUC")
_EVERYBODY = "everybody"
_SHOWN_GAPS = ("equal opportunity difference", "demographic parity difference", "worst group accuracy")


def last_evaluation(facts: Facts, reports: Sequence[RoundReport]) -> tuple[RoundReport, Evaluated] | None:
    """The last round that was evaluated; None if none was."""
    for report in reversed(reports):
        if report.histograms is not None:
            return report, from_plain(facts.evaluating, report.histograms)
    return None


def assessed(facts: Facts, evaluated: Evaluated) -> Assessment:
    """The figures of one evaluation, with their intervals."""
    return assess(evaluated.decisions, _binned(facts, evaluated), facts.evaluating.settings.confidence)


def _binned(facts: Facts, evaluated: Evaluated) -> Any:
    """Exact counts come in finer bins than are reported."""
    scores, bins = evaluated.scores, facts.evaluating.settings.bins
    if scores is None or scores.layout.labels != 2 or scores.layout.bins == bins:
        return scores
    return scores.coarser(bins)


def evaluation_as_json(outcome: Outcome) -> dict[str, Any] | None:
    """The content of `evaluation.json`; None if nothing was evaluated."""
    facts, claim = outcome.facts, outcome.facts.claim
    found = last_evaluation(facts, outcome.reports)
    if found is None:
        return None
    report, evaluated = found
    settings = facts.evaluating.settings
    is_covered = isinstance(settings, Private) and claim.is_private
    released = [one for one in outcome.reports if one.histograms is not None]
    return {
        "schema": "lepton-fl/evaluation/1",
        "round": report.round,
        "evaluation": "private" if isinstance(settings, Private) else "exact",
        "unit": claim.unit,
        "neighbouring_relation": claim.neighbouring_relation,
        "epsilon": settings.epsilon if isinstance(settings, Private) and is_covered else None,
        "delta": claim.delta if is_covered else None,
        "confidence": settings.confidence,
        "releases": len(released),
        "noise_stddev": _noise(evaluated),
        "assessment": assessment_as_json(assessed(facts, evaluated)),
        "institutions": [
            {
                "institution": name,
                "models": {"federated": assessment_as_json(assessed(facts, Evaluated({SCORES: one})))},
            }
            for name, one in sorted(evaluated.own.items())
        ],
        "spread": _spread(facts, evaluated),
        "history": [_released(facts, one) for one in released],
        # What was released, so that every figure can be worked out again; the log has the digest of each.
        "histograms": {str(one.round): one.histograms for one in released},
    }


def _spread(facts: Facts, evaluated: Evaluated) -> list[dict[str, Any]]:
    """How evenly the model serves the institutions, where each shows its own histogram."""
    each = list(evaluated.own.values())
    return (
        [figure_as_json(one) for one in spread(each, "accuracy", facts.evaluating.settings.confidence)] if each else []
    )


def _noise(evaluated: Evaluated) -> dict[str, float]:
    own = next(iter(evaluated.own.values()), None)
    kept = {DECISIONS: evaluated.decisions, SCORES: evaluated.scores, OWN: own}
    return {name: math.sqrt(one.variance) for name, one in kept.items() if one is not None}


def _released(facts: Facts, report: RoundReport) -> dict[str, Any]:
    """One evaluation of the run's course."""
    overall = assessment_as_json(assessed(facts, from_plain(facts.evaluating, report.histograms or {})))["overall"]
    return {"round": report.round, **{figure["metric"]: figure for figure in overall}}


def explanation_as_json(outcome: Outcome) -> dict[str, Any] | None:
    """The content of `explanation.json`; None if nothing was told of columns."""
    facts, found = outcome.facts, last_evaluation(outcome.facts, outcome.reports)
    explaining, claim = facts.evaluating.explaining, facts.claim
    if found is None or explaining is None or found[1].attributions is None or claim.delta is None:
        return None
    report, confidence = found[0], facts.evaluating.settings.confidence
    ranking = from_sum(found[1].attributions, explaining.features, confidence, explaining.watched)
    alone = (explaining.step(facts.evaluating.shares).segment(1, is_own=False),)
    return {
        **as_json(ranking),
        "clipping_norm": explaining.clipping_norm,
        "confidence": confidence,
        # Whoever knows the seed can subtract the noise.
        "epsilon": epsilon_of_history(alone, claim.delta) if claim.is_private else None,
        "epsilon_held_out": None if report.held_out is None else report.held_out["epsilon"],
        "delta": claim.delta,
        "unit": claim.unit,
        "neighbouring_relation": claim.neighbouring_relation,
    }


def evaluation_lines(outcome: Outcome) -> Iterator[str]:
    """Everybody, groups and gaps of the last evaluation, for people."""
    found = last_evaluation(outcome.facts, outcome.reports)
    if found is None:
        return
    assessment = assessed(outcome.facts, found[1])
    names = [f"{one.attribute} {one.group}" for one in assessment.groups]
    width = max(len(name) for name in (_EVERYBODY, *names))
    yield f"hold-out    {_EVERYBODY:<{width}}  {'  '.join(_cells(assessment.overall))}"
    for name, one in zip(names, assessment.groups, strict=True):
        is_shown = any(figure.status != SUPPRESSED for figure in one.figures)
        yield f"group       {name:<{width}}  {'  '.join(_cells(one.figures)) if is_shown else SUPPRESSED}"
    for gap in assessment.gaps:
        if gap.figure.metric in _SHOWN_GAPS:
            between = "" if gap.between is None else f"  ({gap.between[0]} and {gap.between[1]})"
            yield f"gap         {gap.attribute}: {_cell(gap.figure)}{between}"
    yield from _looked_at(outcome)


def _looked_at(outcome: Outcome) -> Iterator[str]:
    """The columns that move the model most, and which of them are sensitive."""
    told = explanation_as_json(outcome)
    if told is None:
        return
    heaviest = [f"{one['feature']} {one['value']:.2f}" for one in told["features"][:5] if one["value"] is not None]
    yield f"looks at    {', '.join(heaviest) if heaviest else told['features'][0]['why']}"
    if told["proxies"]:
        yield f"            sensitive among them: {', '.join(told['proxies'])}"


def _cells(figures: Sequence[Figure]) -> list[str]:
    known = {figure.metric: figure for figure in figures}
    return [_cell(known[metric]) for metric in _SHOWN_OF_A_GROUP if metric in known]


def _cell(figure: Figure) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return f"{figure.metric} {figure.status}"
    interval = f"{figure.metric} {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
    return interval if figure.status == SHOWN else f"{interval} {figure.status}"
