"""What a run left in its folder, read for a report: every file whole, plain values only, absent ones None."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lepton_fl.errors import LeptonError
from lepton_fl.evidence import log_bundle, model_facts
from lepton_fl.evidence.shown import Origin, Plain

MODEL, HELD = "model.safetensors", "held"
_LARGEST = 1 << 28  # bytes of a file of facts; of the model, nothing is limited


class CannotReport(LeptonError):
    """There is no report to be made of this folder, or not the one that was asked for."""

    exit_code = 2


@dataclass(frozen=True)
class Logged:
    """The log as it stood when it was exported, and which of its entries are about this run."""

    entries: Sequence[Plain]  # each with `at`, `kind` and `fields`
    head: str  # the signed note
    run: str | None  # the run's number; None: no contract says it

    def of(self, kind: str, **wanted: object) -> list[tuple[int, Plain]]:
        """The entries of this kind that are about this run, or about none, and whose fields are as wanted."""
        return [
            (index, entry["fields"])
            for index, entry in enumerate(self.entries)
            if entry["kind"] == kind
            and entry["fields"].get("run", self.run) == self.run
            and all(entry["fields"].get(name) == wanted[name] for name in wanted)
        ]


@dataclass(frozen=True)
class Sources:
    """Everything that a report is made from."""

    result: Plain  # result.json
    rounds: Sequence[Plain]  # rounds.jsonl
    model: bytes | None  # model.safetensors
    evaluation: Plain | None
    energy: Sequence[Plain] | None
    gates: Plain | None
    contract: Plain | None
    explanation: Plain | None
    feedback: Sequence[Plain] | None
    log: Logged | None
    facts: Mapping[str, str]  # of people; see `model_facts`

    @property
    def terms(self) -> Plain:
        """The terms that everyone signed; empty where there was no contract."""
        terms = (self.contract or {}).get("terms")
        return terms if isinstance(terms, dict) else {}

    @property
    def epsilon(self) -> float | None:
        """Of training, as the result has it; None where nothing private was trained."""
        value = self.result.get("epsilon")
        return None if value is None else float(value)

    def logged(self, kind: str, **wanted: object) -> int | None:
        """The last such entry of the log; None where there is none, or no log."""
        found = [] if self.log is None else self.log.of(kind, **wanted)
        return found[-1][0] if found else None

    def from_run(self, file: str = "result.json") -> Origin:
        """The origin of what the run itself wrote down."""
        return Origin(file, None, self.logged("run-ended"))


def read(folder: Path, run: str | None = None) -> Sources:
    """The files of a run's folder.

    Args:
        run: its number in the log; None: as its contract has it.

    Raises:
        CannotReport: no run ended here, or a file is damaged.
    """
    result = _document(folder / "result.json")
    if result is None:
        raise CannotReport(
            f"{folder} has no result.json, so no run ended there; nothing was written; give the run's --folder"
        )
    # A model that a gate holds back is kept, and reported on.
    model = next((one for one in (folder / MODEL, folder / HELD / MODEL) if one.exists()), None)
    feedback, contract = _document(folder / "feedback.json"), _document(folder / "contract.json")
    return Sources(
        result=result,
        rounds=_lines(folder / "rounds.jsonl") or (),
        model=None if model is None else model.read_bytes(),
        evaluation=_document(folder / "evaluation.json"),
        energy=_lines(folder / "energy.jsonl"),
        gates=_document(folder / "gates.json"),
        contract=contract,
        explanation=_document(folder / "explanation.json"),
        feedback=None if feedback is None else feedback.get("feedback", ()),
        log=_log(folder / "log.json", run or (contract or {}).get("run_id")),
        facts=model_facts.read(folder / model_facts.NAME),
    )


def _log(path: Path, run: object) -> Logged | None:
    content = _content(path)
    if content is None:
        return None
    try:
        bundle = log_bundle.read(content)
        entries = [json.loads(entry) for entry in bundle.entries]
        if not all(isinstance(one, dict) and isinstance(one.get("fields"), dict) and "kind" in one for one in entries):
            raise ValueError("other entries")
    except (LeptonError, ValueError) as error:
        raise _damaged(path, "it is no log") from error
    return Logged(tuple(entries), bundle.checkpoint.decode(), None if run is None else str(run))


def _document(path: Path) -> Plain | None:
    content = _content(path)
    if content is None:
        return None
    document = _parsed(content, path)
    if not isinstance(document, dict):
        raise _damaged(path, "it is not an object")
    return document


def _lines(path: Path) -> list[Plain] | None:
    content = _content(path)
    if content is None:
        return None
    lines = [_parsed(line, path) for line in content.split(b"\n") if line.strip()]
    if not all(isinstance(line, dict) for line in lines):
        raise _damaged(path, "a line is not an object")
    return lines


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    if len(content) > _LARGEST:
        raise _damaged(path, f"it has more than {_LARGEST} bytes")
    return content


def _parsed(content: bytes, path: Path) -> Any:
    try:
        return _clean(json.loads(content, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _clean(document: Any) -> Any:
    """The same with U+FFFD for halves of characters, which no text can hold."""
    if isinstance(document, str):
        return document.encode("utf-8", "replace").decode() if not document.isascii() else document
    if isinstance(document, list):
        return [_clean(one) for one in document]
    if isinstance(document, dict):
        return {_clean(name): _clean(one) for name, one in document.items()}
    return document


def _damaged(path: Path, why: str) -> CannotReport:
    return CannotReport(f"cannot read {path}: {why}; nothing was written; restore the file, or run again")
