"""Was joining worth it? An institution's own hold-out under three models: its own alone, the federation's, and between.

The two local models are trained without noise, on the institution's own records, and neither they nor what is computed
from them leaves it: noise on the hold-out would protect the people held out, and nobody trained on.

Source: Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization", equation 2, solved for the
federation's last model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lepton_fl.evaluation.assess import Assessment, assess, assessment_as_json, assessment_from_json
from lepton_fl.evaluation.figures import NOT_MEASURED, NOT_RESOLVED, SHOWN, Figure
from lepton_fl.evaluation.histogram import Histogram, Layout, count
from lepton_fl.fairness.settings import Ditto
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.tasks.groups import UNKNOWN
from lepton_fl.training.examples import Site
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.settings import Training

LOCAL, FEDERATED, PERSONAL = MODELS = ("local", "federated", "personal")
SCHEMA = "lepton-fl/site/1"
_OVERALL = ("accuracy", "AUC")
_GAP = "equal opportunity difference"


@dataclass(frozen=True)
class Counting:
    """How a hold-out is counted, and with what confidence its figures are given."""

    layout: Layout
    confidence: float
    one_per_subject: bool


def personal_model(settings: Ditto, federated: nn.Module, site: Site, training: Training, source: Randomness) -> None:
    """Train the federation's model, in place, to lower the local loss + pull / 2 * ||model - federated||^2."""
    task = LocalTask(1, settings.pull, source.within("personal", site.institution))
    train_plainly(federated, site.train, _alone(settings, training), task)


def local_model(settings: Ditto, start: nn.Module, site: Site, training: Training, source: Randomness) -> None:
    """Train a model nobody has trained yet, in place, on this institution's records alone."""
    task = LocalTask(1, 0.0, source.within("local", site.institution))
    train_plainly(start, site.train, _alone(settings, training), task)


def _alone(settings: Ditto, training: Training) -> Training:
    return replace(training, local_steps=settings.steps, learning_rate=settings.learning_rate, learning_rate_decay=1.0)


def worth(
    settings: Ditto,
    site: Site,
    models: tuple[nn.Module, nn.Module],
    training: Training,
    counting: Counting,
    source: Randomness,
) -> dict[str, Assessment]:
    """The institution's own hold-out, counted exactly, under each of `MODELS`; for its own eyes.

    Args:
        models: one that nobody has trained, and the federation's last; both stay as they are.
    """
    start, federated = models
    local, personal = copy.deepcopy(start), copy.deepcopy(federated)
    local_model(settings, local, site, training, source)
    personal_model(settings, personal, site, training, source)
    made = {LOCAL: local, FEDERATED: federated, PERSONAL: personal}
    return {name: _assessed(model, site, counting, training.physical_batch) for name, model in made.items()}


def _assessed(model: nn.Module, site: Site, counting: Counting, physical_batch: int) -> Assessment:
    table = count(model, site.holdout, counting.layout, physical_batch, counting.one_per_subject)
    scores = Histogram(counting.layout, table, 0.0)
    return assess(scores, scores, counting.confidence)


def worth_as_json(institution: str, made: Mapping[str, Assessment]) -> dict[str, Any]:
    """One institution's table: of `sites/NAME.json` under privacy, of `evaluation.json` without."""
    return {"institution": institution, "models": {name: assessment_as_json(made[name]) for name in MODELS}}


def assessments_of(document: Mapping[str, Any]) -> dict[str, Assessment]:
    """What `worth_as_json` wrote of one institution, by model; raises `DataError` where it is something else."""
    return {name: assessment_from_json(document["models"][name]) for name in MODELS if name in document["models"]}


def worth_lines(made: Mapping[str, Mapping[str, Assessment]], attribute: str | None) -> list[str]:
    """For the terminal: a line for each institution and figure, a column for each model.

    Args:
        made: by institution, then by model; a model that is not there is one whose figures stay at home.
        attribute: whose groups' recall is shown; None: nobody's.
    """
    lines = [f"{'':<33}{'local-only':<24}{'federated':<24}personal"]
    for institution, models in made.items():
        for place, (what, figures) in enumerate(_rows(models, attribute).items()):
            name = institution[:13] if place == 0 else ""
            lines.append(f"{name:<14}{what:<19}{''.join(f'{cell:<24}' for cell in figures)}".rstrip())
    return lines


def _rows(models: Mapping[str, Assessment], attribute: str | None) -> dict[str, list[str]]:
    """The lines of one institution: what is measured, and a cell for each of `MODELS`."""
    rows = {what: [_cell(models, lambda one: one.overall, what, name) for name in MODELS] for what in _OVERALL}
    for group in _groups(models[FEDERATED], attribute):
        rows[f"recall, {attribute} {group}"] = [
            _cell(models, lambda one: _figures(one, attribute, group), "recall", name)  # noqa: B023 - called at once
            for name in MODELS
        ]
    gaps = {f"gap, {attribute}": [_cell(models, lambda one: _gaps(one, attribute), _GAP, name) for name in MODELS]}
    return rows | (gaps if attribute is not None else {})


def _cell(
    models: Mapping[str, Assessment], of: Callable[[Assessment], tuple[Figure, ...]], metric: str, name: str
) -> str:
    if name not in models:
        return "stays at home"
    found = [one for one in of(models[name]) if one.metric == metric]
    return said(found[0]) if found else NOT_MEASURED


def said(figure: Figure) -> str:
    """A figure as a cell: value and interval, or the word for why there is none."""
    if figure.value is None or figure.low is None or figure.high is None or figure.status == NOT_RESOLVED:
        return figure.status
    return f"{figure.value:.3f} ({figure.low:.2f} to {figure.high:.2f})"


def _figures(assessment: Assessment, attribute: str | None, group: str) -> tuple[Figure, ...]:
    return next((one.figures for one in assessment.groups if (one.attribute, one.group) == (attribute, group)), ())


def _gaps(assessment: Assessment, attribute: str | None) -> tuple[Figure, ...]:
    return tuple(gap.figure for gap in assessment.gaps if gap.attribute == attribute)


def _groups(assessment: Assessment, attribute: str | None) -> list[str]:
    """Declared groups, and `unknown` where it is large enough to be judged."""
    found = [one for one in assessment.groups if one.attribute == attribute]
    return [
        one.group
        for one in found
        if one.group != UNKNOWN or any(each.status == SHOWN for each in one.figures if each.metric == "recall")
    ]
