"""The test line itself: what it passes, how fast, and what it does when it vanishes."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from line import WAIT_S, Line


class Echo:
    """A server on loopback that sends everything back."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def line() -> Iterator[Line]:
    echo = Echo()
    with Line(echo.port) as made:
        yield made
    echo.close()


def connect(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=WAIT_S)


def receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (data := connection.recv(65536)):
        received += data
    return received


def there_and_back(connection: socket.socket, data: bytes) -> bytes:
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    received = receive(connection, len(data))
    sender.join(WAIT_S)
    return received


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(WAIT_S)
    return False


def test_bytes_arrive_unchanged_and_are_counted_each_way(line: Line) -> None:
    data = os.urandom(3_000_000)
    with connect(line) as connection:
        assert hashlib.sha256(there_and_back(connection, data)).digest() == hashlib.sha256(data).digest()
    assert (line.up.passed, line.down.passed) == (len(data), len(data))


def test_an_end_passes_through_and_what_was_sent_before_it_still_arrives(line: Line) -> None:
    with connect(line) as connection:
        connection.sendall(b"x" * 1000)
        connection.shutdown(socket.SHUT_WR)
        assert receive(connection, 2000) == b"x" * 1000


@pytest.mark.parametrize("slow", ["up", "down"])
def test_the_rate_is_about_what_was_asked(line: Line, slow: str) -> None:
    getattr(line, slow).bytes_per_s = 200_000
    with connect(line) as connection:
        began = time.monotonic()
        there_and_back(connection, bytes(200_000))
        took_s = time.monotonic() - began
    assert 0.8 < took_s < 4


def test_a_sender_feels_the_rate_and_not_this_machines_memory(line: Line) -> None:
    line.up.bytes_per_s = 1000
    with connect(line) as connection:
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(16_000_000))
    assert line.up.passed < 100_000


def test_a_delay_is_added_each_way(line: Line) -> None:
    line.up.delay_s, line.down.delay_s = 0.2, 0.3
    with connect(line) as connection:
        began = time.monotonic()
        there_and_back(connection, b"x")
        assert time.monotonic() - began >= 0.5


def test_a_drop_lets_nothing_through_and_a_restore_goes_on_where_it_was(line: Line) -> None:
    with connect(line) as connection:
        there_and_back(connection, b"before")
        line.drop()
        connection.sendall(b"during")
        assert is_silent(connection)
        line.restore()
        assert receive(connection, 6) == b"during"


def test_who_connects_during_a_drop_is_left_hanging_and_served_after_it(line: Line) -> None:
    line.drop()
    with connect(line) as connection:
        connection.sendall(b"hello")
        assert is_silent(connection)
        line.restore()
        assert receive(connection, 5) == b"hello"


def test_a_cut_resets_what_is_open_and_lets_new_connections_pass(line: Line) -> None:
    with connect(line) as connection:
        there_and_back(connection, b"before")
        line.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(line) as connection:
        assert there_and_back(connection, b"after") == b"after"
