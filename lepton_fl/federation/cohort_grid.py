"""CohortGrid: a simulated federation whose cohort is trained together, by an executor, in chunks.

Each institution pays for its round, trains on its own streams and answers, or fails, as if it were asked by itself; the
instruction is checked once for all, and becomes bytes to be told how many they are. For a strategy that needs the mean
only there is one reply that holds it, as `SecureGrid` makes one, and single models are in memory one chunk at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor

from lepton_fl.errors import LeptonError
from lepton_fl.federation.arrays import BadArrays, load_arrays, template_of
from lepton_fl.federation.client_app import (
    DECLARED_WEIGHT,
    ClientProgram,
    evaluation_of,
    task_of_training,
    told_of_training,
)
from lepton_fl.federation.codec import BadMessage, encode
from lepton_fl.federation.fold import Fold, Folding, arrays_of
from lepton_fl.federation.local_grid import LocalGrid, Unwatched, Watch, reason_of, unknown
from lepton_fl.federation.secure_grid import COHORT, NAMES
from lepton_fl.flower import (
    CLIENT_APP_RAISED,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    config_of,
)
from lepton_fl.privacy.rounds_spent import RoundsSpent
from lepton_fl.strategies.strategy import WEIGHT_KEY
from lepton_fl.training.cohort.executor import Failed, Member, Summed, Trained, flat_state
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

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies, the cohort's in the order of names; see `LocalGrid.send_and_receive`."""
        known, replies = [], []
        for message in messages:
            if message.metadata.dst_node_id in self.names:
                known.append(message)
            else:
                replies.append(unknown(message))
        known.sort(key=self._name)
        # A strategy sends everybody the same content; what differs is another instruction.
        known.sort(key=lambda message: id(message.content))
        for _, same in groupby(known, key=lambda message: id(message.content)):
            replies += self._instruct(list(same))
        return replies

    def _name(self, message: Message) -> str:
        return self.names[message.metadata.dst_node_id]

    def _instruct(self, messages: list[Message]) -> Iterator[Message]:
        """The answers to one instruction."""
        first, names = messages[0], [self._name(message) for message in messages]
        with self._watch.turns(names, first):
            try:
                sent = encode(first)
                with self._watch.computing(first):
                    load_arrays(self._federated.program.model, first.content.array_records["arrays"])
            except (BadMessage, BadArrays, KeyError) as error:  # which nobody can read
                yield from (self._failure(message, error) for message in messages)
                return
            answer = self._train if first.metadata.message_type == MessageType.TRAIN else self._evaluate
            with self._watch.computing(first):
                replies = list(answer(first, messages))
            self._watch.carried(sent.size() * len(messages), _bytes_up(replies, len(messages)))
            yield from replies

    # -- training

    def _train(self, instruction: Message, messages: Sequence[Message]) -> Iterator[Message]:
        model, folding = self._federated.program.model, self._federated.folding
        fold = None if folding is None else Fold(folding, flat_state(model))
        added: list[Message] = []
        for done, trained in self._trained(instruction, messages):
            if isinstance(trained, Exception):
                yield self._failure(done[0], trained)
            elif isinstance(trained, Summed):
                if fold is not None:
                    fold.add_sum(trained.total, trained.weight)
                    added += done
            elif fold is None:
                arrays = arrays_of(trained.values.clone(), template_of(model))
                yield Message(RecordDict({"arrays": arrays, "metrics": trained.told}), reply_to=done[0])
            else:
                try:
                    fold.add(trained.values, trained.weight)
                    added += done
                except BadArrays as error:
                    yield Message(Error(CLIENT_APP_RAISED, str(error)), reply_to=done[0])
        if fold is not None and added:
            arrays, weight = fold.reply(instruction.content.array_records["arrays"], _round(instruction))
            who = ConfigRecord({NAMES: [self._name(message) for message in added]})
            content = RecordDict({COHORT: who, "arrays": arrays, "metrics": MetricRecord({WEIGHT_KEY: weight})})
            yield Message(content, reply_to=added[0])

    def _trained(
        self, instruction: Message, messages: Sequence[Message]
    ) -> Iterator[tuple[Sequence[Message], _Trained | Summed | Exception]]:
        """What came of each institution's training, or of several together; who cannot begin is told of in turn."""
        federated, waiting, refused = self._federated, deque[_Waiting](), deque[tuple[list[Message], Exception]]()

        def members() -> Iterator[Member]:
            for message in messages:
                try:
                    site = federated.sites[self._name(message)]
                    task = task_of_training(federated.program, site, instruction, federated.spent)
                except Exception as error:
                    refused.append(([message], error))
                    continue
                waiting.append(_Waiting(message, site, task))
                yield Member(site.train, task, federated.weight(site))

        for outcome in federated.executor.train(federated.program.model, members()):
            yield from refused
            refused.clear()
            if isinstance(outcome, Summed):
                yield [waiting.popleft().message for _ in range(outcome.members)], outcome
                continue
            one = waiting.popleft()
            yield [one.message], one.answer(federated.program, outcome)
        yield from refused

    # -- evaluation

    def _evaluate(self, instruction: Message, messages: Sequence[Message]) -> Iterator[Message]:
        federated = self._federated
        for message in messages:
            try:
                site = federated.sites[self._name(message)]
                metrics = evaluation_of(federated.program, site, instruction, federated.spent)
                yield Message(RecordDict({"metrics": metrics}), reply_to=message)
            except Exception as error:
                yield self._failure(message, error)

    def _failure(self, message: Message, error: Exception) -> Message:
        return Message(Error(CLIENT_APP_RAISED, reason_of(error, self._name(message))), reply_to=message)


@dataclass(frozen=True)
class _Trained:
    """What an institution would have answered."""

    values: Tensor  # as in `executor.Trained`
    told: MetricRecord

    @property
    def weight(self) -> int:
        return int(str(self.told[WEIGHT_KEY]))


@dataclass(frozen=True)
class _Waiting:
    """An institution that trains."""

    message: Message
    site: Site
    task: LocalTask

    def answer(self, program: ClientProgram, outcome: Trained | Failed) -> _Trained | Exception:
        if isinstance(outcome, Failed):
            return outcome.error
        try:
            return _Trained(outcome.values, told_of_training(program, self.site, self.task.round, outcome.loss))
        except Exception as error:
            return error


def _round(instruction: Message) -> int:
    return int(str(config_of(instruction.content)["server-round"]))


def _bytes_up(replies: Sequence[Message], asked: int) -> int:
    """What the answers would have weighed over a network, each as much as the first one with content."""
    whole = next((reply for reply in replies if not reply.has_error()), None)
    return 0 if whole is None else encode(whole).size() * asked


def _asked_one_by_one(message: Message, context: Context) -> Message:
    raise LeptonError("a simulated cohort answers whole rounds; this is a bug")
