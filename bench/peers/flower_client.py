"""An institution of W2 as a Flower ClientApp; a module of its own, so that workers can find it."""

from __future__ import annotations

from functools import cache
from typing import Any

import workload
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

client_app = ClientApp()


@cache
def kept() -> tuple[Any, Any]:
    """The data and a model, made once in each worker."""
    workload.limit_threads()
    return workload.institutions(), workload.model()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One institution's epoch."""
    data, net = kept()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    workload.train(net, *data[int(str(context.node_config["partition-id"]))])
    metrics = MetricRecord({"num-examples": workload.RECORDS})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@client_app.query()
def number(message: Message, context: Context) -> Message:
    """Which institution this node is."""
    told = MetricRecord({"number": int(str(context.node_config["partition-id"]))})
    return Message(RecordDict({"number": told}), reply_to=message)
