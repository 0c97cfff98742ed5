"""What a run says while it works: one line a round with fixed columns, or one JSON object a line.

Results go to stdout, everything else to stderr. A progress bar shows on a terminal only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from lepton_fl.federation.journal import RoundReport
from lepton_fl.results.lines import closing, opening, round_line
from lepton_fl.results.outcome import (
    Facts,
    Outcome,
    privacy_as_json,
    report_as_json,
)


class Voice(Protocol):
    """Says what happens, as it happens, and remembers it for those who ask."""

    facts: Facts | None  # None before the run begins
    reports: list[RoundReport]

    def computing_on(self, device: str) -> None:
        """Which device was taken, where that was left open."""

    def noticed(self, warnings: Iterable[object]) -> None:
        """Something in the data was mended."""

    def started(self, facts: Facts) -> None:
        """Before the first round."""

    def continued(self, reports: Sequence[RoundReport]) -> None:
        """An interrupted run goes on after these rounds."""

    def progress(self, rounds: int, done: int) -> AbstractContextManager[None]:
        """Show how far the run is, while it runs."""

    def round_done(self, report: RoundReport) -> None:
        """After each round."""

    def finished(self, outcome: Outcome, folder: str) -> None:
        """After the last round, files written."""


class JsonVoice:
    """`log=json`: one object a line on stdout, for machines."""

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self.reports: list[RoundReport] = []

    def computing_on(self, device: str) -> None:
        """See `Voice`."""
        self._say({"event": "device", "device": device})

    def noticed(self, warnings: Iterable[object]) -> None:
        """See `Voice`."""
        for warning in warnings:
            self._say({"event": "warning", "message": str(warning)})

    def started(self, facts: Facts) -> None:
        """See `Voice`."""
        self.facts = facts
        self._say(
            {
                "event": "started",
                "task": facts.task,
                "model": facts.model,
                "strategy": facts.strategy,
                "rounds": facts.rounds,
                "institutions": list(facts.institutions),
                "warnings": list(facts.warnings),
                **privacy_as_json(facts.claim, None),
            }
        )

    def continued(self, reports: Sequence[RoundReport]) -> None:
        """See `Voice`."""
        self.reports += reports
        self._say({"event": "continued", "rounds": len(reports)})

    def progress(self, rounds: int, done: int) -> AbstractContextManager[None]:
        """See `Voice`; a machine counts the events."""
        return nullcontext()

    def round_done(self, report: RoundReport) -> None:
        """See `Voice`."""
        assert self.facts is not None  # noqa: S101 - `started` comes first
        self.reports.append(report)
        self._say({"event": "round", **report_as_json(report, self.facts.claim)})

    def finished(self, outcome: Outcome, folder: str) -> None:
        """See `Voice`."""
        self._say({"event": "finished", "output": folder, **outcome.as_json()})

    @staticmethod
    def _say(event: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


class PlainVoice:
    """`log=text`: lines for people; a bar below them while a terminal watches."""

    def __init__(self) -> None:
        self.facts: Facts | None = None
        self.reports: list[RoundReport] = []
        self._write = _write_line
        self._advance = _nothing

    def computing_on(self, device: str) -> None:
        """See `Voice`."""
        sys.stderr.write(f"device      {device}\n")

    def noticed(self, warnings: Iterable[object]) -> None:
        """See `Voice`."""
        for warning in warnings:
            sys.stderr.write(f"warning: {warning}\n")

    def started(self, facts: Facts) -> None:
        """See `Voice`."""
        self.facts = facts
        for line in opening(facts):
            self._write(line)

    def continued(self, reports: Sequence[RoundReport]) -> None:
        """See `Voice`."""
        self.reports += reports
        self._write(f"continued   after round {len(reports)}; nothing of what was done is done again")

    def round_done(self, report: RoundReport) -> None:
        """See `Voice`."""
        assert self.facts is not None  # noqa: S101 - `started` comes first
        self.reports.append(report)
        is_idle = report.skipped is not None and len(self.reports) > 1 and self.reports[-2].skipped == report.skipped
        if not is_idle or report.metrics is not None:
            self._write(round_line(report, self.facts))
        for institution, reason in report.refused.items():
            self._write(f"  {institution} left out: {reason}")
        # What an institution does not count it rarely counts later: said when it changes.
        before = self.reports[-2].not_evaluated if len(self.reports) > 1 else {}
        for institution, reason in report.not_evaluated.items():
            if before.get(institution) != reason:
                self._write(f"  {institution} counts no hold-out: {reason}")
        if report.skipped and not is_idle:
            self._write(f"  round {report.round} skipped, the model stays: {report.skipped}")
        self._advance()

    def finished(self, outcome: Outcome, folder: str) -> None:
        """See `Voice`."""
        for line in closing(outcome, folder):
            self._write(line)

    @contextmanager
    def progress(self, rounds: int, done: int) -> Iterator[None]:
        """Show a bar while rounds run, if stdout is a terminal; lines are printed above it."""
        if not sys.stdout.isatty():
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            job = bar.add_task("rounds", total=rounds, completed=done)
            self._write = lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._advance = lambda: bar.advance(job)
            try:
                yield
            finally:
                self._write, self._advance = _write_line, _nothing


VOICES: dict[str, type[PlainVoice] | type[JsonVoice]] = {"text": PlainVoice, "json": JsonVoice}
"""What `log=` takes."""


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _nothing() -> None:
    """Without a terminal there is no bar to move."""
