"""A voice for tests that look at files and models, not at lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from lepton_fl.federation.journal import RoundReport
from lepton_fl.results.outcome import Facts, Outcome


class Quiet:
    """Says nothing."""

    facts: Facts | None = None

    def __init__(self) -> None:
        self.reports: list[RoundReport] = []

    def noticed(self, warnings: Iterable[object]) -> None:
        """See `Voice`."""

    def started(self, facts: Facts) -> None:
        """See `Voice`."""

    def continued(self, reports: Sequence[RoundReport]) -> None:
        """See `Voice`."""

    def progress(self, rounds: int, done: int) -> AbstractContextManager[None]:
        """See `Voice`."""
        return nullcontext()

    def round_done(self, report: RoundReport) -> None:
        """See `Voice`."""

    def finished(self, outcome: Outcome, folder: str) -> None:
        """See `Voice`."""
