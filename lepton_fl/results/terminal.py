"""What a run says while it works: one line a round with fixed columns, or one JSON object a line.

Results go to stdout, everything else to stderr. A progress bar shows on a terminal only.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from lepton_fl.evaluation.metrics import Metrics
from lepton_fl.federation.journal import RoundReport
from lepton_fl.results.outcome import Claim, Facts, Outcome, Sharing, privacy_as_json, report_as_json
from lepton_fl.secure_aggregation.cohort import most_corrupt, threshold
from lepton_fl.show import counted_institutions


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
        self._write(round_line(report, self.facts))
        for institution, reason in report.refused.items():
            self._write(f"  {institution} left out: {reason}")
        # What an institution does not count it rarely counts later: said when it changes.
        before = self.reports[-2].not_evaluated if len(self.reports) > 1 else {}
        for institution, reason in report.not_evaluated.items():
            if before.get(institution) != reason:
                self._write(f"  {institution} counts no hold-out: {reason}")
        if report.skipped:
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


def opening(facts: Facts) -> list[str]:
    """The lines before the first round: who trains what, and what is promised."""
    claim = facts.claim
    lines = [
        f"federation  {facts.title}: {counted_institutions(len(facts.institutions))}, {facts.model} "
        f"({facts.parameters:,} parameters), {facts.strategy}"
    ]
    if claim.epsilon_budget is not None:
        lines.append(
            f"privacy     per {claim.unit} ({claim.neighbouring_relation}), epsilon {claim.epsilon_budget:.2f} at "
            f"delta {claim.delta:g}, clipping norm {claim.clipping_norm:g}, noise multiplier "
            f"{claim.noise_multiplier:.2f}, {_who_adds(claim)}"
        )
    if claim.sharing is not None:
        lines.append(
            f"            against an operator who takes an institution's masks off: {_of_a_share(claim.sharing)}"
        )
    lines += [f"warning     {warning}" for warning in facts.warnings]
    lines.append(_aggregation(facts))
    counts = "counts of the hold-out under masks" if facts.is_summed else "exact counts of the hold-out"
    lines.append(f"evaluation  {counts}, which is never trained on; no epsilon covers them")
    if claim.why_not:
        lines.append(f"NOT PRIVATE {claim.why_not}")
    return lines


def _aggregation(facts: Facts) -> str:
    count = len(facts.institutions)
    if not facts.is_summed:
        return "aggregation NOT SECURE: the operator sees each institution's update"
    return (
        f"aggregation secure: the operator sees sums alone; {threshold(count)} of {count} must answer, "
        f"{most_corrupt(count)} may side with the operator"
    )


def _of_a_share(sharing: Sharing) -> str:
    if sharing.epsilon_of_a_share == math.inf:
        return "no bound"
    return f"epsilon {sharing.epsilon_of_a_share:.2f}"


def _who_adds(claim: Claim) -> str:
    if claim.sharing is not None:
        return f"shared: any {claim.sharing.honest} honest institutions carry all of it"
    return "added by the operator" if claim.unit == "institution" else "each institution adds all of it"


def round_line(report: RoundReport, facts: Facts) -> str:
    """One round in fixed columns."""
    width, people = len(str(facts.rounds)), len(str(len(facts.institutions)))
    return "  ".join(
        [
            f"round {report.round:>{width}}/{facts.rounds}",
            f"cohort {len(report.cohort):>{people}}",
            f"replied {len(report.replied):>{people}}",
            *figures(report.metrics),
            spent(report.epsilon, facts.claim),
            f"{report.seconds:6.1f} s",
        ]
    )


def figures(metrics: Metrics | None) -> list[str]:
    """Loss, and AUC where there are two classes, and accuracy, in fixed widths."""
    if metrics is None or metrics.loss is None or metrics.accuracy is None:
        return ["no evaluation".ljust(len("loss   0.000  auc 0.000  accuracy 0.0000"))]
    auc = [f"auc {metrics.auc:.3f}"] if metrics.auc is not None else []
    return [f"loss {metrics.loss:7.3f}", *auc, f"accuracy {metrics.accuracy:.4f}"]


def spent(epsilon: float | None, claim: Claim) -> str:
    """Epsilon of budget, or that there is no promise."""
    if not claim.is_private or epsilon is None:
        return "not private"
    budget = f"{claim.epsilon_budget:.2f}"
    return f"epsilon {epsilon:{len(budget)}.2f} of {budget} per {claim.unit}"


def closing(outcome: Outcome, folder: str) -> list[str]:
    """The lines after the last round: each institution's hold-out, the pooled result, the files."""
    last, facts = outcome.reports[-1], outcome.facts
    width = max((len(name) for name in last.metrics_by_institution), default=0)
    lines = [
        f"  {name:<{width}}  {metrics.records:>6} held out  {'  '.join(figures(metrics))}"
        for name, metrics in last.metrics_by_institution.items()
    ]
    result = "  ".join([*figures(last.metrics), spent(last.epsilon, facts.claim)])
    return [
        *(lines if len(lines) <= 20 else []),
        f"result      {result}  in {outcome.seconds:.1f} s",
        f"written     {folder}: result.json, rounds.jsonl, model.safetensors, learning_curve.png",
    ]


def _write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _nothing() -> None:
    """Without a terminal there is no bar to move."""
