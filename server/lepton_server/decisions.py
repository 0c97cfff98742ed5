"""What was decided in the steps of a masked round: files, the first word of each standing.

A server that is killed in the middle of a round asks the same questions again, finds the answers that it had on disk,
and must come to the same roster and the same survivors; institutions answer for no second ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lepton_fl.files import replace_file
from lepton_server.database import StoreError


class Decisions:
    """A folder of decisions of one run; they go with the run's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def decide(self, name: str, propose: Callable[[], bytes]) -> bytes:
        """See `lepton_fl.federation.secure_grid.Decide`.

        Raises:
            StoreError: the disk is full; nothing that depends on the decision was sent.
        """
        path = self._folder / name
        try:
            if path.exists():
                return path.read_bytes()
            decided = propose()
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(path, decided)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self._folder}: {error.strerror}; the round goes on where it is; make room, then run "
                "the same command again"
            ) from error
        return decided

    def clear(self) -> None:
        """The round is committed, and will never be asked for again."""
        for path in self._folder.glob("*"):
            path.unlink()
