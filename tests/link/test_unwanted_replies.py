"""A reply counts once, for the instruction of its own sender; every other is acknowledged and dropped."""

from __future__ import annotations

import pytest
from operators import World, told
from peers import HEARTBEAT, Peer, joined, reply_frames, reply_parts

pytestmark = pytest.mark.usefixtures("nothing_is_lost")


# Replies that nobody waits for


def acknowledged(peer: Peer) -> str:
    return peer.until("ack").ack.reply_to_message_id


def test_a_reply_nobody_asked_for_is_acknowledged_and_dropped(world: World) -> None:
    with joined(world.elm, world.port) as peer:
        peer.reply("nobody", reply_parts())
        assert acknowledged(peer) == "nobody"
        assert world.federation.answer("nobody", wait_s=0.5) is None
        assert world.federation.works_with(world.elm, peer)


def test_a_reply_for_another_institutions_instruction_is_not_taken(world: World) -> None:
    others = world.federation.ask(world.honest)
    with joined(world.elm, world.port) as peer:
        peer.reply(others, reply_parts(666))
        assert acknowledged(peer) == others
        assert world.federation.answer(others, wait_s=0.5) is None
    assert world.beside.instruction() == others
    world.beside.reply(others, reply_parts(1))
    answer = world.federation.answer(others)
    assert answer is not None
    assert (told(answer), answer.metadata.src_node_id) == (1, world.honest.node_id)


def test_a_reply_for_another_institutions_instruction_is_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    others = world.federation.ask(world.honest)
    with joined(world.elm, world.port) as peer:
        peer.reply(others, reply_parts(666))
        acknowledged(peer)
    world.beside.instruction()
    world.beside.reply(others, reply_parts(1))
    world.federation.answer(others)
    assert [line for line in caplog.messages if line.startswith("elm ") and "connected" not in line] != []


def test_the_same_reply_twice_counts_once_and_both_are_acknowledged(world: World) -> None:
    asked = world.federation.ask(world.elm)
    whole = reply_frames(reply_parts(5), asked)
    with joined(world.elm, world.port) as peer:
        peer.send(*whole, HEARTBEAT, *whole)
        answer = world.federation.answer(asked)
        assert (acknowledged(peer), acknowledged(peer)) == (asked, asked)
        assert world.federation.answer(asked, wait_s=0.5) is None
    assert answer is not None
    assert told(answer) == 5


def test_an_old_reply_does_not_answer_a_newer_instruction(world: World) -> None:
    old = world.federation.ask(world.elm)
    replayed = reply_frames(reply_parts(1), old)
    with joined(world.elm, world.port) as peer:
        peer.send(*replayed)
        assert world.federation.answer(old) is not None
        new = world.federation.ask(world.elm)
        peer.send(*replayed)
        assert world.federation.answer(new, wait_s=0.5) is None
        assert world.federation.answer(old, wait_s=0) is None
        peer.reply(new, reply_parts(2))
        answer = world.federation.answer(new)
    assert answer is not None
    assert told(answer) == 2


def test_old_bytes_under_the_newer_instructions_id_are_the_newer_ones_answer(world: World) -> None:
    old = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.reply(old, reply_parts(1))
        assert world.federation.answer(old) is not None
        new = world.federation.ask(world.elm)
        peer.reply(new, reply_parts(1))
        answer = world.federation.answer(new)
    assert answer is not None
    # Its own answer, so its own loss; but what the strategy sees belongs to the instruction it was taken for.
    assert answer.metadata.reply_to_message_id == new
    assert answer.metadata.src_node_id == world.elm.node_id


def test_an_answer_of_another_kind_is_a_failure(world: World) -> None:
    asked = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.reply(asked, reply_parts(1, kind="evaluate"))
        answer = world.federation.answer(asked)
    assert answer is not None
    assert answer.error.reason == "it answers another kind of message"


def test_an_answer_after_the_round_was_given_up_is_dropped(world: World) -> None:
    asked = world.federation.ask(world.elm)
    with joined(world.elm, world.port) as peer:
        peer.instruction()
        world.federation.hub.owing.give_up([asked])
        peer.reply(asked, reply_parts(1))
        assert acknowledged(peer) == asked
        assert world.federation.answer(asked, wait_s=0.5) is None
        assert world.federation.works_with(world.elm, peer)
