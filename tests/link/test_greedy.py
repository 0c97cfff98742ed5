"""A member that wants more than its share: of memory, of streams, of everybody's time."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from alone import Served
from lepton_server.hub import Limits
from line import Line
from operators import Federation, Operator
from peers import WAIT_S, Member, Peer, connect, hello, joined, reply_frames, reply_parts, tls

from lepton_fl.link.frames import SILENCE_S, Parts
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame, ServerFrame

MB = 1 << 20
STREAMS = 200


@dataclass
class Scene:
    """A server alone in its process, an honest member on its stream, and a greedy one."""

    operator: Operator
    served: Served
    honest: Member
    beside: Peer
    greedy: Member

    @property
    def port(self) -> int:
        return self.operator.port

    def rss(self) -> float:
        return self.served.usage().rss_bytes / MB


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    operator = Operator(tmp_path / "server")
    honest, greedy = operator.admit("honest"), operator.admit("greedy")
    with Served(operator) as served, joined(honest, operator.port) as beside:
        assert served.works_with(honest, beside)
        yield Scene(operator, served, honest, beside, greedy)
        assert served.works_with(honest, beside)
        assert "Traceback" not in served.log


def wait_until(holds: object, wait_s: float = WAIT_S) -> bool:
    assert callable(holds)
    end = time.monotonic() + wait_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# Who never reads


@pytest.fixture
def deaf(scene: Scene) -> Iterator[Peer]:
    """A stream of the greedy member that sends heartbeats, reads nothing, and whose line to it is full."""
    with Peer(scene.greedy, scene.port, hello()) as peer:
        assert wait_until(lambda: scene.served.usage().sessions == 2)
        scene.served.collect(scene.served.ask(scene.greedy, 8 * MB))
        yield peer


def test_instructions_given_up_are_not_kept_for_a_member_that_does_not_read(scene: Scene, deaf: Peer) -> None:
    before = scene.rss()
    for _ in range(20):
        scene.served.collect(scene.served.ask(scene.greedy, 8 * MB))
    grown = scene.rss() - before
    sys.stdout.write(f"\n20 instructions of 8 MB given up: {grown:.0f} MB more\n")
    assert grown < 40


@pytest.mark.slow
def test_acknowledgements_are_not_kept_for_a_member_that_does_not_read(scene: Scene, deaf: Peer) -> None:
    deaf.send(*[frame for number in range(200) for frame in reply_frames(Parts(b"x", ()), f"{number:064}")])
    assert wait_until(lambda: scene.served.usage().sessions == 1)
    assert "greedy: more is asked for than is read" in scene.served.log


@pytest.mark.slow
def test_an_id_of_a_megabyte_is_neither_kept_nor_answered(scene: Scene, deaf: Peer) -> None:
    before = scene.rss()
    deaf.send(*[frame for number in range(100) for frame in reply_frames(Parts(b"x", ()), f"{number}" + "x" * MB)])
    assert wait_until(lambda: scene.served.usage().sessions == 1)
    assert scene.rss() - before < 40


@pytest.mark.slow
def test_a_revoked_member_that_does_not_read_gets_nothing_more_once_it_does(scene: Scene, deaf: Peer) -> None:
    scene.operator.revoke("greedy")
    time.sleep(5)
    asked = scene.served.ask(scene.greedy)
    heard = [deaf.receive()]
    while isinstance(heard[-1], ServerFrame):
        heard.append(deaf.receive())
    assert asked not in str(heard)
    assert heard[-1].code == grpc.StatusCode.PERMISSION_DENIED
    assert wait_until(lambda: scene.served.usage().sessions == 1)


def test_a_member_that_does_not_read_loses_its_place_when_it_is_revoked(scene: Scene, deaf: Peer) -> None:
    scene.operator.revoke("greedy")
    assert wait_until(lambda: scene.served.usage().sessions == 1, 8.0)


@pytest.mark.slow
def test_a_member_that_neither_reads_nor_speaks_loses_its_place(scene: Scene, deaf: Peer) -> None:
    deaf.fall_silent()
    assert wait_until(lambda: scene.served.usage().sessions == 1, SILENCE_S + 5)


@pytest.mark.slow
def test_a_network_that_vanishes_within_an_instruction_is_noticed(scene: Scene) -> None:
    with Line(scene.port) as line:
        line.down.bytes_per_s = 1e6
        with joined(scene.greedy, line.port):
            scene.served.ask(scene.greedy, 8 * MB)
            assert wait_until(lambda: line.down.passed > MB / 2)
            line.drop()
            began = time.monotonic()
            assert wait_until(lambda: scene.served.usage().sessions == 1, 60)
            sys.stdout.write(f"\nnoticed after {time.monotonic() - began:.0f} s\n")
            line.restore()


@pytest.mark.slow
def test_an_older_stream_that_does_not_read_ends_when_it_is_replaced(scene: Scene, deaf: Peer) -> None:
    before = scene.served.usage().tasks
    with joined(scene.greedy, scene.port):
        assert wait_until(lambda: scene.served.usage().tasks <= before + 1, 20.0)


# Who sends in crumbs


@pytest.mark.slow
def test_a_message_in_crumbs_takes_about_the_memory_of_its_bytes(scene: Scene) -> None:
    asked, crumbs = scene.served.ask(scene.greedy), 100_000
    announced = Begin(reply_to_message_id=asked, envelope_bytes=2 * crumbs + 1, sha256=bytes(32))
    with joined(scene.greedy, scene.port) as peer:
        peer.send(ClientFrame(begin=announced))
        send_crumbs(scene, peer, crumbs // 10)  # whatever a first message takes is taken
        before = scene.rss()
        send_crumbs(scene, peer, crumbs - crumbs // 10)
        grown = scene.rss() - before
    sys.stdout.write(f"\n{2 * crumbs / MB:.2f} MB in crumbs of 2 bytes: {grown:.1f} MB more\n")
    assert grown < 2  # as objects of their own, they would take 4


def send_crumbs(scene: Scene, peer: Peer, number: int) -> None:
    """So many chunks of 2 bytes have arrived."""
    crumb, before = ClientFrame(chunk=Chunk(data=b"ab")), scene.served.usage().received_bytes
    peer.send(*[crumb] * number)
    assert wait_until(lambda: scene.served.usage().received_bytes - before >= number * crumb.ByteSize(), 120.0)


# Who takes many places


def ended(channel: grpc.Channel, stop: threading.Event, results: list[str]) -> None:
    """One stream that stays as long as it may; notes why it ended."""

    def outgoing() -> Iterator[ClientFrame]:
        yield hello()
        stop.wait()

    call = connect(channel, outgoing(), timeout_s=60)
    try:
        frames = [frame.WhichOneof("frame") for frame in call]
        results.append(frames[-1])
    except grpc.RpcError:
        results.append(call.code().name)


def test_two_hundred_streams_of_one_member_leave_it_one_place(scene: Scene) -> None:
    before = scene.served.usage()
    stop = threading.Event()
    results: list[str] = []
    with scene.greedy.channel(scene.port) as channel:
        threads = [threading.Thread(target=ended, args=(channel, stop, results)) for _ in range(STREAMS)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: len(results) == STREAMS - 1)
        assert scene.served.works_with(scene.honest, scene.beside)
        during = scene.served.usage()
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert results[:-1] == ["goodbye"] * (STREAMS - 1)
    assert during.sessions == 2
    assert wait_until(lambda: scene.served.usage().tasks <= before.tasks + 2)
    after = scene.served.usage()
    sys.stdout.write(f"\n{STREAMS} streams: {(after.rss_bytes - before.rss_bytes) / MB:.1f} MB more afterwards\n")
    assert after.rss_bytes - before.rss_bytes < 40 * MB


@pytest.mark.slow
def test_two_hundred_connections_that_say_nothing_hold_nobody_up(scene: Scene) -> None:
    with ExitStack() as open_ones:
        for _ in range(STREAMS):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", scene.port), timeout=WAIT_S))
        for _ in range(20):
            open_ones.enter_context(tls(scene.port, scene.greedy))
        assert scene.served.works_with(scene.honest, scene.beside)
        with joined(scene.greedy, scene.port) as peer:
            assert scene.served.works_with(scene.greedy, peer)
        assert scene.served.usage().sessions <= 2


# Who keeps everybody waiting

ROUND_S = 10.0


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[tuple[Federation, Member, Member]]:
    operator = Operator(tmp_path / "server")
    honest, other = operator.admit("honest"), operator.admit("other")
    with Federation(operator, Limits(quorum_s=10.0, round_s=ROUND_S, grace_s=2.0)) as made:
        made.begin_run(honest, other)
        yield made, honest, other


def a_round(federation: Federation, *members: Member) -> tuple[threading.Thread, list[int]]:
    """A round under way in a thread, and who answered once it is over; dead ends do not count."""
    messages = [federation.message(member) for member in members]
    answered: list[int] = []

    def conduct() -> None:
        answers = federation.grid.send_and_receive(messages)
        answered.extend(answer.metadata.src_node_id for answer in answers if not answer.has_error())

    thread = threading.Thread(target=conduct)
    thread.start()
    return thread, answered


def test_a_round_does_not_wait_for_a_member_revoked_in_it(federation: tuple[Federation, Member, Member]) -> None:
    made, honest, other = federation
    port = made.operator.port
    with joined(honest, port) as peer, joined(other, port) as revoked:
        began = time.monotonic()
        thread, answered = a_round(made, honest, other)
        asked = peer.instruction()
        peer.reply(asked, reply_parts())
        revoked.instruction()
        made.operator.revoke("other")
        thread.join(WAIT_S)
        took_s = time.monotonic() - began
    assert answered == [honest.node_id]
    assert took_s < ROUND_S - 2


def test_the_answer_of_a_member_revoked_before_the_round_ends_is_not_used(
    federation: tuple[Federation, Member, Member],
) -> None:
    made, honest, other = federation
    port = made.operator.port
    with joined(honest, port) as peer, joined(other, port) as revoked:
        thread, answered = a_round(made, honest, other)
        asked = revoked.instruction()
        revoked.reply(asked, reply_parts())
        revoked.until("ack")
        made.operator.revoke("other")
        assert revoked.ending().code == grpc.StatusCode.PERMISSION_DENIED
        asked = peer.instruction()
        peer.reply(asked, reply_parts())
        thread.join(WAIT_S)
    assert answered == [honest.node_id]


def test_a_member_that_is_gone_is_waited_for_no_longer_than_the_grace(
    federation: tuple[Federation, Member, Member], caplog: pytest.LogCaptureFixture
) -> None:
    made, honest, other = federation
    port = made.operator.port
    caplog.set_level(logging.INFO)
    with joined(honest, port) as peer:
        leaver = joined(other, port)
        began = time.monotonic()
        thread, answered = a_round(made, honest, other)
        leaver.instruction()
        leaver.close()
        asked = peer.instruction()
        peer.reply(asked, reply_parts())
        thread.join(WAIT_S)
        took_s = time.monotonic() - began
    assert answered == [honest.node_id]
    assert 2 <= took_s < ROUND_S - 2
