"""gRPC servers around the hub and the enrolment service, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import grpc

from lepton_fl.errors import ConfigError
from lepton_fl.v1.enrolment_pb2_grpc import add_EnrolmentServicer_to_server
from lepton_fl.v1.federation_pb2_grpc import add_FederationServicer_to_server
from lepton_server.enrolment import Enrolment
from lepton_server.hub import Hub

_GOODBYE_S = 0.3  # for what was posted last, a goodbye, to go out
_LEAVE_S = 1.0  # for an institution that heard it to leave by itself


@dataclass(frozen=True)
class Endpoint:
    """Where and as whom the hub serves."""

    federation: str  # host:port to listen on
    enrolment: str
    credentials: tuple[bytes, bytes]  # key and chain, PEM
    ca: bytes  # PEM


class Serving:
    """gRPC in a thread of its own, from `start` to `stop`."""

    def __init__(self, hub: Hub, enrolment: Enrolment, endpoint: Endpoint) -> None:
        self._hub, self._enrolment, self._endpoint = hub, enrolment, endpoint
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._servers: list[Any] = []
        self._thread = threading.Thread(target=self._main, name="hub", daemon=True)

    def start(self) -> None:
        """Begin to listen; raises `ConfigError` if a port cannot be had."""
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            raise ConfigError(
                f"cannot listen on {self._endpoint.federation} and {self._endpoint.enrolment}; nothing was started; is "
                "another server running on them?"
            ) from self._problem

    def stop(self) -> None:
        """Close every stream and port."""
        if self._problem is None:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._open())
        except BaseException as error:
            self._problem = error
            self._ready.set()
            return
        self._ready.set()
        self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        self._hub.begin_serving()
        key, chain = self._endpoint.credentials
        mutual = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=self._endpoint.ca, require_client_auth=True
        )
        one_way = grpc.ssl_server_credentials([(key, chain)])
        options = [("grpc.so_reuseport", 0)]  # a second server on the port must fail, not share it
        services: tuple[tuple[str, Any, Any, Any], ...] = (
            (self._endpoint.federation, mutual, add_FederationServicer_to_server, self._hub),
            (self._endpoint.enrolment, one_way, add_EnrolmentServicer_to_server, self._enrolment),
        )
        for address, credentials, add, servicer in services:
            server = grpc.aio.server(options=options)
            add(servicer, server)
            server.add_secure_port(address, credentials)
            await server.start()
            self._servers.append(server)

    async def _close(self) -> None:
        await self._hub.said(_GOODBYE_S)
        for server in self._servers:
            await server.stop(_LEAVE_S)
        await self._hub.end_serving()
