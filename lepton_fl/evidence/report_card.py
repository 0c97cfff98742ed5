"""The model card: the report's main statements in the Markdown form that model registries read.

YAML front matter, then Markdown. Built from the bytes of `report.json` alone, as the page is. Text from elsewhere
is escaped, so that it can be neither a link, nor HTML, nor a line of the front matter.
"""

from __future__ import annotations

import re

import yaml

from lepton_fl.evidence.report import from_bytes
from lepton_fl.evidence.shown import SHOWN, Plain
from lepton_fl.evidence.words import visible

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+!|~&:-])")
_CHAPTERS = (
    ("Intended use", ("human.intended_use", "human.intended_users", "human.people_affected")),
    ("Out of scope", ("human.out_of_scope",)),
    ("Risks and limits", ("human.known_risks", "human.human_oversight", "human.maintenance")),
    ("Model", ("model.task", "model.kind", "model.parameters", "model.strategy", "model.rounds", "model.file")),
    ("Data", ("data.institutions", "data.holdout", "human.data_origin", "human.legal_basis")),
    ("Privacy", ("privacy.unit", "privacy.relation", "privacy.epsilon", "privacy.delta", "privacy.epsilon_evaluation",
                 "privacy.trust")),
    ("Energy", ("energy.kwh", "energy.carbon")),
    ("Contact", ("human.provider", "human.contact", "human.complaints")),
)  # fmt: skip
_TABLES = ("overall", "groups", "gaps")


def card(content: bytes) -> bytes:
    """The model card of these canonical bytes.

    Raises:
        ValueError: they are no report.
    """
    document = from_bytes(content)
    blocks = [block for section in document["sections"] for block in section["blocks"]]
    facts = {fact["id"]: fact for block in blocks for fact in block.get("facts", ())}
    tables = {block["id"]: block for block in blocks if block["kind"] == "table"}
    lines = [f"# {_safe(document['title'])}", ""]
    lines += [f"From the transparency report, {document['edition']} edition, {document['status']}.", ""]
    for title, names in _CHAPTERS:
        lines += [f"## {title}", "", *(_line(facts[name]) for name in names if name in facts), ""]
    lines += ["## Evaluation", ""]
    for name in _TABLES:
        lines += _table(tables[name])
    head: str = yaml.safe_dump(_front_matter(document, facts, tables), sort_keys=False, allow_unicode=False)
    return ("---\n" + head + "---\n\n" + "\n".join(lines).rstrip() + "\n").encode()


def _front_matter(document: Plain, facts: dict[str, Plain], tables: dict[str, Plain]) -> Plain:
    results = [
        {"type": row["labels"][0], "value": float(row["figures"][0]["value"])}
        for row in tables["overall"]["rows"]
        if row["figures"][0]["status"] == SHOWN
    ]
    licence = facts["human.licence"]["value"] if "human.licence" in facts else None
    return {
        "license": "other" if licence else "unknown",
        "license_name": licence,
        "library_name": "lepton-fl",
        "tags": ["federated-learning", *(["differential-privacy"] if facts["privacy.epsilon"]["value"] else [])],
        "model_sha256": document["model_sha256"],
        "model-index": [{
            "name": visible(document["title"], 120),
            "results": [{
                "task": {"type": "tabular-classification"},
                "dataset": {"name": "pooled hold-out of the institutions", "type": "private"},
                "metrics": results,
            }],
        }],
    }  # fmt: skip


def _line(fact: Plain) -> str:
    return f"- **{_safe(fact['name'])}**: {_shown(fact)}"


def _shown(figure: Plain) -> str:
    if figure["value"] is None:
        return f"{figure['status']} ({_safe(figure['why'])})" if figure["why"] else str(figure["status"])
    text = _safe(figure["value"]) + (f" {figure['unit']}" if figure["unit"] else "")
    text += f" ({figure['ci'][0]} – {figure['ci'][1]})" if figure["ci"] else ""
    return text if figure["status"] == SHOWN else f"{text}, {figure['status']}"


def _table(table: Plain) -> list[str]:
    heads = [*table["heads"], *table["columns"]]
    lines = [f"### {table['title']}", ""]
    if table["rows"]:
        lines += [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
        for row in table["rows"]:
            lines.append(f"| {' | '.join([*map(_safe, row['labels']), *map(_shown, row['figures'])])} |")
        lines.append("")
    return [*lines, table["note"], ""] if table["note"] else lines


def _safe(text: object) -> str:
    """The text in one line, with every mark of Markdown and HTML escaped."""
    return _MARKS.sub(r"\\\1", " ".join(visible(text, 2000).split()))
