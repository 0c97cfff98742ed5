"""Random and mutated frames by a member, thousands of them: the server neither falls, hangs nor grows."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest
from alone import Served, Usage
from operators import Operator
from peers import HEARTBEAT, Member, Peer, connect, hello, joined, reply_frames, reply_parts

from lepton_fl.link.frames import HEARTBEAT_S, Parts
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame

WARM_UP, FRAMES = 1_000, 10_000
HUNG_S = 20.0  # all has been sent, and the server still has not ended the stream
MOST_GROWTH = 20 << 20
TASKS_OF_A_STREAM = 8  # gRPC's own, and the hub's


@dataclass
class Barrage:
    """What was thrown, and what it did."""

    seed: int
    sent: int = 0
    streams: int = 0
    hung: list[list[bytes]] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    honest: list[bool] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    tasks: int = 0  # in the server's loop, once the honest stream is the only one
    log: str = ""
    took_s: float = 0.0


class Thrower:
    """Makes streams of frames, all from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret

    def stream(self, asked: str) -> list[bytes]:
        """What one stream sends; `asked` is an instruction that the sender really owes an answer to."""
        kind = self._random.choice([self._noise, self._bent, self._bent, self._envelope])
        return kind(asked)

    def _noise(self, asked: str) -> list[bytes]:
        first = [hello().SerializeToString()] if self._random.random() < 0.7 else []
        sizes = [self._random.choice([0, 1, 2, 5, 50, 2000, 100_000]) for _ in range(self._random.randint(1, 8))]
        return first + [self._random.randbytes(size) for size in sizes]

    def _bent(self, asked: str) -> list[bytes]:
        """A valid conversation with one to three mistakes in it."""
        parts = Parts(reply_parts().envelope, (bytes(1000), b""))
        whole = [hello(), HEARTBEAT, *reply_frames(parts, self._random.choice([asked, asked, "other", ""]))]
        frames = [frame.SerializeToString() for frame in whole]
        for _ in range(self._random.randint(1, 3)):
            bend = self._random.choice([self._flip, self._truncate, self._repeat, self._reorder, self._lie])
            frames = bend(frames)
        return frames

    def _envelope(self, asked: str) -> list[bytes]:
        """Sound frames around a damaged message, so that it reaches whoever reads messages."""
        envelope = reply_parts(self._random.getrandbits(40)).envelope
        for _ in range(self._random.randint(1, 6)):
            envelope = self._damaged(envelope)
        parts = Parts(envelope or b"\x00", ())
        return [frame.SerializeToString() for frame in (hello(), *reply_frames(parts, asked), HEARTBEAT)]

    def _damaged(self, data: bytes) -> bytes:
        if not data:
            return data
        place = self._random.randrange(len(data))
        return self._random.choice(
            [
                data[:place] + bytes([data[place] ^ 1 << self._random.randrange(8)]) + data[place + 1 :],
                data[:place],
                data[:place] + self._random.randbytes(3) + data[place:],
                data[:place] + data[place // 2 :],
            ]
        )

    def _flip(self, frames: list[bytes]) -> list[bytes]:
        chosen = self._random.randrange(len(frames))
        return [self._damaged(frame) if number == chosen else frame for number, frame in enumerate(frames)]

    def _truncate(self, frames: list[bytes]) -> list[bytes]:
        return frames[: self._random.randint(1, len(frames))]

    def _repeat(self, frames: list[bytes]) -> list[bytes]:
        chosen = self._random.randrange(len(frames))
        return frames[:chosen] + [frames[chosen]] * self._random.randint(2, 10) + frames[chosen + 1 :]

    def _reorder(self, frames: list[bytes]) -> list[bytes]:
        return self._random.sample(frames, len(frames))

    def _lie(self, frames: list[bytes]) -> list[bytes]:
        """An announcement of anything."""
        sizes = [self._random.choice([0, 1, 4, 1 << 20, (1 << 64) - 1]) for _ in range(self._random.randint(0, 5))]
        data = self._random.randbytes(4)
        digest = self._random.choice([b"", hashlib.sha256(data).digest(), self._random.randbytes(100)])
        lie = Begin(
            message_id="x" * 1000, envelope_bytes=sizes[0] if sizes else 4, array_bytes=sizes[1:], sha256=digest
        )
        told = [ClientFrame(begin=lie), ClientFrame(chunk=Chunk(data=data))]
        return [frames[0], *[frame.SerializeToString() for frame in told], *frames[1:]]


class Hostile:
    """A member that sends what it is given on one connection, a stream after another."""

    def __init__(self, member: Member, channel: grpc.Channel, barrage: Barrage) -> None:
        self._member, self._channel, self._barrage = member, channel, barrage

    def throw(self, frames: list[bytes]) -> None:
        """One stream, until the server ends it."""
        call = connect(self._channel, self._counted(frames), timeout_s=HUNG_S)
        self._barrage.streams += 1
        began = time.monotonic()
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            if call.code() == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began >= HUNG_S:
                self._barrage.hung.append(frames)
        name = call.code().name
        self._barrage.codes[name] = self._barrage.codes.get(name, 0) + 1

    def _counted(self, frames: list[bytes]) -> Iterator[bytes]:
        for frame in frames:
            self._barrage.sent += 1
            yield frame


def throw_all(served: Served, hostile: Member, honest: tuple[Member, Peer], barrage: Barrage, port: int) -> None:
    """Warm up, look at the memory, throw the rest, look again; the honest member works all along."""
    thrower = Thrower(barrage.seed)
    with hostile.channel(port) as channel:
        arm = Hostile(hostile, channel, barrage)
        for until in (WARM_UP, WARM_UP + FRAMES):
            while barrage.sent < until and len(barrage.hung) < 3:
                asked = served.ask(hostile)
                arm.throw(thrower.stream(asked))
                served.collect(asked)
                if barrage.streams % 50 == 0:
                    barrage.honest.append(served.works_with(*honest))
            barrage.usages.append(served.usage())
    barrage.honest.append(served.works_with(*honest))


def settled_tasks(served: Served) -> int:
    """What is left once a writer that still waits for something to write has had its heartbeat's time."""
    end = time.monotonic() + 2 * HEARTBEAT_S
    while (tasks := served.usage().tasks) > 2 * TASKS_OF_A_STREAM and time.monotonic() < end:
        time.sleep(0.2)
    return tasks


@pytest.fixture(scope="module")
def barrage(tmp_path_factory: pytest.TempPathFactory) -> Barrage:
    operator = Operator(tmp_path_factory.mktemp("garbage") / "server")
    honest, hostile = operator.admit("honest"), operator.admit("hostile")
    made = Barrage(int(os.environ.get("LEPTON_TEST_SEED") or random.SystemRandom().getrandbits(32)))
    sys.stdout.write(f"\nto repeat: LEPTON_TEST_SEED={made.seed}\n")
    began = time.monotonic()
    with Served(operator) as served, joined(honest, operator.port) as peer:
        throw_all(served, hostile, (honest, peer), made, operator.port)
        made.tasks = settled_tasks(served)
        made.log = served.log
    made.took_s = time.monotonic() - began
    before, after = (usage.rss_bytes / 2**20 for usage in made.usages)
    sys.stdout.write(
        f"{made.sent} frames in {made.streams} streams, {made.took_s:.0f} s; the server had {before:.1f} MB after "
        f"{WARM_UP} frames and {after:.1f} MB at the end; streams ended {made.codes}\n"
    )
    return made


def test_the_server_is_still_there_after_all_of_it(barrage: Barrage) -> None:
    assert barrage.sent >= WARM_UP + FRAMES


def test_no_stream_hangs(barrage: Barrage) -> None:
    assert barrage.hung == []


def test_an_honest_institution_works_during_and_after(barrage: Barrage) -> None:
    assert len(barrage.honest) > 10
    assert all(barrage.honest)


def test_the_servers_memory_does_not_grow(barrage: Barrage) -> None:
    before, after = barrage.usages
    assert after.rss_bytes - before.rss_bytes < MOST_GROWTH


def test_no_task_is_left_behind(barrage: Barrage) -> None:
    assert barrage.tasks <= 2 * TASKS_OF_A_STREAM


def test_the_log_holds_a_line_about_what_was_wrong_and_no_traceback(barrage: Barrage) -> None:
    assert "hostile: what came is no frame" in barrage.log
    assert "Traceback" not in barrage.log
    assert "Task exception was never retrieved" not in barrage.log
