"""Which rounds of a run this institution unmasked: each once for ever, whatever a server asks after a restart."""

from __future__ import annotations

import os
from pathlib import Path

from lepton_fl.files import SECRET, sync_folder
from lepton_fl.secure_aggregation.refusals import Aborted


class AnsweredRounds:
    """See `lepton_fl.secure_aggregation.member.Answered`: a file with a line for each round."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def mark(self, run_id: int, purpose: str, round: int) -> None:
        """See `Answered.mark`."""
        line = f"{run_id} {purpose} {round}\n"
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A line that a crash cut short stands for a round that was not answered; the next one begins behind it.
        known = self._path.read_text() if self._path.exists() else ""
        if line in known.splitlines(keepends=True):
            raise Aborted("second unmask")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, SECRET)
        try:
            os.write(descriptor, (line if known.endswith("\n") or not known else f"\n{line}").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self._path.parent)
