"""SecureGrid: any Grid, whose rounds become sums over the cohort; a strategy gets one reply that holds their mean.

Each call of `send_and_receive` is one masked round of five exchanges over the inner grid: parameters and model, roster,
inbox, survivors, echoes. What was decided in each of them, who answered in time, is safe before anybody hears of it; a
server that starts again goes on in the middle of a round, since the answers are where they were.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import TrainingFailed
from lepton_fl.federation.arrays import checked, sha256_of
from lepton_fl.federation.codec import BadMessage
from lepton_fl.federation.grids import Around
from lepton_fl.federation.steps import (
    ECHOES,
    INBOX,
    PARAMS,
    RECORD,
    ROSTER,
    SURVIVORS,
    Step,
    answered,
    record_of,
    told_sha256,
)
from lepton_fl.federation.summed import Sums, evaluated_of_sum, model_of
from lepton_fl.flower import (
    NODE_UNAVAILABLE,
    ConfigRecord,
    Error,
    Grid,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from lepton_fl.secure_aggregation.aggregator import Aggregator, Total
from lepton_fl.secure_aggregation.messages import RoundParams, Upload
from lepton_fl.secure_aggregation.packing import packed_bytes
from lepton_fl.secure_aggregation.refusals import BelowThreshold
from lepton_fl.show import printable
from lepton_fl.strategies.strategy import WEIGHT_KEY
from lepton_fl.training.weights import WEIGHTS_KEY

_log = logging.getLogger(__name__)
COHORT, NAMES = "cohort", "survivors"  # in the one reply: who is in the sum
_ATTEMPTS = 2
_UNMASKING = "unmasking"

Decide = Callable[[str, Callable[[], bytes]], bytes]
"""What was decided under a name before; else what is proposed now, safe when this returns."""


def undecided(name: str, proposed: Callable[[], bytes]) -> bytes:
    """See `Decide`; for a simulation, which starts anew."""
    return proposed()


@dataclass(frozen=True)
class Cohort:
    """Who is added up, and under what contract."""

    run_id: int
    contract: bytes  # SHA-256
    identities: Mapping[str, bytes]  # institution: its public key, as the contract has it
    names: Mapping[int, str]  # node id: institution; may grow while the run goes on


@dataclass(frozen=True)
class _Attempt:
    """One attempt of one round."""

    purpose: str
    round: int
    number: int
    asked: Mapping[str, Message]  # institution: the strategy's instruction

    def named(self, step: str) -> str:
        return f"{self.purpose}-{self.round}-{self.number}-{step}"


class SecureGrid(Around):
    """See the module."""

    def __init__(self, grid: Grid, cohort: Cohort, sums: Sums, decide: Decide) -> None:
        super().__init__(grid)
        self._cohort, self._sums, self._decide = cohort, sums, decide

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of the contract's institutions; nobody else is ever asked."""
        return [one for one in self._inner.get_node_ids() if self._cohort.names.get(one) in self._cohort.identities]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Nothing is sent by itself: a masked round is one call."""
        raise NotImplementedError("a masked round is one call of send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `push_messages`."""
        raise NotImplementedError("a masked round is one call of send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """One reply that holds the sum's mean, and an error for each institution that is not in it.

        With too few answers there are errors alone, and nothing was unmasked.

        Args:
            messages: one round's instructions, all the same.
            timeout: seconds for each exchange.
        """
        asked = {self._cohort.names[message.metadata.dst_node_id]: message for message in messages}
        if not asked:
            return []
        first = next(iter(asked.values()))
        round = int(str(first.content.config_records["config"]["server-round"]))
        failed = TrainingFailed("nothing was tried")
        refused: dict[str, str] = {}
        for number in range(1, _ATTEMPTS + 1):
            attempt = _Attempt(first.metadata.message_type, round, number, asked)
            exchange = _Exchange(self._inner, self._decide, attempt, timeout)
            try:
                total = self._sum(attempt, exchange, refused)
                return [self._reply(attempt, total), *_errors(asked, refused, total.survivors)]
            except BelowThreshold as error:
                _log.warning("round %d, attempt %d: %s", round, number, error)
                failed = TrainingFailed(str(error))
                if error.phase == _UNMASKING:
                    break  # a round is unmasked once, whatever came of it
            except (TrainingFailed, ValueError) as error:
                failed = TrainingFailed(str(error))
                break
        _log.warning("round %d has no sum: %s", round, failed)
        return _errors(asked, {name: refused.get(name, f"the round has no sum: {failed}") for name in asked}, ())

    def _sum(self, attempt: _Attempt, exchange: _Exchange, refused: dict[str, str]) -> Total:
        """The five exchanges; who fell out of them is noted in `refused`."""
        cohort, first = self._cohort, next(iter(attempt.asked.values()))
        schema = self._sums.schema(attempt.purpose, attempt.round)
        model = checked(first.content.array_records["arrays"], self._sums.template)
        params = RoundParams(
            run_id=cohort.run_id,
            contract=cohort.contract,
            purpose=attempt.purpose,
            round=attempt.round,
            attempt=attempt.number,
            model_sha256=told_sha256(sha256_of(model), first.content),
            schema_sha256=schema.sha256,
            length=schema.length,
            wire_bits=schema.wire_bits,
            cohort=tuple(sorted(cohort.identities)),
            nonce=self._decide(attempt.named("nonce"), lambda: os.urandom(32)),
        )
        aggregator = Aggregator(params, cohort.identities)
        try:
            opened = RecordDict({**first.content, RECORD: record_of(Step(PARAMS, params.to_bytes()))})
            adverts = exchange.ask(PARAMS, dict.fromkeys(attempt.asked, opened))
            roster = aggregator.roster(_bodies(adverts))
            shares = exchange.ask(ROSTER, _each(ROSTER, dict.fromkeys(adverts, roster)))
            inboxes = aggregator.inboxes(_bodies(shares))
            size = packed_bytes(schema.length, schema.wire_bits)
            uploads = exchange.ask(INBOX, _each(INBOX, inboxes), size)
            survivors = aggregator.survivors({name: Upload(*one) for name, one in uploads.items()})
            echoes = exchange.ask(SURVIVORS, _each(SURVIVORS, dict.fromkeys(uploads, survivors)))
            confirmed = aggregator.echoes(_bodies(echoes))
            unmasked = exchange.ask(ECHOES, _each(ECHOES, dict.fromkeys(echoes, confirmed)))
            total = aggregator.total(_bodies(unmasked), os.cpu_count() or 1)
        finally:
            refused.update({**exchange.refused, **aggregator.refused})
        for name in sorted(total.false_shares):
            _log.warning("%s sent false shares; the sum is right without them", name)
        return total

    def _reply(self, attempt: _Attempt, total: Total) -> Message:
        """What a strategy gets: one institution's worth of reply, which is everybody's mean."""
        instruction = attempt.asked[total.survivors[0]]
        content = RecordDict({COHORT: ConfigRecord({NAMES: list(total.survivors)})})
        if attempt.purpose == MessageType.TRAIN:
            before = instruction.content.array_records["arrays"]
            arrays, weight = model_of(self._sums, total.words, before, attempt.round, _gain(instruction))
            content["arrays"], content["metrics"] = arrays, MetricRecord({WEIGHT_KEY: weight})
        else:
            who = (total.survivors, sorted(self._cohort.identities))
            evaluated = evaluated_of_sum(self._sums, total.words, attempt.round, who)
            if evaluated is not None:
                content["metrics"] = evaluated
        return Message(content, reply_to=instruction)


def _gain(instruction: Message) -> float:
    """The largest weight of a group that the round's institutions were told; 1 where they were told none."""
    told = instruction.content.config_records["config"].get(WEIGHTS_KEY)
    return max(float(str(one)) for one in told) if isinstance(told, list) else 1.0


class _Exchange:
    """The exchanges of one attempt: one question to each institution, whose answers came in time."""

    def __init__(self, grid: Grid, decide: Decide, attempt: _Attempt, timeout: float | None) -> None:
        self._grid, self._decide, self._attempt, self._timeout = grid, decide, attempt, timeout
        self.refused: dict[str, str] = {}  # institution: why it is not in the sum

    def ask(
        self, step: str, contents: Mapping[str, RecordDict], vector_bytes: int = 0
    ) -> dict[str, tuple[bytes, npt.NDArray[np.uint8]]]:
        """What each one answered, by name; who did is decided when this returns, also for a server that restarts."""
        node_ids = {name: self._attempt.asked[name].metadata.dst_node_id for name in contents}
        messages = [
            self._grid.create_message(content, self._attempt.purpose, node_ids[name], str(self._attempt.round))
            for name, content in contents.items()
        ]
        names = {node_id: name for name, node_id in node_ids.items()}
        came: dict[str, tuple[bytes, npt.NDArray[np.uint8]]] = {}
        for reply in self._grid.send_and_receive(messages, timeout=self._timeout):
            name = names.get(reply.metadata.src_node_id, "")
            if not name or name in came:
                continue
            try:
                if reply.has_error():
                    raise BadMessage(printable(str(reply.error.reason)))
                came[name] = answered(reply, step, vector_bytes)
            except BadMessage as error:
                self.refused[name] = str(error)
        decided = self._decide(self._attempt.named(step), lambda: json.dumps(sorted(came)).encode())
        return {name: came[name] for name in json.loads(decided) if name in came}


def _each(step: str, bodies: Mapping[str, bytes]) -> dict[str, RecordDict]:
    return {name: RecordDict({RECORD: record_of(Step(step, body))}) for name, body in bodies.items()}


def _bodies(answers: Mapping[str, tuple[bytes, npt.NDArray[np.uint8]]]) -> dict[str, bytes]:
    return {name: body for name, (body, _) in answers.items()}


def _errors(asked: Mapping[str, Message], refused: Mapping[str, str], survivors: Iterable[str]) -> list[Message]:
    kept = {*survivors}
    return [
        Message(Error(NODE_UNAVAILABLE, refused.get(name, "it is not in the sum")), reply_to=message)
        for name, message in asked.items()
        if name not in kept
    ]
