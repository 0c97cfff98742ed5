"""The output folder: rounds as they happen, the rest at the end, each file whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lepton_fl.energy.lines import NAME as ENERGY
from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.evaluation.gates import HELD_MODEL, MODEL
from lepton_fl.evaluation.gates import NAME as GATES
from lepton_fl.federation.arrays import Template, checked
from lepton_fl.federation.journal import RoundReport
from lepton_fl.files import replace_file
from lepton_fl.flower import ArrayRecord
from lepton_fl.results.curve import draw
from lepton_fl.results.evaluated import evaluation_as_json, explanation_as_json
from lepton_fl.results.outcome import Claim, Outcome, report_as_json


class CannotWrite(LeptonError):
    """The results cannot be written, most often because the disk is full."""

    exit_code = 9


class Folder:
    """One run's files; every method raises `CannotWrite` where the disk does not take them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "rounds.jsonl").touch()
        except OSError as error:
            raise ConfigError(
                f"cannot write to {path}: {error.strerror}; nothing was trained; choose output=DIR"
            ) from error

    def begin(self, reports: Sequence[RoundReport], claim: Claim) -> None:
        """The folder holds these rounds and nothing older.

        A run that stops half-way must not be mistaken for the one that was here before; one that goes on after a
        crash has each of its rounds here once.
        """
        for name in (
            "result.json",
            "evaluation.json",
            "thresholds.json",
            "explanation.json",
            "learning_curve.png",
            GATES,
            *(() if reports else (MODEL, HELD_MODEL, ENERGY)),
        ):
            (self.path / name).unlink(missing_ok=True)
        self._replace("rounds.jsonl", "".join(_line(report, claim) for report in reports).encode())

    def add_round(self, report: RoundReport, claim: Claim) -> None:
        """Append one line to `rounds.jsonl`; it is on disk before the next round begins."""
        with self._guarded(), (self.path / "rounds.jsonl").open("a") as file:
            file.write(_line(report, claim))
            file.flush()
            os.fsync(file.fileno())

    def add_model(self, arrays: ArrayRecord, template: Template, claim: Claim, *, is_gated: bool = False) -> str:
        """Write `model.safetensors`; returns its SHA-256, equal for equal models.

        Args:
            is_gated: it has gates to pass yet, and lies in `held/` until it did.
        """
        from safetensors.numpy import save

        blob = save(checked(arrays, template), metadata={"privacy": claim.why_not or "private"})
        if is_gated:
            with self._guarded():
                (self.path / HELD_MODEL).parent.mkdir(exist_ok=True)
        self._replace(HELD_MODEL if is_gated else MODEL, blob)
        return hashlib.sha256(blob).hexdigest()

    def add_file(self, name: str, content: bytes) -> None:
        """Write a file that goes with the results, say the contract."""
        self._replace(name, content)

    def finish(self, outcome: Outcome) -> None:
        """Write the picture and, last, `result.json`: where it stands, everything else does."""
        self._replace("learning_curve.png", draw(outcome))
        evaluation = evaluation_as_json(outcome)
        for name, document in (("evaluation.json", evaluation), ("explanation.json", explanation_as_json(outcome))):
            if document is not None:
                self._replace(name, (json.dumps(document, indent=2) + "\n").encode())
        self._replace("result.json", (json.dumps(outcome.as_json(), indent=2) + "\n").encode())

    def _replace(self, name: str, content: bytes) -> None:
        with self._guarded():
            replace_file(self.path / name, content)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(
                f"cannot write to {self.path}: {error.strerror}; the files there are whole, those of the rounds before "
                "included; make room, then run the same command again"
            ) from error


def _line(report: RoundReport, claim: Claim) -> str:
    return json.dumps(report_as_json(report, claim)) + "\n"
