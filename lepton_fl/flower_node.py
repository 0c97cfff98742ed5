"""The door to a SuperNode: its messages are answered by a process that the institution started, with installed code.

A SuperNode that is started with `--isolation process` runs no code of a run's: it waits for a program beside it that
asks for messages and brings answers. Flower's own such program unpacks the bundle that came with the run, and executes
what is in it; this one leaves the bundle as it is.

The names that are imported here are private to Flower, and were read in 1.41.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lepton_fl.errors import ConfigError
from lepton_fl.flower import Context, Message

_log = logging.getLogger(__name__)
_PAUSE_S = 0.5
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def serve(address: str, answers: Callable[[Message], Message]) -> NoReturn:
    """Answer every message that the SuperNode at this address hands out, one after the other, until stopped.

    Args:
        address: `host:port` of its Runtime API, on this machine, since nothing is encrypted on the way.
        answers: is not to raise.

    Raises:
        ConfigError: another machine's address.
    """
    host, _, port = address.rpartition(":")
    if host not in _LOOPBACK or not port.isdecimal():
        raise ConfigError(
            f"runtime must be 127.0.0.1:PORT, the --port of a SuperNode on this machine, got {address[:60]}; nothing "
            "was answered; correct it"
        )
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    with _client(address, "SuperExec") as client:
        while True:
            found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
            if not (found.HasField("task") and found.token):
                time.sleep(_PAUSE_S)
                continue
            try:
                _carry(address, found.token, answers)
            except Exception as error:  # the SuperNode lost the run, say; the next message is another matter
                _log.warning("an answer did not reach the SuperNode: %s", type(error).__name__)


def _carry(address: str, token: str, answers: Callable[[Message], Message]) -> None:
    from flwr.common.constant import SubStatus
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
    from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

    context: Context | None = None
    status = SubStatus.FAILED
    with _client(address, "flwr-clientapp", RuntimeTokenHttpInterceptor(token)) as client:
        alive = HeartbeatSender(make_task_heartbeat_fn_http(client))
        alive.start()
        try:
            message, context, _, _ = pull_task_input(client)  # the last is the bundle, which nobody opens
            push_message(client, answers(message), context)
            status = SubStatus.COMPLETED
        finally:
            push_task_output(client, context, status, "")
            alive.stop()


@contextmanager
def _client(address: str, name: str, *more: Any) -> Iterator[Any]:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=name), *more],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    try:
        yield client
    finally:
        client.close()
