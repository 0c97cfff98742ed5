"""`lepton-client report`: the consortium's report with this institution's exact numbers, which stay here.

The numbers come from this institution's own hold-out and the run's model, counted without noise. No epsilon covers
them: the report says so, is not logged, and is signed with this institution's own key.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_client.contracts import Contracts
from lepton_client.home import Home, find, open_home
from lepton_client.identity import identity_of
from lepton_client.records import own_site
from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.assess import assess, assessment_as_json, assessment_from_json
from lepton_fl.evidence import report_signature
from lepton_fl.evidence.report import CONSORTIUM, from_bytes, site, to_bytes
from lepton_fl.evidence.report_card import card
from lepton_fl.evidence.report_check import CARD, PAGE, REPORT, SIGNATURE
from lepton_fl.evidence.report_page import page
from lepton_fl.evidence.shown import Plain
from lepton_fl.evidence.sources import MODEL
from lepton_fl.files import write_secret
from lepton_fl.tasks.task import DataSource

if TYPE_CHECKING:
    from lepton_fl.federation.terms import Terms

_BINS = 20  # of the score, as in a final release
_CONFIDENCE = 0.95
_BATCH = 256  # records scored at once


@dataclass(frozen=True)
class Asked:
    """Which report, of which records."""

    report: Path  # the consortium's `report.json`, the model beside it
    data: str | None  # a table; None: the task brings its own
    own: Path | None  # figures of several models that this institution wrote of itself; None: of the run's model
    home: str | None
    into: Path | None  # a folder; None: HOME/reports/RUN


def make(asked: Asked) -> None:
    """Write the site's edition: `report.json`, its signature, page and card, readable by this account alone.

    Raises:
        ConfigError: it is not the consortium's report, or of no run that this institution agreed to.
        DataError: the table does not fit the task.
    """
    home = open_home(find(asked.home))
    document, model = _read(asked.report)
    run, terms = _run_of(home, document)
    if asked.own is None:
        models = _exact(terms, model, DataSource(asked.data, None), home.institution)
    else:
        models = _written(asked.own, home.institution)
    content = to_bytes({**site(document, home.institution, models), "made_at": _now()})
    drawn, carded = page(content), card(content)
    folder = asked.into or home.path / "reports" / str(run)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    signed = report_signature.sign(report_signature.statement(content, drawn, carded), identity_of(home))
    for name, written in ((REPORT, content), (PAGE, drawn), (CARD, carded), (SIGNATURE, signed)):
        write_secret(folder / name, written)
    sys.stdout.write(f"{folder / PAGE}: site edition; it has exact numbers and must not leave {home.institution}\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(path: Path) -> tuple[Plain, bytes]:
    try:
        document = from_bytes(path.read_bytes())
        model = path.with_name(MODEL).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {error.filename}: {error.strerror}; nothing was written; it needs report.json and the model "
            "beside it"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no report ({error}); nothing was written; get it from the operator") from error
    if document["edition"] != CONSORTIUM:
        raise ConfigError(
            f"{path} is the {str(document['edition'])[:20]} edition; nothing was written; the site's is made from the "
            "consortium's"
        )
    if report_signature.sha256(model) != document["model_sha256"]:
        raise ConfigError(
            f"{path.with_name(MODEL)} is not the model of this report; nothing was written; get both from the operator"
        )
    return document, model


def _run_of(home: Home, document: Plain) -> tuple[int, Terms]:
    """The run whose contract the report names, among those that were put before this institution."""
    facts = [fact for part in document["sections"] for block in part["blocks"] for fact in block.get("facts", ())]
    named = next((fact["value"] for fact in facts if fact["id"] == "model.contract"), None)
    kept = Contracts(home.path / "contracts")
    for run in kept.runs():
        offered = kept.find(run)
        if offered is not None and report_signature.sha256(offered.content) == named:
            return run, offered.contract.settings()
    raise ConfigError(
        "the report is of no run whose contract was kept here; nothing was written; is it this institution's --home?"
    )


def _written(path: Path, institution: str) -> dict[str, Plain]:
    """The figures of several models in a file of this institution, as `sites/NAME.json` has them."""
    try:
        content = json.loads(path.read_bytes())
        if content["institution"] != institution:
            raise ConfigError(f"{path} is of another institution; nothing was written; give this institution's own")
        return {str(name): assessment_as_json(assessment_from_json(one)) for name, one in content["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"cannot read figures from {path}; nothing was written; leave --own out to count") from error


def _exact(terms: Terms, model: bytes, source: DataSource, institution: str) -> dict[str, Plain]:
    """The run's model on this institution's own hold-out, without noise; under Ditto, its own two models as well."""
    from safetensors.torch import load

    from lepton_fl.evaluation.histogram import Histogram, Layout, count
    from lepton_fl.privacy.randomness import Randomness
    from lepton_fl.results.joining import joined

    held = own_site(terms, source, institution)
    shape = terms.task.shape()
    network = terms.model.build(shape)
    start = copy.deepcopy(network)
    network.load_state_dict(load(model))
    made = joined(terms, (start, network), [held], Randomness(None))
    if made is not None:
        return {name: assessment_as_json(one) for name, one in made[held.institution].items()}
    labels = max(2, shape.outputs)
    layout = Layout(terms.task.groups(), labels, _BINS if labels == 2 else labels)
    exact = Histogram(layout, count(network, held.holdout, layout, _BATCH, False), 0.0)
    return {"federated": assessment_as_json(assess(exact, exact, _CONFIDENCE))}
