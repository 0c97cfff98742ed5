"""The report as one static page: from the bytes of `report.json` alone, without script or outside address.

The one style block is allowed by its hash, and nothing else is allowed at all: whatever a name smuggled in could
neither run nor load anything. Every value is escaped by the template engine.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lepton_fl.evidence import charts
from lepton_fl.evidence.report import from_bytes
from lepton_fl.evidence.shown import Plain
from lepton_fl.evidence.sources import CannotReport
from lepton_fl.evidence.words import visible

LARGEST = 300_000  # bytes of a page
_FOLDER = Path(__file__).parent / "templates"
_HEADLINES = ("verdict.accuracy", "verdict.gap", "verdict.epsilon", "verdict.energy")


def page(content: bytes) -> bytes:
    """The HTML of these canonical bytes.

    Raises:
        ValueError: they are no report.
        CannotReport: the page would be too large to be read, sent or printed.
    """
    document = from_bytes(content)
    facts = _verdict(document)
    style = (_FOLDER / "report.css").read_text()
    html = _environment().get_template("report.html").render(
        report=document,
        sha256=hashlib.sha256(content).hexdigest(),
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        headlines=[facts[name] for name in _HEADLINES],
        release=facts["verdict.release"],
    )  # fmt: skip
    written = html.encode()
    if len(written) > LARGEST:
        raise CannotReport(
            f"the page would have {len(written)} bytes, and {LARGEST} is the most; nothing was written; the public "
            "edition has no rows of institutions, and report.json may be as long as it needs"
        )
    return written


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "visible": visible,
        "moment": _moment,
        "origin": origin_of,
        "origins": _origins,
        "reasons": _reasons,
    }
    made.globals |= {"draw": charts.draw, "mini": charts.mini}
    return made


def _verdict(document: Plain) -> dict[str, Plain]:
    """The statements of the first section by their ids."""
    return {fact["id"]: fact for block in document["sections"][0]["blocks"] for fact in block.get("facts", ())}


def _moment(text: str) -> str:
    """A time as people write it."""
    return visible(text, 40).replace("T", " ").replace("+00:00", " UTC")


def _figures(table: Plain) -> list[Plain]:
    return [figure for row in table["rows"] for figure in row["figures"]]


def _origins(table: Plain) -> list[str]:
    """Where the figures of a table come from, each origin once: file, epsilon, entry of the log."""
    return [*dict.fromkeys(origin_of(figure) for figure in _figures(table) if figure["source"])]


def _reasons(table: Plain) -> list[tuple[str, str]]:
    """Why figures are missing or unsure, each reason once."""
    found: Sequence[tuple[str, str]] = [
        (figure["status"], figure["why"]) for figure in _figures(table) if figure["why"]
    ]
    return [*dict.fromkeys(found)]


def origin_of(figure: Plain) -> str:
    """The origin of a figure in one line."""
    parts = [figure["source"]]
    if figure["epsilon_spent"] is not None:
        parts.append(f"ε\u00a0{figure['epsilon_spent']}")
    if figure["log_index"] is not None:
        parts.append(f"log\u00a0{figure['log_index']}")
    return " · ".join(part for part in parts if part)
