"""The institution's own count of rounds, on disk: what was begun, for which instruction, and whether it was answered.

The promise counts releases, and a release is an answer. Before the first record is read the round is noted as begun;
before the first byte of its answer leaves, as answered. A crash between the two released nothing, so the *same*
instruction may be carried out again; every other repeat of a round is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lepton_fl.errors import BudgetSpent
from lepton_fl.files import write_secret


@dataclass(frozen=True)
class Begun:
    """The last round that was begun."""

    round: int
    instruction: str
    is_answered: bool


class OnDisk:
    """See `lepton_fl.privacy.rounds_spent.RoundsSpent`: the rounds of one run at one institution."""

    def __init__(self, folder: Path, run_id: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / str(run_id)
        self._instruction = ""

    def carry_out(self, instruction: str) -> None:
        """The instruction that the next round belongs to."""
        self._instruction = instruction

    def last(self, institution: str) -> int:
        """See `RoundsSpent.last`; a round that this very instruction began and nobody answered is not over.

        Raises:
            BudgetSpent: the file is damaged, so what was spent is unknown.
        """
        last = begun(self._path)
        if last is None:
            return 0
        is_again = last.instruction == self._instruction and not last.is_answered
        return last.round - 1 if is_again else last.round

    def note(self, institution: str, round: int) -> None:
        """See `RoundsSpent.note`."""
        self._write(Begun(round, self._instruction, is_answered=False))

    def answered(self, instruction: str) -> None:
        """The answer to this instruction is complete and about to leave: from now on its round is never repeated."""
        last = begun(self._path)
        if last is not None and last.instruction == instruction and not last.is_answered:
            self._write(Begun(last.round, instruction, is_answered=True))

    def _write(self, round: Begun) -> None:
        write_secret(self._path, json.dumps(asdict(round)).encode())


def begun(path: Path) -> Begun | None:
    """The last round that was begun, as this run's file says; None before the first.

    Raises:
        BudgetSpent: the file is damaged, so what was spent is unknown.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return Begun(int(content["round"]), str(content["instruction"]), content["is_answered"] is not False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BudgetSpent(f"{path} is damaged, so what was spent is unknown; nothing was released") from error
