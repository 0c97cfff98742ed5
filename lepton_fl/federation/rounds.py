"""The rounds of a run: Flower's strategy, wrapped so that nothing unchecked reaches it.

`Rounds` is itself a Flower Strategy. It asks the wrapped one whom to train and how to aggregate, and adds
what a federation of strangers needs: replies are checked and capped, their order is fixed, evaluation
counts are pooled, privacy is charged for every institution that was *asked* (it may have trained even if
its reply never came), and each round ends in one report. A round is committed twice: when its model is made, and
when it is over; a run that crashed goes on after its last commit.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lepton_fl.errors import TrainingFailed
from lepton_fl.fairness.steering import Steering
from lepton_fl.federation.arrays import LARGEST_VALUE, is_in_range
from lepton_fl.federation.codec import array_of, values_of
from lepton_fl.federation.cohort_release import CohortRelease
from lepton_fl.federation.contract import COHORT_KEY, CONTRACT_KEY
from lepton_fl.federation.evaluating import SCORES
from lepton_fl.federation.histograms import Evaluated, as_plain, from_plain, pooled
from lepton_fl.federation.journal import Journal, Progress, RoundReport
from lepton_fl.federation.replies import (
    NOT_ASKED,
    SECOND_REPLY,
    BadReply,
    Expected,
    evaluated,
    sort_replies,
    sort_summed,
)
from lepton_fl.flower import (
    AggregationError,
    ArrayRecord,
    ConfigRecord,
    Grid,
    InconsistentMessageReplies,
    Message,
    MetricRecord,
    array_record,
    config_of,
    strategies,
)
from lepton_fl.strategies.mean_of_one import aggregated
from lepton_fl.strategies.state import restore, state_of
from lepton_fl.training.weights import WEIGHTS_KEY

Pool = tuple[dict[str, Evaluated], Evaluated | None, dict[str, str]]
"""What single institutions show, what all of them show together, and why others show nothing."""


def _goes_on(reports: Sequence[RoundReport]) -> str | None:
    """Every round is trained."""


@dataclass(frozen=True)
class Run:
    """What the rounds need to know of the federation they serve."""

    names: Mapping[int, str]  # node id: institution
    expected: Expected
    journal: Journal
    epsilon_after: Callable[[int], float] | None  # of an institution asked in this many rounds
    on_round: Callable[[RoundReport], None]
    least_replies: int  # usable ones, below which a round is skipped
    contract: str | None  # SHA-256 of what the institutions agreed to; they answer nothing else
    clock: Callable[[], float] = time.monotonic
    cohort_release: CohortRelease | None = None  # under privacy=institution, all that the strategy sees of a round
    delta: float | None = None  # of the promise; None: there is none
    is_summed: bool = False  # `SecureGrid` makes one reply of all
    is_folded: bool = False  # `CohortGrid` makes one reply of a round's models; evaluations are told singly
    steering: Steering | None = None  # of the training, by what was released of the people held out for it
    stops: Callable[[Sequence[RoundReport]], str | None] = _goes_on  # why no further round is trained, by what was told


class Rounds(strategies.Strategy):
    """Flower's strategy between checks, from where the run stands."""

    def __init__(self, inner: strategies.Strategy, run: Run, progress: Progress) -> None:
        self._inner = inner
        self._run = run
        restore(inner, progress.strategy)
        self.arrays = progress.arrays
        self.reports = list(progress.reports)
        self._trained = progress.trained
        self._base = len(progress.reports)  # Flower counts from 1 whenever it starts
        over = [*progress.reports, *([progress.trained] if progress.trained else [])]
        self._asked = Counter(name for report in over for name in report.cohort)
        self._began = run.clock()
        self._report = RoundReport(0)
        self._asked_now: dict[int, str] = {}
        self.stopped: str | None = None  # why no further round is trained
        for report in self.reports:
            self._learn_from(report)

    def summary(self) -> None:
        """Flower's own summary goes to its log, which is silent by default."""
        self._inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the round's cohort to train; nobody, if the round's model was committed before a crash."""
        self._began, server_round = self._run.clock(), server_round + self._base
        if self._trained is not None:
            return []
        self.stopped = self.stopped or self._run.stops(self.reports)
        if self.stopped is not None:
            # The last round's evaluation, which was planned, still tells how good the model is.
            self._asked_now, self._report = {}, RoundReport(server_round, skipped=self.stopped)
            return []
        # Flower samples with the global generator.
        random.seed(self._run.journal.cohort_seed(server_round))
        messages = list(self._inner.configure_train(server_round, arrays, config, grid))
        self._say_under_what(messages)
        self._say_weights(messages)
        self._note_asked(messages)
        cohort = tuple(sorted(self._asked_now.values()))
        self._asked.update(cohort)
        self._report = RoundReport(server_round, cohort=cohort)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, hand the good ones to the wrapped strategy, and commit what it made."""
        if self._trained is not None:
            self._report, self._trained = self._trained, None
            return self.arrays.copy(), None
        metrics = self._aggregate(server_round + self._base, replies)
        self._run.journal.trained(self._report, self.arrays, state_of(self._inner))
        return (None if self._report.skipped else self.arrays.copy()), metrics

    def _aggregate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Set `arrays` to the round's model, or note in the report why it stays as it is."""
        if self._report.skipped is not None:
            return None
        if self._run.is_summed or self._run.is_folded:
            checked, summed = sort_summed(replies, self._run.names, self._asked_now)
            replied = tuple(summed)
        else:
            checked = sort_replies(replies, self._run.names, self._asked_now, self._run.expected)
            replied = tuple(sorted(self._asked_now[m.metadata.src_node_id] for m in checked.usable))
        self._report = replace(self._report, replied=replied, refused=checked.refused)
        least = self._run.least_replies
        if len(checked.usable) < least:
            why = f"{len(checked.usable)} usable replies, at least {least} needed"
            self._report = replace(self._report, skipped="there is no sum" if self._run.is_summed else why)
            return None
        usable = checked.usable
        if self._run.cohort_release is not None:
            usable = [self._run.cohort_release.reply(usable, self.arrays, server_round)]
        try:
            # Hostile but finite values may overflow inside; what comes out is checked below.
            with np.errstate(over="ignore", invalid="ignore"):
                arrays, metrics = aggregated(self._inner, server_round, usable)
        except (AggregationError, InconsistentMessageReplies) as error:
            raise TrainingFailed(
                f"round {server_round} could not be aggregated: {error}; the model of round {server_round - 1} is "
                "the last one; choose another strategy or more institutions"
            ) from error
        if arrays is None:
            self._report = replace(self._report, skipped="the strategy made no model of these replies")
            return None
        self.arrays = self._as_float32(arrays, server_round)
        return metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every institution to count its hold-out, in the rounds that the plan has an evaluation for."""
        server_round += self._base
        evaluating = self._run.expected.evaluating
        if not evaluating.is_due(server_round) or (self.stopped is not None and not evaluating.is_final(server_round)):
            self._asked_now = {}
            return []
        messages = list(self._inner.configure_evaluate(server_round, arrays, config, grid))
        self._say_under_what(messages)
        self._note_asked(messages)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Pool the histograms, close the round, report it."""
        server_round += self._base
        pool = self._summed if self._run.is_summed else self._pooled
        each, whole, refused = pool(server_round, replies)
        asked_most = max(self._asked.values(), default=0)
        is_final = self._run.expected.evaluating.is_final(server_round)
        report = replace(
            self._report,
            not_evaluated=refused,
            metrics=None if whole is None else whole.metrics(),
            metrics_by_institution={name: each[name].metrics() for name in sorted(each)},
            epsilon=self._run.epsilon_after(asked_most) if self._run.epsilon_after else None,
            seconds=self._run.clock() - self._began,
            histograms=None if whole is None else as_plain(whole, is_final=is_final),
            held_out=None if whole is None else self._told_of_the_held_out(server_round),
        )
        self._run.journal.evaluated(report)
        self.reports.append(report)
        self._learn_from(report)
        self._run.on_round(report)
        return None

    def _told_of_the_held_out(self, server_round: int) -> dict[str, float] | None:
        evaluating, delta = self._run.expected.evaluating, self._run.delta
        if delta is None or not evaluating.is_private:
            return None
        return {"epsilon": evaluating.epsilon_after(server_round, delta), "delta": delta}

    def _learn_from(self, report: RoundReport) -> None:
        """Training is steered by what was released alone, so that a run that goes on after a crash is steered alike."""
        if self._run.steering is None or report.histograms is None:
            return
        tune = from_plain(self._run.expected.evaluating, report.histograms).tune
        if tune is not None:
            self._run.steering.learned(report.round, tune)

    def _say_under_what(self, messages: Sequence[Message]) -> None:
        """Each instruction names the contract it is part of, and how many institutions are asked with it."""
        for config in _configs(messages):
            config[COHORT_KEY] = len(messages)
            if self._run.contract is not None:
                config[CONTRACT_KEY] = self._run.contract

    def _say_weights(self, messages: Sequence[Message]) -> None:
        """How much each group's records count in this round, where the training is steered."""
        weights = None if self._run.steering is None else self._run.steering.weights()
        if weights is not None:
            for config in _configs(messages):
                config[WEIGHTS_KEY] = weights.ravel().tolist()

    def _note_asked(self, messages: Iterable[Message]) -> None:
        """Remember whose replies are wanted; all others are refused."""
        node_ids = [message.metadata.dst_node_id for message in messages]
        self._asked_now = {node_id: self._run.names[node_id] for node_id in node_ids}

    def _summed(self, server_round: int, replies: Iterable[Message]) -> Pool:
        """The cohort's histograms, where nobody sees those of one institution but what it shows of itself."""
        checked, survivors = sort_summed(replies, self._run.names, self._asked_now)
        found = [one for one in checked.usable if "metrics" in one.content.metric_records]
        if not found:
            return {}, None, checked.refused
        try:
            whole = evaluated(found[0], self._run.expected, server_round, len(survivors))
        except BadReply as error:
            return {}, None, checked.refused | {"the cohort": str(error)}
        each = {name: Evaluated({SCORES: one}) for name, one in whole.own.items()}
        return each, whole, checked.refused

    def _pooled(self, server_round: int, replies: Iterable[Message]) -> Pool:
        each: dict[str, Evaluated] = {}
        refused: dict[str, str] = {}
        for reply in sorted(replies, key=lambda m: m.metadata.src_node_id):
            node_id = reply.metadata.src_node_id
            name = self._run.names.get(node_id, f"node {node_id}")
            if node_id not in self._asked_now:
                refused[name] = NOT_ASKED
                continue
            if name in each:
                refused[name] = SECOND_REPLY
                continue
            try:
                each[name] = evaluated(reply, self._run.expected, server_round, 1)
            except BadReply as error:
                refused[name] = str(error)
        return each, pooled(list(each.values())), refused

    def _as_float32(self, arrays: ArrayRecord, server_round: int) -> ArrayRecord:
        """Flower's adaptive strategies return float64; the model, and every reply, is float32."""
        values = {name: values_of(array) for name, array in arrays.items()}
        with np.errstate(over="ignore"):
            narrowed = {name: one.astype(np.float32) for name, one in values.items() if one.dtype != np.float32}
        if not all(map(is_in_range, (values | narrowed).values())):
            raise TrainingFailed(
                f"the model of round {server_round} has values that are not finite or beyond {LARGEST_VALUE:g}; the "
                f"model of round {server_round - 1} is the last good one; lower the learning rates"
            )
        made = {name: array_of(value) for name, value in narrowed.items()}
        return array_record((name, made.get(name, array)) for name, array in arrays.items()) if made else arrays


def _configs(messages: Sequence[Message]) -> list[ConfigRecord]:
    """Each instruction's settings once: a strategy sends one instruction to many."""
    contents = {id(message.content): message.content for message in messages}
    return [config_of(content) for content in contents.values()]
