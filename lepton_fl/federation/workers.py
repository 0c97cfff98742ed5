"""Institutions whose computing is done by other processes of this machine: `engine=ray`.

This process keeps what must be one: whether a round was paid. A round is noted as spent here, before its message goes
to a worker, so that no two workers answer it. A worker is given the program, looks at one institution's records at a
time, tests the mechanism itself before the first, and draws noise from its own operating system's source.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from lepton_fl.errors import LeptonError
from lepton_fl.federation.client_app import ClientProgram, client_app, local_task, pay_for_evaluation, self_test
from lepton_fl.federation.local_grid import LocalGrid, Unwatched, Watch
from lepton_fl.federation.masked_app import Computes, Computing, at_once
from lepton_fl.federation.summed import Sums
from lepton_fl.flower import (
    CLIENT_APP_RAISED,
    Array,
    ArrayRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from lepton_fl.privacy.rounds_spent import RoundsSpent
from lepton_fl.secure_aggregation.vector import Words
from lepton_fl.training.device import choose
from lepton_fl.training.examples import Site

_log = logging.getLogger(__name__)
_AHEAD = 2  # messages for each worker that wait for it or for us
_WORDS, _SATURATED = "words", "saturated"


class Workers(Protocol):
    """Processes that answer for institutions; see `flower_ray.RayWorkers`."""

    count: int

    def begin(self, institution: str, message: Message) -> Callable[[], Message]:
        """Hand the message to a worker; the result waits for its answer."""


class Fetches(Protocol):
    """Turns what stands for a kept value into the value, in a worker."""

    def __call__(self, kept: Any) -> Any:
        """The value."""


@dataclass(frozen=True)
class Kept:
    """All that workers need; kept once, and fetched once by each of them."""

    program: ClientProgram  # its model on the CPU
    sites: Mapping[str, Any]  # institution: what stands for its `Site`
    sums: Sums | None  # None: updates are not masked
    device: str  # as `device=` takes it
    fetch: Fetches


@dataclass(frozen=True)
class WorkerApp:
    """What a worker answers with: see `flower_ray.Answers`."""

    work: Any  # what stands for a `Kept`
    fetch: Fetches
    key: str  # of the run, for which a worker builds its app once

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer, or why there is none; of an unforeseen error its type alone, as over the network."""
        try:
            return _built(self)(message, context)
        except LeptonError as error:
            reason = str(error)
        except Exception as error:
            _log.exception("institution %s could not answer", context.node_config["institution"])
            reason = type(error).__name__
        return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkerApp) and other.key == self.key


class _Sites(Mapping[str, Site]):
    """Each institution's records, fetched when its turn comes and not kept."""

    def __init__(self, work: Kept) -> None:
        self._work = work

    def __getitem__(self, institution: str) -> Site:
        return self._work.fetch(self._work.sites[institution])  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._work.sites)

    def __len__(self) -> int:
        return len(self._work.sites)


class PaidBefore:
    """See `RoundsSpent`: in a worker, whose rounds were noted as spent before they reached it."""

    def begin(self, institution: str, round: int, planned: int, of: str = "") -> None:
        """See `RoundsSpent.begin`."""


@lru_cache(maxsize=1)
def _built(app: WorkerApp) -> Callable[[Message, Context], Message]:
    """The institutions' side in this process, its self-test passed."""
    work: Kept = app.fetch(app.work)
    program = work.program.on(choose(work.device))
    sites, sums = _Sites(work), work.sums
    if sums is None:
        return client_app(program, sites, PaidBefore())
    self_test(program)
    slots = {institution: slot for slot, institution in enumerate(sorted(sites))}

    def vector(message: Message, context: Context) -> Message:
        institution = str(context.node_config["institution"])
        computes = Computes(program, sites[institution], sums, PaidBefore(), is_counting=True, begin=at_once)
        is_training = message.metadata.message_type == MessageType.TRAIN
        made = (computes.training(message) if is_training else computes.evaluation(message, slots[institution]))()
        words, cut = ArrayRecord({_WORDS: Array(made.words)}), MetricRecord({_SATURATED: made.saturated})
        return Message(RecordDict({_WORDS: words, _SATURATED: cut}), reply_to=message)

    return vector


@dataclass(frozen=True)
class FarComputes(Computes):
    """See `masked_app.Computes`: keys, masks and what was paid stay here; a worker makes the vector, and masks nothing.

    The vector crosses from one process of this machine to another as it would stay within an institution.
    """

    workers: Workers

    def training(self, message: Message) -> Computing:
        """See `Computes.training`."""
        return self._made_elsewhere(message)

    def evaluation(self, message: Message, slot: int) -> Computing:
        """See `Computes.evaluation`; the worker knows the slot by the institution's name."""
        return self._made_elsewhere(message)

    def _made_elsewhere(self, message: Message) -> Computing:
        waits = self.workers.begin(self.site.institution, message)

        def words() -> Words:
            reply = waits()
            if reply.has_error():
                raise CouldNotCompute(reply.error.reason)
            content = reply.content
            words = content.array_records[_WORDS][_WORDS].numpy().astype(np.uint32, copy=False)
            return Words(words, int(str(content.metric_records[_SATURATED][_SATURATED])))

        return words


class CouldNotCompute(LeptonError):
    """A worker's reason, for whoever asked."""


class FarGrid(LocalGrid):
    """See `LocalGrid`; institutions compute beside each other, and answers come in the order they were asked."""

    def __init__(
        self,
        institutions: Institutions,
        workers: Workers,
        watch: Watch = Unwatched(),  # noqa: B008 - it has no state
    ) -> None:
        super().__init__(self._wait, [*institutions.sites], watch)
        self._institutions, self._workers = institutions, workers
        self._begun: dict[int, Callable[[], Message]] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand out each message before the answers of those before it are waited for, but not many before."""
        ids: list[str] = []
        waiting: deque[Message] = deque()
        for message in messages:
            node_id = message.metadata.dst_node_id
            if node_id in self.names:
                self._begun[node_id] = self._begin(self.names[node_id], message)
            waiting.append(message)
            if len(waiting) > _AHEAD * self._workers.count:
                ids += super().push_messages([waiting.popleft()])
        return [*ids, *super().push_messages(waiting)]

    def _begin(self, institution: str, message: Message) -> Callable[[], Message]:
        """Pay for the round, then hand the message out; what the institution refuses is its answer."""
        try:
            self._institutions.pay(institution, message)
        except Exception as error:
            return _raises(error)
        return self._workers.begin(institution, message)

    def _wait(self, message: Message, context: Context) -> Message:
        return self._begun.pop(context.node_id)()


@dataclass(frozen=True)
class Institutions:
    """What this process keeps of the institutions: whether a round was paid."""

    program: ClientProgram
    sites: Mapping[str, Site]
    spent: RoundsSpent

    def pay(self, institution: str, message: Message) -> None:
        """The round, or the evaluation, is noted as spent; see `answer_training` and `answer_evaluation`."""
        task = local_task(self.program, self.sites[institution], message)
        if message.metadata.message_type == MessageType.TRAIN:
            self.spent.begin(institution, task.round, self.program.rounds)
        else:
            pay_for_evaluation(self.program, institution, task.round, self.spent)


def _raises(error: Exception) -> Callable[[], Message]:
    def answer() -> Message:
        raise error

    return answer
