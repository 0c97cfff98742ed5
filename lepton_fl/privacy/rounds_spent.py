"""Each round of a run is paid once: the institution's own stop, whatever an operator asks.

The noise is calibrated for a number of rounds. An institution therefore counts for itself: before a record is
read, the round is noted as spent; a round that was noted, or lies past the plan, is refused.
"""

from __future__ import annotations

from typing import Protocol

from lepton_fl.errors import BudgetSpent


class RoundsSpent(Protocol):
    """Remembers which rounds an institution began."""

    def begin(self, institution: str, round: int, planned: int, of: str = "") -> None:
        """The round is noted as spent, durably, before its first record is read.

        Args:
            of: what is counted; empty: the rounds of training.

        Raises:
            BudgetSpent: the round was begun before, or lies past the planned number; nothing is released.
        """


class InMemory:
    """For a simulation: one process, one run."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}

    def begin(self, institution: str, round: int, planned: int, of: str = "") -> None:
        """See `RoundsSpent.begin`."""
        refuse_unplanned(round, self._last.get((institution, of), 0), planned)
        self._last[institution, of] = round


def refuse_unplanned(round: int, last: int, planned: int) -> None:
    """Raise `BudgetSpent` if the round is not after the last one begun, or past the plan."""
    if round <= last:
        raise BudgetSpent(
            f"round {round} was begun before (the last is {last}); its cost is spent; nothing was released"
        )
    if round > planned:
        raise BudgetSpent(
            f"round {round} is past the {planned} rounds that the noise was made for; nothing was released"
        )
