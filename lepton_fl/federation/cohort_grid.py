"""CohortGrid: a simulated federation whose cohort is trained together, by an executor, in chunks.

Each institution pays for its round, trains on its own streams and answers, or fails, as if it were asked by itself; the
instruction is checked once for all, and becomes bytes to be told how many they are. For a strategy that needs the mean
only there is one reply that holds it, as `SecureGrid` makes one, and single models are in memory one chunk at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from lepton_fl.errors import LeptonError
from lepton_fl.federation.arrays import BadArrays
from lepton_fl.federation.client_app import (
    DECLARED_WEIGHT,
    Asked,
    ClientProgram,
    Metrics,
    asked_of_all,
    evaluation_of,
    task_of_training,
    told_of_training,
)
from lepton_fl.federation.fold import Fold, Folding, arrays_of
from lepton_fl.federation.loading import Loading
from lepton_fl.federation.local_grid import LocalGrid, Unwatched, Watch, reason_of, unknown
from lepton_fl.federation.secure_grid import COHORT, NAMES
from lepton_fl.federation.sizes import size_of
from lepton_fl.flower import (
    CLIENT_APP_RAISED,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    model_of,
)
from lepton_fl.privacy.rounds_spent import RoundsSpent
from lepton_fl.strategies.strategy import WEIGHT_KEY
from lepton_fl.training.cohort.executor import Failed, Member, Summed, Trained
from lepton_fl.training.cohort.pool import Trains
from lepton_fl.training.examples import Site
from lepton_fl.training.local import LocalTask


@dataclass(frozen=True)
class Federated:
    """The institutions' side of a simulation."""

    program: ClientProgram  # self-tested
    sites: Mapping[str, Site]  # may load a site when it is asked for
    spent: RoundsSpent
    executor: Trains
    folding: Folding | None  # None: the strategy gets single replies

    def weight(self, site: Site) -> int | None:
        """What an institution's model counts in the mean, if that is all that is looked at; else None."""
        if self.folding is None or self.folding.release is not None or self.program.scores is not None:
            return None
        return min(len(site.train), self.folding.weight_cap) if self.program.is_counted else DECLARED_WEIGHT


