"""Was joining worth it: each institution's table, written where a simulation keeps what would stay at a site.

Under privacy nothing of it goes anywhere else: the local models were trained without noise. Without privacy the table
is part of `evaluation.json` too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from torch import nn

from lepton_fl.evaluation.assess import Assessment
from lepton_fl.evaluation.histogram import Layout
from lepton_fl.fairness.settings import Ditto
from lepton_fl.fairness.worth import SCHEMA, Counting, assessments_of, worth, worth_as_json, worth_lines
from lepton_fl.federation.terms import Terms
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.units import NoPrivacy, PatientPrivacy
from lepton_fl.results.folder import Folder
from lepton_fl.training.examples import Site

SITES = "sites"
Joined = Mapping[str, Mapping[str, Assessment]]
"""By institution, then by model."""


def joined(
    terms: Terms, models: tuple[nn.Module, nn.Module], sites: Iterable[Site], randomness: Randomness
) -> Joined | None:
    """Every institution's own hold-out under its own models and the federation's; None under another fairness.

    Args:
        models: one that nobody has trained, and the federation's last.
    """
    settings, shape = terms.fairness, terms.task.shape()
    if not isinstance(settings, Ditto):
        return None
    labels = max(2, shape.outputs)
    layout = Layout(terms.task.groups(), labels, terms.evaluation.bins if labels == 2 else labels)
    counting = Counting(layout, terms.evaluation.confidence, isinstance(terms.privacy, PatientPrivacy))
    return {
        site.institution: worth(settings, site, models, terms.training, counting, randomness.within("alone"))
        for site in sites
    }


def write(made: Joined, terms: Terms, folder: Folder) -> None:
    """`sites/NAME.json` for each institution; under privacy=none also `institutions` of `evaluation.json`."""
    place = folder.path / SITES
    place.mkdir(exist_ok=True)
    for old in place.glob("*.json"):
        old.unlink()
    tables = [worth_as_json(institution, one) for institution, one in sorted(made.items())]
    for one in tables:
        content = json.dumps({"schema": SCHEMA, **one}, indent=2) + "\n"
        folder.add_file(f"{SITES}/{quote(one['institution'], safe=' ')}.json", content.encode())
    evaluation = folder.path / "evaluation.json"
    if type(terms.privacy) is NoPrivacy and evaluation.exists():
        known = {**json.loads(evaluation.read_text()), "institutions": tables}
        folder.add_file(evaluation.name, (json.dumps(known, indent=2) + "\n").encode())


def lines(folder: Path, terms: Terms) -> list[str]:
    """The table of a finished run for the terminal, none where there is none; recall by the first attribute."""
    found = [json.loads(path.read_text()) for path in sorted((folder / SITES).glob("*.json"))]
    if not found or not isinstance(terms.fairness, Ditto):
        return []
    attributes = terms.task.groups().attributes
    made = {one["institution"]: assessments_of(one) for one in found}
    return [
        "joining     worth it? each on its own hold-out",
        *worth_lines(made, attributes[0].name if attributes else None),
    ]


def model_file(folder: Path) -> Path:
    """The last model's file, released or held."""
    return next(path for path in (folder / "model.safetensors", folder / "held" / "model.safetensors") if path.exists())
