"""Each round of a run is paid once: the institution's own stop, whatever an operator asks.

The noise is calibrated for a number of rounds. An institution therefore counts for itself: before a record is
read, the round is noted as spent; a round that was noted, or lies past the plan, is refused.
"""

from __future__ import annotations

from typing import Protocol

from lepton_fl.errors import BudgetSpent


class RoundsSpent(Protocol):
    """Remembers the last round that an institution began."""

    def last(self, institution: str) -> int:
        """The last round begun; 0 before the first."""

    def note(self, institution: str, round: int) -> None:
        """Remember durably, before the round's first record is read."""


class InMemory:
    """For a simulation: one process, one run."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def last(self, institution: str) -> int:
        """See `RoundsSpent.last`."""
        return self._last.get(institution, 0)

    def note(self, institution: str, round: int) -> None:
        """See `RoundsSpent.note`."""
        self._last[institution] = round


def begin_round(spent: RoundsSpent, institution: str, round: int, planned: int) -> None:
    """Note the round as spent.

    Raises:
        BudgetSpent: the round was begun before, or lies past the planned number; nothing is released.
    """
    last = spent.last(institution)
    if round <= last:
        raise BudgetSpent(
            f"round {round} was begun before (the last is {last}); its cost is spent; nothing was released"
        )
    if round > planned:
        raise BudgetSpent(
            f"round {round} is past the {planned} rounds that the noise was made for; nothing was released"
        )
    spent.note(institution, round)
