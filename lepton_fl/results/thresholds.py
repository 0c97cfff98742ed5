"""`thresholds.json`: one threshold for each group, and what the hold-out says of the decisions that they make."""

from __future__ import annotations

import json
from collections.abc import Sequence

from lepton_fl.evaluation.assess import assess, assessment_as_json
from lepton_fl.evaluation.histogram import Histogram
from lepton_fl.fairness.settings import Thresholds
from lepton_fl.fairness.thresholds import chosen, decided_by, thresholds_as_json
from lepton_fl.federation.journal import RoundReport
from lepton_fl.federation.terms import Terms
from lepton_fl.results.evaluated import last_evaluation
from lepton_fl.results.outcome import Facts

NAME = "thresholds.json"


def thresholds_of(terms: Terms, facts: Facts, reports: Sequence[RoundReport]) -> bytes | None:
    """The file's content; None under another fairness, or where the subjects set apart were not counted.

    Chosen from subjects that nobody trained on and judged on others: both were released already.
    """
    found = last_evaluation(facts, reports)
    if not isinstance(terms.fairness, Thresholds) or found is None or found[1].tune is None:
        return None
    made = chosen(terms.fairness, _binned(found[1].tune, terms.evaluation.bins))
    document = thresholds_as_json(made)
    scores = found[1].scores
    if scores is not None:
        judged = assess(decided_by(made, _binned(scores, terms.evaluation.bins)), None, terms.evaluation.confidence)
        document["assessment"] = assessment_as_json(judged)
    return (json.dumps(document, indent=2) + "\n").encode()


def _binned(histogram: Histogram, bins: int) -> Histogram:
    """Exact counts come in finer bins than are reported, and a routine release in fewer."""
    return histogram.coarser(bins) if histogram.layout.bins > bins else histogram
