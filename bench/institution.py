"""An institution that answers at once: the product's agent with its stream, spool and ledger, and no training.

Usage: institution.py HOME      (a process that bench/loopback.py starts)
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import grpc
import torch
from empty import empty_terms
from lepton_client.agent import Agent, Own
from lepton_client.answers import Answer
from lepton_client.considering import Position
from lepton_client.home import Home, open_home
from lepton_client.job import Job, Rounds
from lepton_client.ledger import Ledger
from lepton_client.policy import BY_POLICY, OPTIONAL, Budget, MostOfARun, Policy
from lepton_client.stream import Instruction, Stream

from lepton_fl.energy.meter import of_this_machine
from lepton_fl.evaluation.metrics import SCORE_BINS
from lepton_fl.federation.codec import Route, decode, encode
from lepton_fl.federation.contract import PLAIN_UPDATE, RECORD_COUNT, Contract, Purpose
from lepton_fl.federation.drift import Agreed
from lepton_fl.flower import ClientApp, Context, Message, MessageType, MetricRecord, RecordDict, enter_run
from lepton_fl.privacy.books import TRAINED_ON, Declared
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import Welcome

_PLANNED = 1_000_000  # rounds; a bench ends before
_CELLS = 2 * SCORE_BINS  # of two labels
_POLICY = Policy(
    data_set="none",
    budget=Budget("record", 1.0, 1e-5),
    run=MostOfARun(1.0, _PLANNED, 0.5, 1.0),
    public_data=True,
    accept=BY_POLICY,
    may_leave=[PLAIN_UPDATE, RECORD_COUNT],
    tasks=["any"],
    models=["any"],
    strategies=["any"],
    plugins=[],
    least_cohort=1,
    secure_aggregation=OPTIONAL,
    hours=None,
    power_w=0.0,
)


def prompt_answer(message: Message) -> Message:
    """The very arrays that came, or counts of two records."""
    if message.metadata.message_type == MessageType.TRAIN:
        metrics = MetricRecord({WEIGHT_KEY: 1, TRAIN_LOSS_KEY: 0.5})
        content = RecordDict({"arrays": message.content.array_records["arrays"], "metrics": metrics})
        return Message(content, reply_to=message)
    scores = [1] + [0] * (_CELLS - 2) + [1]
    metrics = MetricRecord({"loss-sum": 1.0, "scores": scores, "noises": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class Prompt(Agent):
    """The product's agent, with no contract to consider and nothing to train."""

    def __init__(self, home: Home) -> None:
        ledger = Ledger.open(home.path / "ledger", lambda: datetime.now(UTC))
        position = Position(_POLICY, {}, ledger, torch.device("cpu"))
        super().__init__(home, Own(DataSource(None, None), position, ledger), lambda point: None)
        self._ledger = ledger

    def _welcomed(self, stream: Stream, welcome: Welcome) -> None:
        enter_run(welcome.run_id)
        run = str(welcome.run_id)
        self._ledger.declare(
            Declared(run, "bench", "none", "record", None, 1e-5, 1.0, None, 1, _PLANNED, "", ""),
            may_follow_uncovered=True,
        )
        leaves = (PLAIN_UPDATE, RECORD_COUNT)
        purpose = Purpose("bench", 0, "")
        contract = Contract(welcome.run_id, "", purpose, (), 1, leaves, (), "none", None, False, {}, "", {}, {})
        nothing = Agreed("", empty_terms(1), 1, {})
        context = Context(welcome.run_id, welcome.node_id, {}, RecordDict(), {})
        rounds = Rounds(self._ledger, run)
        self._job = Job(
            run_id=welcome.run_id,
            node_id=welcome.node_id,
            contract=contract,
            policy=_POLICY,
            ledger=self._ledger,
            agreed=nothing,
            app=ClientApp(),
            masked=None,
            rounds=rounds,
            context=context,
            evaluations={},
            meter=of_this_machine(_POLICY.power_w),
        )

    def _answer(self, stream: Stream, instruction: Instruction) -> Answer | None:
        if self._job is None or instruction.parts is None:
            return None
        message_id = instruction.message_id
        message = decode(instruction.parts, Route(self._job.run_id, 1, self._job.node_id, message_id))
        is_training = message.metadata.message_type == MessageType.TRAIN
        round = int(str(message.content.config_records["config"]["server-round"]))
        if is_training:
            self._job.rounds.carry_out(message_id, lambda: self._show_head(stream))
            self._job.rounds.begin("", round, _PLANNED)
        answer = encode(prompt_answer(message))
        if is_training:
            self._ledger.settle(self._job.run, round, 0.0)
        self._keep(message_id, answer)
        account = TRAINED_ON if is_training else None
        return Answer(answer, round, PLAIN_UPDATE, "bench", account, is_covered=False)


def channel_of(home: Home) -> grpc.Channel:
    """A channel as the product's agent opens it."""
    ca, key, certificate = home.credentials()
    return grpc.secure_channel(home.addresses[0], grpc.ssl_channel_credentials(ca, key, certificate))


if __name__ == "__main__":
    here = open_home(Path(sys.argv[1]))
    with channel_of(here) as channel:
        Prompt(here).connect(channel)
