"""W2 by Flower's simulation engine on Ray: Flower's own FedAvg, one worker a processor, this machine alone."""

from __future__ import annotations

import os
import secrets

os.environ |= {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray listens on this machine alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import workload
from flower_client import client_app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

MANY = 1_000_000


class ByRequest(FedAvg):
    """Flower's strategy; each round waits until it is asked for, and its cohort is the workload's."""

    def __init__(self, turns: workload.Turns, nodes: dict[int, int]) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._turns, self._nodes = turns, nodes
        self._rounds: Iterator[int] = iter(turns)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """See FedAvg."""
        round = next(self._rounds, None)
        if round is None:
            raise EOFError("no further round is asked for")
        record = RecordDict({"arrays": arrays, "config": config})
        return self._construct_messages(record, [self._nodes[one] for one in workload.cohort(round)], "train")

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """See FedAvg."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        self._turns.done(list(arrays.to_torch_state_dict().values()))
        return arrays, metrics


def numbered(grid: Grid) -> dict[int, int]:
    """Institution: its node."""
    while len(nodes := list(grid.get_node_ids())) < workload.INSTITUTIONS:
        pass
    asked = [Message(RecordDict(), node, "query") for node in nodes]
    replies = list(grid.send_and_receive(asked))
    return {int(str(one.content.metric_records["number"]["number"])): one.metadata.src_node_id for one in replies}


def main() -> None:
    """Rounds by request."""
    began = workload.before()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    turns = workload.Turns("Flower on Ray", began)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        net = workload.model()
        strategy = ByRequest(turns, numbered(grid))
        turns.ready()
        try:
            strategy.start(grid, ArrayRecord(net.state_dict()), num_rounds=MANY)
        except EOFError:
            return

    run_simulation(
        server_app,
        client_app,
        workload.INSTITUTIONS,
        backend_config={
            "init_args": {"address": "local", "log_to_driver": False, "configure_logging": False},
            "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
