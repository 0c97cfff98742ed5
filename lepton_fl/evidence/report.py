"""The transparency report: what a run's files say, in one document with one form.

`report.json` is canonical JSON (RFC 8785) in which every decimal is text, so that whoever has the same facts gets the
same bytes. Nothing in it is computed from records: every figure was released before, by the run.

Editions: `public` names no institution and has no row about one; `consortium` has both; `site` is the consortium's
with one institution's exact numbers, made and signed there, and stays there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from lepton_fl.evidence import (
    assessed,
    canonical,
    chapters_model,
    chapters_privacy,
    chapters_quality,
    chapters_running,
    model_facts,
)
from lepton_fl.evidence.blocks import Block, Fact, Facts, Prose, Row, Section, Table, statements
from lepton_fl.evidence.mapping import mapping
from lepton_fl.evidence.shown import Origin, Plain, Shown, said
from lepton_fl.evidence.sources import CannotReport, Sources

PUBLIC, CONSORTIUM, SITE = EDITIONS = ("public", "consortium", "site")
DRAFT, FINAL = "draft", "final"
SCHEMA = "lepton-fl/report/1"
LARGEST = 1 << 24  # bytes of a report


def report(sources: Sources, edition: str, made_at: datetime, *, is_final: bool) -> Plain:
    """The report of a run, as plain values.

    Raises:
        CannotReport: `is_final` and people left fields empty; or the public edition would name an institution.
    """
    missing = model_facts.empty(dict(sources.facts))
    if is_final and missing:
        raise CannotReport(
            f"{', '.join(missing)} in {model_facts.NAME} {'is' if len(missing) == 1 else 'are'} empty; nothing was "
            "written; fill in what only people know, or leave --final out for a draft"
        )
    if edition == PUBLIC:
        _refuse_names(sources)
    with_names = edition != PUBLIC
    try:
        sections = _sections(sources, with_names=with_names)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CannotReport(
            f"a file of the run has another form than this version writes ({type(error).__name__}); nothing was "
            "written; use the version that made the run"
        ) from error
    return {
        "schema": SCHEMA,
        "version": version("lepton-fl"),
        "edition": edition,
        "status": FINAL if is_final else DRAFT,
        "empty_fields": missing,
        "made_at": made_at.astimezone(UTC).isoformat(timespec="seconds"),
        "finished_at": str(sources.result.get("finished_at")),
        "title": _title(sources),
        "model_sha256": str(sources.result.get("model_sha256")),
        "sections": [section.plain() for section in sections],
    }


def _title(sources: Sources) -> str:
    return str((sources.terms.get("task") or {}).get("title") or sources.result.get("task"))


def _sections(sources: Sources, *, with_names: bool) -> tuple[Section, ...]:
    found = (
        summary(sources),
        chapters_model.purpose(sources),
        chapters_model.making(sources),
        chapters_model.data(sources, with_names=with_names),
        chapters_privacy.privacy(sources),
        chapters_quality.performance(sources, with_names=with_names),
        chapters_quality.fairness(sources, with_names=with_names),
        chapters_quality.explanation(sources),
        chapters_privacy.rounds(sources, with_names=with_names),
        chapters_running.energy(sources, with_names=with_names),
        chapters_running.deployment(sources),
        chapters_running.decisions(sources, with_names=with_names),
        chapters_running.checking(sources),
    )
    return (*found, mapping(dict(statements(found))))


def summary(sources: Sources) -> Section:
    """Section 0: what a reader with one minute must know."""
    name, gap = assessed.worst_gap(sources)
    facts = (
        Fact("verdict.release", "release", chapters_running.verdict(sources)),
        Fact("verdict.accuracy", "accuracy", assessed.overall(sources, "accuracy")),
        Fact("verdict.auc", "AUC", assessed.overall(sources, "AUC")),
        Fact("verdict.gap", f"largest gap ({name})" if name else "largest gap", gap),
        Fact("verdict.epsilon", "epsilon of training", chapters_privacy.trained(sources)),
        Fact("verdict.unit", "hides the presence of one", said(sources.result.get("unit"), "result.json")),
        Fact("verdict.epsilon_evaluation", "epsilon of the evaluation", chapters_privacy.evaluated(sources)),
        Fact("verdict.energy", "energy of the run", chapters_running.energy_total(sources)),
        Fact("verdict.model", "SHA-256 of the model", said(sources.result.get("model_sha256"), "result.json")),
        Fact("verdict.log", "root of the log", chapters_running.root(sources)),
    )
    blocks: tuple[Block, ...] = (Facts("In short", facts), Prose("Limits", tuple(_limits(sources))))
    return Section("0", "Verdict", "What must a reader with one minute know?", blocks)


def _limits(sources: Sources) -> list[str]:
    found = []
    if sources.epsilon is None:
        found.append("The model is not private: no epsilon holds for the people it was trained on.")
    if sources.evaluation is None and not sources.result.get("metrics"):
        found.append("How good the model is was not measured.")
    elif sources.evaluation is None or sources.evaluation.get("epsilon") is None:
        found.append("No epsilon covers the figures of the evaluation.")
    statuses = {shown.status for _, shown in assessed.gaps(sources)}
    if statuses and statuses <= {"suppressed", "not resolved", "not measured"}:
        found.append("No gap between groups could be told from zero: the hold-out is too small for this noise.")
    return [
        *found,
        "Figures are what the institutions reported; nobody else saw the records.",
        "Sensitive attributes are as they were recorded; who is not recorded is in the group unknown.",
        "Results on these institutions need not hold at another.",
    ]


def _refuse_names(sources: Sources) -> None:
    """What people wrote must not name an institution in the edition that names none."""
    purpose = (sources.contract or {}).get("purpose") or {}
    override = (sources.gates or {}).get("override") or {}
    texts = {**sources.facts, "title": _title(sources), "purpose": purpose.get("purpose")}
    texts["the reason of the override"] = override.get("reason")
    for name in sources.result.get("institutions", ()):
        wanted = re.compile(rf"(?<!\w){re.escape(str(name))}(?!\w)", re.IGNORECASE)
        for field, text in texts.items():
            if str(name).strip() and wanted.search(str(text or "")):
                raise CannotReport(
                    f"the public edition would name an institution, in {field}; nothing was written; word it without "
                    "the name"
                )


def site(consortium: Plain, institution: str, models: Mapping[str, Plain]) -> Plain:
    """The consortium's report with this institution's exact numbers, which never leave it.

    Args:
        models: `federated`, and what else was compared there, each with the assessment of its own hold-out, as
            `evaluation.json` has assessments, without noise.
    """
    where, names = Origin("this institution's own records"), [*models]
    metrics = assessed.names([one["overall"] for one in models.values()])
    rows = tuple(
        Row((metric,), tuple(assessed.of(models[name]["overall"], metric, where) for name in names))
        for metric in metrics
    )
    note = "Without noise: no epsilon covers these figures, and they must not leave the institution."
    exact = Table("own", "Its own hold-out, exactly", ("figure",), tuple(names), rows, note)
    groups = {
        (group["attribute"], group["group"], metric): None
        for one in models.values()
        for group in one["groups"]
        for metric in assessed.names([group["figures"]])
    }
    of_groups = tuple(Row(labels, tuple(_of_group(models[name], labels, where) for name in names)) for labels in groups)
    heads = ("attribute", "group", "figure")
    by_group = Table("own-groups", "Its own groups, exactly", heads, tuple(names), of_groups, note)
    blocks: tuple[Block, ...] = (Prose("", (f"For {institution} alone.",)), exact, by_group)
    chapter = Section("S", "This institution", "What are the exact numbers here?", blocks)
    return {**consortium, "edition": SITE, "sections": [*consortium["sections"], chapter.plain()]}


def _of_group(assessment: Plain, labels: tuple[str, str, str], where: Origin) -> Shown:
    attribute, group, name = labels
    found = [one["figures"] for one in assessment["groups"] if (one["attribute"], one["group"]) == (attribute, group)]
    return assessed.of(found[0] if found else (), name, where)


def to_bytes(document: Plain) -> bytes:
    """The one form of this report (RFC 8785)."""
    return canonical.to_bytes(document)


def from_bytes(content: bytes) -> Plain:
    """The report that these bytes are the one form of.

    Raises:
        ValueError: too long, not JSON, not a report, or another form.
    """
    if len(content) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError("not a report of a kind that is known here")
    if canonical.to_bytes(document) != content:
        raise ValueError("not in its canonical form")
    return document
