"""The output folder: rounds as they happen, the rest at the end, each file whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from lepton_fl.errors import ConfigError
from lepton_fl.federation.arrays import Template, checked
from lepton_fl.federation.rounds import RoundReport
from lepton_fl.flower import ArrayRecord
from lepton_fl.results.curve import draw
from lepton_fl.results.outcome import Claim, Outcome, report_as_json


class Folder:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            # A run that stops half-way must not be mistaken for the one that was here before.
            for name in ("result.json", "rounds.jsonl", "model.safetensors", "learning_curve.png"):
                (path / name).unlink(missing_ok=True)
            (path / "rounds.jsonl").touch()
        except OSError as error:
            raise ConfigError(
                f"cannot write to {path}: {error.strerror}; nothing was trained; choose output=DIR"
            ) from error

    def add_round(self, report: RoundReport, claim: Claim) -> None:
        """Append one line to `rounds.jsonl`; it is on disk before the next round begins."""
        with (self.path / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(report_as_json(report, claim)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def add_model(self, arrays: ArrayRecord, template: Template, claim: Claim) -> str:
        """Write `model.safetensors`; returns its SHA-256, equal for equal models."""
        from safetensors.numpy import save

        blob = save(checked(arrays, template), metadata={"privacy": claim.why_not or "private"})
        self._replace("model.safetensors", blob)
        return hashlib.sha256(blob).hexdigest()

    def finish(self, outcome: Outcome) -> None:
        """Write the picture and, last, `result.json`: where it stands, everything else does."""
        self._replace("learning_curve.png", draw(outcome))
        self._replace("result.json", (json.dumps(outcome.as_json(), indent=2) + "\n").encode())

    def _replace(self, name: str, content: bytes) -> None:
        partial = self.path / f".{name}.partial"
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path / name)
