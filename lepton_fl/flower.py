"""The only door to Flower: its public names, its one private class, and its telemetry switched off.

Every other module takes Flower's names from here, so that the switches below are always set before
Flower is first imported (it reads them at import), and so that a new Flower release is checked in one
place. `tests/test_layers.py` refuses any other import of `flwr`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as strategies
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "AggregationError",
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "Grid",
    "InconsistentMessageReplies",
    "Message",
    "MessageType",
    "Metadata",
    "MetricRecord",
    "RecordDict",
    "Run",
    "ServerApp",
    "array_record",
    "as_the_node",
    "config_of",
    "enter_run",
    "model_of",
    "received",
    "strategies",
]

# Copies of integers in flwr.common.constant, which is private.
COORDINATOR_NODE_ID = 1
CLIENT_APP_RAISED = 2
NODE_UNAVAILABLE = 5

logging.getLogger("flwr").setLevel(logging.ERROR)


def enter_run(run_id: int) -> Run:
    """Make this process the coordinator of one run; Flower's messages cannot be built before.

    The identity is class-level in Flower, hence one run per process at a time.
    """
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = COORDINATOR_NODE_ID
    TaskIdentity.task_id = 1
    return Run.create_empty(run_id)


def config_of(content: RecordDict, name: str = "config") -> ConfigRecord:
    """The settings of an instruction, or another record of that kind; raises `KeyError` where there is none."""
    # Without Flower's views of a content's records, which are made anew whenever they are asked for.
    found = content[name]
    if not isinstance(found, ConfigRecord):
        raise KeyError(name)
    return found


def model_of(content: RecordDict) -> ArrayRecord:
    """The model of an instruction or a reply; raises `KeyError` where it has none."""
    found = content["arrays"]
    if not isinstance(found, ArrayRecord):
        raise KeyError("arrays")
    return found


def array_record(arrays: Iterable[tuple[str, Array]]) -> ArrayRecord:
    """A record that holds these very arrays, in this order; Flower's own way from a dictionary makes each anew."""
    record = ArrayRecord()
    for name, array in arrays:
        record[name] = array
    return record


@contextmanager
def as_the_node() -> Iterator[None]:
    """Whatever run is entered inside, the process is afterwards what Flower said it was."""
    was = TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id
    try:
        yield
    finally:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = was


def received(metadata: Metadata, body: RecordDict | Error) -> Message:
    """A message as the link delivers it; Flower keeps this constructor for its own link."""
    if isinstance(body, Error):
        return Message(error=body, metadata=metadata)  # type: ignore[call-overload,no-any-return]
    return Message(content=body, metadata=metadata)  # type: ignore[call-overload,no-any-return]
