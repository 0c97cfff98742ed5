"""A line between institutions and a server that a test can make slow, long, silent or broken.

A TCP proxy on loopback in a thread of its own. Buffers are kept small, so that a sender feels the line's rate and not
the memory of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

WAIT_S = 20.0
_BUFFER_BYTES = 64 << 10  # of each socket's kernel buffers
_PIECES_PER_S = 50  # a slow line passes many small pieces rather than a burst a second
_IN_FLIGHT = 4096  # pieces under way on a long line
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass
class Way:
    """One direction of the line, shared by all its connections."""

    bytes_per_s: float | None = None  # None: as fast as it goes
    delay_s: float = 0.0  # one way
    free_at: float = 0.0  # when the bytes taken so far have gone through
    of_each: list[int] = field(default_factory=list)  # bytes delivered, by connection in the order of connecting

    @property
    def passed(self) -> int:
        """Bytes delivered."""
        return sum(self.of_each)

    @property
    def piece_bytes(self) -> int:
        """How much is taken from a sender at once."""
        if self.bytes_per_s is None:
            return _BUFFER_BYTES
        return max(1, min(_BUFFER_BYTES, int(self.bytes_per_s / _PIECES_PER_S)))

    async def pace(self, size: int) -> None:
        """Until so many bytes have gone through, after those that came before."""
        if self.bytes_per_s is None:
            return
        self.free_at = max(time.monotonic(), self.free_at) + size / self.bytes_per_s
        await asyncio.sleep(self.free_at - time.monotonic())


class Line:
    """Clients connect to `port` and reach 127.0.0.1:`target`, from `with` to its end."""

    def __init__(self, target: int) -> None:
        self.up, self.down = Way(), Way()
        self.port = 0
        self._target = target
        self._open: dict[asyncio.Task[None], list[socket.socket]] = {}
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)

    def __enter__(self) -> Line:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def drop(self) -> None:
        """The network vanishes: nothing passes, not even an end; who connects now hears nothing."""
        self._do(self._flowing.clear)

    def restore(self) -> None:
        """It is back: what was under way arrives, as after a resend, and everything goes on."""
        self._do(self._flowing.set)

    def cut(self) -> None:
        """Reset every open connection, both ends; new ones pass."""
        self._do(self._reset)

    def _do(self, act: object) -> None:
        async def in_loop() -> None:
            assert callable(act)
            act()

        asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result(WAIT_S)

    def _reset(self) -> None:
        for task, ends in self._open.items():
            for end in ends:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            task.cancel()

    # -- in the loop

    async def _listen(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._server.setblocking(False)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # those accepted inherit it
        self.port = self._server.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())

    async def _end(self) -> None:
        tasks = [self._accepting, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._server.close()

    async def _accept(self) -> None:
        while True:
            near, _ = await self._loop.sock_accept(self._server)
            near.setblocking(False)
            ends = [near]
            task = asyncio.create_task(self._connection(ends))
            self._open[task] = ends
            task.add_done_callback(self._open.pop)

    async def _connection(self, ends: list[socket.socket]) -> None:
        near = ends[0]
        try:
            await self._flowing.wait()
            far = socket.socket()
            far.setblocking(False)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            ends.append(far)
            await self._loop.sock_connect(far, ("127.0.0.1", self._target))
            for end in ends:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(near, far, self.up))
                both.create_task(self._pass(far, near, self.down))
        except* OSError:
            pass  # one end is gone; closing both tells the other
        finally:
            for end in ends:
                end.close()

    async def _pass(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """Move bytes from one end to the other until the source ends, then end the sink too."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(source, way, under_way))
            both.create_task(self._deliver(sink, way, under_way))

    async def _take(self, source: socket.socket, way: Way, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            await self._flowing.wait()
            data = await self._loop.sock_recv(source, way.piece_bytes)
            await way.pace(len(data))
            await under_way.put((time.monotonic() + way.delay_s, data))

    async def _deliver(self, sink: socket.socket, way: Way, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        number = len(way.of_each)
        way.of_each.append(0)
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - time.monotonic())
            await self._flowing.wait()
            if not data:
                break
            await self._loop.sock_sendall(sink, data)
            way.of_each[number] += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
