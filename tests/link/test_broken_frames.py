"""What breaks the protocol ends its own stream with a sentence, and nobody else notices."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from operators import REPLY_BYTES, World, told
from peers import HEARTBEAT, Peer, hello, joined, reply_parts

from lepton_fl.link import frames
from lepton_fl.link.frames import LARGEST_ENVELOPE, Parts
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame

BROKEN = grpc.StatusCode.INVALID_ARGUMENT
pytestmark = pytest.mark.usefixtures("nothing_is_lost")


# Broken frames. Each pair is what is sent after hello to answer an instruction, and what the sender is told.


def begin(asked: str, **fields: Any) -> ClientFrame:
    return ClientFrame(begin=Begin(reply_to_message_id=asked, **fields))


def chunk(data: bytes) -> ClientFrame:
    return ClientFrame(chunk=Chunk(data=data))


SHORT = {"envelope_bytes": 4, "sha256": Parts(b"good", ()).sha256}
BREAKS = {
    "too much announced": (lambda asked: [begin(asked, array_bytes=[1 << 62, 1 << 62])], "9223372036854775808 bytes"),
    "a little too much": (lambda asked: [begin(asked, array_bytes=[REPLY_BYTES + (16 << 20) + 1])], "may come"),
    "too many parts": (lambda asked: [begin(asked, array_bytes=[0] * 10_001)], "10002 parts"),
    "a chunk longer than announced": (lambda asked: [begin(asked, **SHORT), chunk(b"goods")], "longer than"),
    "an empty chunk": (lambda asked: [begin(asked, **SHORT), chunk(b"")], "is empty"),
    "another digest": (lambda asked: [begin(asked, **SHORT), chunk(b"evil")], "does not have the digest"),
    "a chunk without a message": (lambda asked: [chunk(b"good")], "without a message"),
    "one more chunk": (lambda asked: [begin(asked, **SHORT), chunk(b"good"), chunk(b"!")], "without a message"),
    "a message in a message": (lambda asked: [begin(asked, **SHORT), begin(asked, **SHORT)], "begins inside another"),
    "an id too long": (lambda asked: [begin("x" * 65, **SHORT)], "an id of 65 characters"),
    "a message of no bytes": (lambda asked: [begin(asked)], "is empty"),
    "no digest": (lambda asked: [begin(asked, envelope_bytes=4)], "without its SHA-256"),
    "a part that nobody has": (lambda asked: [begin(asked, offset=2, **SHORT)], "an unknown part"),
    "a second hello": (lambda asked: [hello()], "may not come now"),
    "an empty frame": (lambda asked: [ClientFrame()], "may not come now"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_frame_ends_the_stream_with_what_was_wrong(
    world: World, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = BREAKS[broken]
    asked = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.send(*make(asked))
        ending = peer.ending()
    assert ending.code == BROKEN
    assert reason in ending.detail
    assert f"elm: {ending.detail}" in caplog.messages


def test_after_a_broken_frame_the_same_instruction_can_still_be_answered(world: World) -> None:
    asked = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.send(begin(asked, **SHORT), chunk(b"evil"))
        peer.ending()
    with joined(world.elm, world.port) as peer:
        assert peer.instruction() == asked
        peer.reply(asked, reply_parts(7))
        answer = world.federation.answer(asked)
    assert answer is not None
    assert told(answer) == 7


def test_an_envelope_over_its_limit_is_refused_when_it_is_announced(world: World) -> None:
    asked = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.send(begin(asked, envelope_bytes=LARGEST_ENVELOPE + 1))  # and not one byte of it
        ending = peer.ending()
    assert ending.code == BROKEN
    assert f"an envelope of {LARGEST_ENVELOPE + 1} bytes is announced" in ending.detail


def test_a_reply_that_is_no_message_is_an_error_of_its_sender_alone(world: World) -> None:
    asked = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.reply(asked, Parts(b"\xff" * 100, ()))
        answer = world.federation.answer(asked)
    assert answer is not None
    assert answer.has_error()
    assert answer.metadata.src_node_id == world.elm.node_id


@pytest.mark.parametrize("junk", [b"\xff" * 10, b"\x0a\xff", bytes(100)])
def test_what_is_no_frame_ends_the_stream_with_a_sentence(world: World, junk: bytes) -> None:
    with joined(world.elm, world.port) as peer:
        peer.send(junk)
        ending = peer.ending()
    assert (ending.code, ending.detail) == (BROKEN, "what came is no frame")


def test_a_first_frame_that_is_none_is_refused(world: World) -> None:
    with Peer(world.elm, world.port, b"\xff" * 10) as peer:
        ending = peer.ending()
    assert (ending.code, ending.detail) == (BROKEN, "the first frame is none")


@pytest.mark.parametrize("number", range(20))
def test_a_stream_broken_right_after_hello_is_ended_and_not_left_hanging(world: World, number: int) -> None:
    with Peer(world.elm, world.port, hello(), ClientFrame()) as peer:
        assert peer.ending().code == BROKEN


# Hello


@pytest.mark.parametrize("protocol", [frames.PROTOCOL + 1, 2**32 - 1])
def test_another_protocol_is_refused_with_both_numbers(world: World, protocol: int) -> None:
    with Peer(world.elm, world.port, hello(protocol)) as peer:
        ending = peer.ending()
    assert ending.code == grpc.StatusCode.FAILED_PRECONDITION
    assert f"speaks protocol {frames.PROTOCOL}, the institution {protocol}; update the older one" in ending.detail


@pytest.mark.parametrize(
    "first", [HEARTBEAT, hello(protocol=0), ClientFrame()], ids=["heartbeat", "no number", "empty"]
)
def test_who_does_not_begin_with_hello_is_refused(world: World, first: ClientFrame) -> None:
    with Peer(world.elm, world.port, first) as peer:
        ending = peer.ending()
    assert ending.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "the institution none; update the older one" in ending.detail


@pytest.mark.slow
def test_fifty_who_never_say_hello_are_sent_away_after_ten_seconds_and_take_no_place(world: World) -> None:
    with joined(world.elm, world.port) as peer:
        began = time.monotonic()
        silent = [Peer(world.elm, world.port) for _ in range(50)]
        assert world.federation.works_with(world.elm, peer)
        endings = {one.ending() for one in silent}
        took_s = time.monotonic() - began
        for one in silent:
            one.close()
        assert world.federation.works_with(world.elm, peer)
    assert {(one.code, one.detail) for one in endings} == {(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")}
    assert 9 < took_s < 25


def test_a_second_stream_takes_the_place_and_the_first_is_told_to_stay_away(world: World) -> None:
    with joined(world.elm, world.port) as first, joined(world.elm, world.port) as second:
        goodbye = first.until("goodbye").goodbye
        assert goodbye.stay_away
        assert "another process connected" in goodbye.reason
        assert first.ending().code == grpc.StatusCode.OK
        assert world.federation.works_with(world.elm, second)


def test_a_replaced_stream_that_goes_on_sending_still_hears_the_goodbye(world: World) -> None:
    with joined(world.elm, world.port) as first:
        first.send(*[HEARTBEAT] * 2000)
        with joined(world.elm, world.port) as second:
            first.send(*[HEARTBEAT] * 2000)
            assert first.until("goodbye").goodbye.stay_away
            assert world.federation.works_with(world.elm, second)


def test_the_records_are_whole_after_all_this(world: World) -> None:
    store = world.operator.store()
    try:
        assert store.institutions() != []
    finally:
        store.close()
