"""Whether a report, its page, its card and its model are those that were signed; if not, where they differ.

Works offline and trusts nothing that it is given but the key. Every finding names the file and the place in it: a JSON
pointer, a byte, a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lepton_fl.errors import LeptonError
from lepton_fl.evidence import canonical, log_bundle, report_card, report_page, report_signature
from lepton_fl.evidence.chapters_model import tensors
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.evidence.report import from_bytes
from lepton_fl.evidence.report_signature import Signed, parts, sha256
from lepton_fl.evidence.shown import Plain
from lepton_fl.evidence.sources import HELD, MODEL, CannotReport

REPORT, SIGNATURE, PAGE, CARD = "report.json", "report.json.sig", "report.html", "model_card.md"
LOG = "log.json"
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)  # of what was changed
_NAMED = 3  # changed parts that are listed


@dataclass(frozen=True)
class Files:
    """What is to be checked; None: it is not there, and not missed."""

    report: bytes
    signature: bytes
    page: bytes | None = None
    card: bytes | None = None
    model: bytes | None = None
    log: bytes | None = None  # a bundle; its own proofs are the log's to verify

    @property
    def beside(self) -> list[str]:
        """The files that were there besides the report and its signature."""
        some = ((PAGE, self.page), (CARD, self.card), (MODEL, self.model))
        return [name for name, content in some if content is not None]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was signed."""

    file: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.what}"


def read(report: Path, log: bytes | None) -> Files:
    """The report's file and what lies beside it; the model may also lie one folder up, as for the public edition, or be
    held back by a gate.

    Raises:
        OSError: the report or its signature cannot be read.
    """
    here = report.absolute().parent
    places = (here / MODEL, here / HELD / MODEL, here.parent / MODEL, here.parent / HELD / MODEL)
    model = next((content for content in map(_content, places) if content is not None), None)
    signature = report.with_name(report.name + ".sig").read_bytes()
    return Files(report.read_bytes(), signature, _content(here / PAGE), _content(here / CARD), model, log)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def check_with(files: Files, entries: Sequence[Entry]) -> list[Finding]:
    """As `check`, with the key that signed the log where the report was entered.

    Args:
        entries: of a log that was verified; a report that is not in it is signed with its last key, or with none.
    """
    wanted = sha256(files.report)
    keys = [Ed25519PublicKey.from_public_bytes(bytes.fromhex(one.fields["key"])) for one in _until(entries, wanted)]
    if not keys:
        return [Finding(LOG, "entry 0", "no key signs this log")]
    return check(files, keys[-1])


def _until(entries: Sequence[Entry], sha256: str) -> Iterator[Entry]:
    for entry in entries:
        if entry.kind == "log-key":
            yield entry
        elif entry.kind == "report" and entry.fields["sha256"] == sha256:
            return


def check(files: Files, key: Ed25519PublicKey) -> list[Finding]:
    """What is not as the holder of `key` signed it; nothing: all of it is."""
    try:
        signed = report_signature.read(files.signature)
    except _UNREADABLE as error:
        return [Finding(SIGNATURE, _byte_of(error), "it is no signature of a report, or was changed")]
    if not report_signature.is_by(signed, key):
        return [Finding(SIGNATURE, _differing(signed, files), "the signature is not by this key over this statement")]
    return [finding for found in (_report, _page, _card, _model, _log) for finding in found(files, signed)]


def _report(files: Files, signed: Signed) -> Iterator[Finding]:
    if sha256(files.report) == signed.statement["report_sha256"]:
        return
    try:
        document = json.loads(files.report)
        changed = _changed(document, signed)
        if not changed:
            changed = [f"byte {_first_difference(files.report, canonical.to_bytes(document))}"]
    except _UNREADABLE as error:
        changed = [_byte_of(error)]
    more = "" if len(changed) <= _NAMED else f" and {len(changed) - _NAMED} more"
    yield Finding(REPORT, ", ".join(changed[:_NAMED]) + more, "it is not what was signed")


def _changed(document: Plain, signed: Signed) -> list[str]:
    was, now = signed.statement["parts"], dict(parts(document))
    return [
        f"{place}{_named(document, place)}" for place in [*now, *(one for one in was if one not in now)]
        if was.get(place) != now.get(place)
    ]  # fmt: skip


