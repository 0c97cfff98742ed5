"""The yardstick: the same bytes both ways on a bare gRPC stream, over the same mutual TLS and in the same chunks.

No messages, no digests, no disk: what gRPC for Python does on this machine at best.

Usage: raw.py HOME PORT      (a process that `streams` starts)
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from institution import channel_of
from lepton_client.home import open_home
from loopback import Loopback, free_port, processes

from lepton_fl.link.frames import CHUNK_BYTES

WAIT_S = 60.0
SIZE = 50 << 20  # bytes, each way
_CHUNKS = (bytes(CHUNK_BYTES),) * (SIZE // CHUNK_BYTES)
_METHOD = ("lepton_fl.bench", "Raw")


class Raw:
    """Open streams to processes that send back as much as they are sent; from `streams` alone."""

    def __init__(self, federation: Loopback, port: int) -> None:
        self._credentials, self._port = (federation.credentials, federation.ca), port
        self._open: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="raw", daemon=True)
        self._connected = threading.Semaphore(0)

    def seconds(self, institutions: int) -> float:
        """For SIZE bytes to so many institutions, and after that from each of them."""
        began = time.perf_counter()
        self._do(self._transfers(institutions))
        return time.perf_counter() - began

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._do(self._serve())

    def wait(self, institutions: int) -> None:
        """Until so many are connected."""
        for _ in range(institutions):
            if not self._connected.acquire(timeout=WAIT_S):
                raise RuntimeError("a raw stream was not opened")

    def stop(self) -> None:
        """Close every stream."""
        self._do(self._server.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    async def _serve(self) -> None:
        (key, chain), ca = self._credentials
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler: Any = grpc.stream_stream_rpc_method_handler(self._stream)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_METHOD[0], {_METHOD[1]: handler}),)
        )
        credentials = grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)
        self._server.add_secure_port(f"127.0.0.1:{self._port}", credentials)
        await self._server.start()

    async def _stream(self, incoming: AsyncIterator[bytes], context: Any) -> None:
        self._open.append(context)
        self._connected.release()
        await asyncio.Event().wait()

    async def _transfers(self, institutions: int) -> None:
        await asyncio.gather(*(_transfer(context) for context in self._open[:institutions]))


async def _transfer(context: Any) -> None:
    for chunk in _CHUNKS:
        await context.write(chunk)
    left = SIZE
    while left > 0:
        left -= len(await context.read())


@contextmanager
def streams(federation: Loopback) -> Iterator[Raw]:
    """A raw stream from a process for each institution, with its certificate."""
    port = free_port()
    raw = Raw(federation, port)
    raw.start()
    try:
        with processes([[__file__, str(home.path), str(port)] for home in federation.homes]):
            raw.wait(len(federation.homes))
            yield raw
    finally:
        raw.stop()


def _send_back(channel: grpc.Channel) -> None:
    due: queue.SimpleQueue[None] = queue.SimpleQueue()

    def outgoing() -> Iterator[bytes]:
        while True:
            due.get()
            yield from _CHUNKS

    left = SIZE
    stream: Any = channel.stream_stream("/" + "/".join(_METHOD))
    for data in stream(outgoing()):
        left -= len(data)
        if left == 0:
            left = SIZE
            due.put(None)


if __name__ == "__main__":
    here = open_home(Path(sys.argv[1]))
    with channel_of(replace(here, addresses=(f"127.0.0.1:{sys.argv[2]}",))) as opened:
        _send_back(opened)
