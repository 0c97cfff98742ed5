"""An institution that answers at once: the product's agent with its stream, spool and count of rounds, and no training.

Usage: institution.py HOME      (a process that bench/loopback.py starts)
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import torch
from lepton_client.agent import Agent, Job, Own
from lepton_client.home import Home, open_home
from lepton_client.limits import Limits
from lepton_client.rounds import OnDisk

from lepton_fl.evaluation.counts import table_shape
from lepton_fl.flower import ClientApp, Context, Message, MetricRecord, RecordDict, enter_run
from lepton_fl.privacy.rounds_spent import RoundsSpent, begin_round
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import Welcome

_PLANNED = 1_000_000  # rounds; a bench ends before
_ROWS, _COLUMNS = table_shape(outputs=1)


def prompt_app(institution: str, spent: RoundsSpent) -> ClientApp:
    """Notes the round as the real one does, and answers with the very arrays that came."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        begin_round(spent, institution, message.content.config_records["config"]["server-round"], _PLANNED)
        metrics = MetricRecord({WEIGHT_KEY: 1, TRAIN_LOSS_KEY: 0.5})
        content = RecordDict({"arrays": message.content.array_records["arrays"], "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        counts = [1] + [0] * (_ROWS * _COLUMNS - 2) + [1]
        metrics = MetricRecord({WEIGHT_KEY: 2, "loss-sum": 1.0, "counts": counts})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class Prompt(Agent):
    """The product's agent, with `prompt_app` in the place of a program."""

    def __init__(self, home: Home) -> None:
        limits = Limits(epsilon=0.0, delta=0.0, not_private=True, exact_counts=True, holdout_share=1.0)
        super().__init__(home, Own(DataSource(None, None), limits, torch.device("cpu")), lambda point: None)
        self._place = home

    def join(self, welcome: Welcome) -> Job:
        """See `Agent.join`; no data is read."""
        enter_run(welcome.run_id)
        spent = OnDisk(self._place.path / "rounds", welcome.run_id)
        context = Context(welcome.run_id, welcome.node_id, {}, RecordDict(), {})
        app = prompt_app(self._place.institution, spent)
        return Job(welcome.run_id, welcome.node_id, app, context, spent, may_count=True)


def channel_of(home: Home) -> grpc.Channel:
    """A channel as the product's agent opens it."""
    ca, key, certificate = home.credentials()
    return grpc.secure_channel(home.addresses[0], grpc.ssl_channel_credentials(ca, key, certificate))


if __name__ == "__main__":
    here = open_home(Path(sys.argv[1]))
    with channel_of(here) as channel:
        Prompt(here).connect(channel)