class CohortGrid(LocalGrid):
    """See the module."""

    def __init__(
        self,
        federated: Federated,
        institutions: Sequence[str],
        watch: Watch = Unwatched(),  # noqa: B008 - it has no state
    ) -> None:
        super().__init__(_asked_one_by_one, institutions, watch)
        self._federated = federated
        self._loading = Loading(federated.program.model)
        self._room = torch.empty_like(self._loading.values)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies, the cohort's in the order of names; see `LocalGrid.send_and_receive`."""
        replies: list[Message] = []
        # A strategy sends everybody the same content; what differs is another instruction.
        instructions: dict[int, list[_Told]] = {}
        for message in messages:
            name = self.names.get(message.metadata.dst_node_id)
            if name is None:
                replies.append(unknown(message))
            else:
                instructions.setdefault(id(message.content), []).append(_Told(name, message))
        for told in instructions.values():
            replies += self._instruct(sorted(told, key=_NAME))
        return replies

    def _instruct(self, told: list[_Told]) -> Iterator[Message]:
        """The answers to one instruction."""
        first = told[0].message
        with self._watch.turns([one.name for one in told], first):
            try:
                down = size_of(first.metadata, first.content)
                with self._watch.computing(first):
                    self._loading.load(model_of(first.content))
                    asked = asked_of_all(self._federated.program, first)
            except (BadArrays, KeyError, ValueError) as error:  # which nobody can read
                yield from (one.failed(error) for one in told)
                return
            with self._watch.computing(first):
                if first.metadata.message_type == MessageType.TRAIN:
                    replies = list(self._train(asked, told))
                else:
                    replies = list(self._evaluate(asked, told))
            self._watch.carried(down * len(told), _bytes_up(replies) * len(told))
            yield from replies

    # -- training

    def _train(self, asked: Asked, told: Sequence[_Told]) -> Iterator[Message]:
        folding = self._federated.folding
        fold = None if folding is None else Fold(folding, self._loading.values, self._room)
        added: list[_Told] = []
        for done, trained in self._trained(asked, told):
            if isinstance(trained, Exception):
                yield done[0].failed(trained)
            elif isinstance(trained, Summed):
                if fold is not None:
                    fold.add_sum(trained.total, trained.weight)
                    added += done
            elif fold is None:
                arrays = arrays_of(trained.values, self._loading.template)
                content = RecordDict({"arrays": arrays, "metrics": MetricRecord(trained.metrics)})
                yield Message(content, reply_to=done[0].message)
            else:
                try:
                    fold.add(trained.values, trained.weight)
                    added += done
                except BadArrays as error:
                    yield Message(Error(CLIENT_APP_RAISED, str(error)), reply_to=done[0].message)
        if fold is not None and added:
            arrays, weight = fold.reply(model_of(told[0].message.content), asked.round)
            who = ConfigRecord({NAMES: [one.name for one in added]})
            content = RecordDict({COHORT: who, "arrays": arrays, "metrics": MetricRecord({WEIGHT_KEY: weight})})
            yield Message(content, reply_to=added[0].message)

    def _trained(
        self, asked: Asked, told: Sequence[_Told]
    ) -> Iterator[tuple[Sequence[_Told], _Trained | Summed | Exception]]:
        """What came of each institution's training, or of several together; who cannot begin is told of in turn."""
        federated, waiting, refused = self._federated, deque[_Waiting](), deque[tuple[list[_Told], Exception]]()

        def members() -> Iterator[Member]:
            for one in told:
                try:
                    site = federated.sites[one.name]
                    task = task_of_training(federated.program, site, asked, federated.spent)
                except Exception as error:
                    refused.append(([one], error))
                    continue
                waiting.append(_Waiting(one, site, task))
                yield Member(site.train, task, federated.weight(site))

        for outcome in federated.executor.train(federated.program.model, members()):
            yield from refused
            refused.clear()
            if isinstance(outcome, Summed):
                yield [waiting.popleft().told for _ in range(outcome.members)], outcome
                continue
            done = waiting.popleft()
            yield [done.told], done.answer(federated.program, outcome)
        yield from refused

    # -- evaluation

    def _evaluate(self, asked: Asked, told: Sequence[_Told]) -> Iterator[Message]:
        federated = self._federated
        for one in told:
            try:
                metrics = evaluation_of(federated.program, federated.sites[one.name], asked, federated.spent)
                yield Message(RecordDict({"metrics": metrics}), reply_to=one.message)
            except Exception as error:
                yield one.failed(error)


class _Told(NamedTuple):
    """An institution and the message that tells it what to do."""

    name: str
    message: Message

    def failed(self, error: Exception) -> Message:
        """Its answer."""
        return Message(Error(CLIENT_APP_RAISED, reason_of(error, self.name)), reply_to=self.message)


_NAME = itemgetter(0)  # of `_Told`


@dataclass(frozen=True)
class _Trained:
    """What an institution would have answered."""

    values: Tensor  # as in `executor.Trained`
    metrics: Metrics

    @property
    def weight(self) -> int:
        return int(str(self.metrics[WEIGHT_KEY]))


class _Waiting(NamedTuple):
    """An institution that trains."""

    told: _Told
    site: Site
    task: LocalTask

    def answer(self, program: ClientProgram, outcome: Trained | Failed) -> _Trained | Exception:
        if isinstance(outcome, Failed):
            return outcome.error
        try:
            return _Trained(outcome.values, told_of_training(program, self.site, self.task.round, outcome.loss))
        except Exception as error:
            return error


def _bytes_up(replies: Sequence[Message]) -> int:
    """What an answer would have weighed over a network, as much as the first one with content; who is in it unsaid."""
    whole = next((reply for reply in replies if not reply.has_error()), None)
    if whole is None:
        return 0
    return size_of(whole.metadata, {name: one for name, one in whole.content.items() if name != COHORT})


def _asked_one_by_one(message: Message, context: Context) -> Message:
    raise LeptonError("a simulated cohort answers whole rounds; this is a bug")