def _named(document: Plain, place: str) -> str:
    """The id of the part, if it has one: people know it by that."""
    part: object = document
    for step in place.split("/")[1:]:
        part = part[int(step)] if isinstance(part, list) and int(step) < len(part) else _get(part, step)
    name = _get(part, "id")
    return f" ({name[:60]})" if isinstance(name, str) else ""


def _get(part: object, name: str) -> object:
    return part.get(name) if isinstance(part, dict) else None


def _page(files: Files, signed: Signed) -> Iterator[Finding]:
    yield from _rendered(PAGE, files.page, signed.statement["page_sha256"], _drawn(files, signed, report_page.page))


def _card(files: Files, signed: Signed) -> Iterator[Finding]:
    yield from _rendered(CARD, files.card, signed.statement["card_sha256"], _drawn(files, signed, report_card.card))


def _drawn(files: Files, signed: Signed, draw: Callable[[bytes], bytes]) -> bytes | None:
    """What the report is drawn as; None where it was changed, or another version drew it."""
    if sha256(files.report) != signed.statement["report_sha256"]:
        return None
    try:
        is_ours = from_bytes(files.report)["version"] == version("lepton-fl")
        return draw(files.report) if is_ours else None
    except (*_UNREADABLE, CannotReport):
        return None


def _rendered(name: str, content: bytes | None, signed: object, drawn: bytes | None) -> Iterator[Finding]:
    if content is None:
        return
    if sha256(content) != signed:
        place = "whole file" if drawn is None else f"byte {_first_difference(content, drawn)}"
        yield Finding(name, place, "it is not what was signed")
    elif drawn is not None and drawn != content:
        place = f"byte {_first_difference(content, drawn)}"
        yield Finding(name, place, f"it was signed, but {REPORT} says something else")


def _model(files: Files, signed: Signed) -> Iterator[Finding]:
    if files.model is None or sha256(files.model) == signed.statement["model_sha256"]:
        return
    listed = {}
    try:
        document = from_bytes(files.report)
        for block in (block for section in document["sections"] for block in section["blocks"]):
            if block.get("id") == "tensors":
                listed = {row["labels"][0]: row["labels"][1:] for row in block["rows"]}
        now = {name: [shape, digest] for name, shape, digest in tensors(files.model)}
        changed = [name for name in [*now, *listed] if now.get(name) != listed.get(name)]
        place = f"tensor {changed[0][:60]}" if changed and listed else "header"
    except _UNREADABLE:
        place = "header"
    yield Finding(MODEL, place, "it is not the model that the report is about")


def _log(files: Files, signed: Signed) -> Iterator[Finding]:
    if files.log is None or signed.statement["edition"] == "site":
        return
    try:
        entries = [json.loads(entry) for entry in log_bundle.read(files.log).entries]
    except (LeptonError, *_UNREADABLE) as error:
        yield Finding(LOG, _byte_of(error), "it is no log")
        return
    wanted = signed.statement["report_sha256"]
    if not any(one["kind"] == "report" and one["fields"].get("sha256") == wanted for one in entries):
        yield Finding(LOG, f"entries 0 to {len(entries) - 1}", "none of them is of this report")


def _differing(signed: Signed, files: Files) -> str:
    """Where the statement says otherwise than the report beside it; the signature itself, if nowhere."""
    if signed.statement.get("report_sha256") != sha256(files.report):
        return "/statement/report_sha256"
    try:
        document = from_bytes(files.report)
    except _UNREADABLE:
        return "/statement"
    changed = _changed(document, signed)
    if changed:
        return f"/statement/parts, {changed[0]}"
    for name, content in (("page_sha256", files.page), ("card_sha256", files.card), ("model_sha256", files.model)):
        if content is not None and signed.statement.get(name) != sha256(content):
            return f"/statement/{name}"
    return "/signature or /public_key"


def _first_difference(one: bytes, other: bytes) -> int:
    """The first byte in which they differ, from 0; the length of the shorter one if it is the other's beginning."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _byte_of(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"byte {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start}"
    return "whole file"
