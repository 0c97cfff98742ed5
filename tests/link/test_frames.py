"""Cutting a message into frames and putting it together again, for any message, and for any lie about one."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some

from lepton_fl.link import frames
from lepton_fl.link.frames import CHUNK_BYTES, LARGEST_ENVELOPE, Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import Begin

ENOUGH = 1 << 30
SMALL = some.binary(max_size=40)
# Parts around the size of a chunk too: where cuts are made is where mistakes are.
PART = SMALL | some.integers(-2, 2).map(lambda more: b"\x5a" * (CHUNK_BYTES + more))
MESSAGE = some.builds(Parts, SMALL, some.lists(SMALL, max_size=5).map(tuple)).filter(lambda parts: parts.size() > 0)
LONG = some.builds(Parts, PART, some.lists(PART, max_size=3).map(tuple)).filter(lambda parts: parts.size() > 0)
IDS = some.text("0123456789abcdef", min_size=1, max_size=64)


def put_together(assembler: Assembler, pieces: list[bytes]) -> Parts | None:
    whole = None
    for piece in pieces:
        assert whole is None
        whole = assembler.add(piece)
    return whole


@settings(deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(LONG)
def test_what_was_cut_is_put_together_again(parts: Parts) -> None:
    pieces = list(frames.chunks(parts))
    assert put_together(Assembler(frames.begin(parts, "id"), ENOUGH), pieces) == parts
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)


@settings(deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(LONG, some.data())
def test_from_any_offset_the_rest_completes_what_came_before(parts: Parts, data: some.DataObject) -> None:
    offset = data.draw(some.integers(1, parts.size() - 1) if parts.size() > 1 else some.nothing())
    assembler = Assembler(frames.begin(parts, "", "id"), ENOUGH)
    assert put_together(assembler, [b"".join(parts.all())[:offset]]) is None
    going_on = frames.begin(parts, "", "id")
    going_on.offset = assembler.held().bytes
    assert going_on.offset == offset
    assert assembler.continues(going_on)
    assert put_together(assembler, list(frames.chunks(parts, going_on.offset))) == parts


@given(MESSAGE)
def test_nothing_is_left_to_send_of_a_message_that_is_there(parts: Parts) -> None:
    assert list(frames.chunks(parts, parts.size())) == []


@given(MESSAGE, some.data())
def test_however_it_is_cut_it_is_the_same_message(parts: Parts, data: some.DataObject) -> None:
    left, assembler, whole = b"".join(parts.all()), Assembler(frames.begin(parts, "id"), ENOUGH), None
    while left:
        size = data.draw(some.integers(1, len(left)))
        whole, left = assembler.add(left[:size]), left[size:]
    assert whole == parts


# Going on


def held_and_going_on(parts: Parts, came: int, name: str = "id") -> tuple[Assembler, Begin]:
    """A reply of which the first bytes came, and the announcement that goes on with it."""
    assembler = Assembler(frames.begin(parts, "", name), ENOUGH)
    assembler.add(b"".join(parts.all())[:came])
    going_on = frames.begin(parts, "", name)
    going_on.offset = came
    return assembler, going_on


TWO_PARTS = Parts(b"envelope", (b"array",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reply_to_message_id", "other"),
        ("envelope_bytes", 7),
        ("sha256", bytes(32)),
        ("offset", 0),
        ("offset", 3),
        ("offset", 5),
    ],
)
def test_an_announcement_that_differs_in_one_thing_does_not_go_on(name: str, value: object) -> None:
    assembler, going_on = held_and_going_on(TWO_PARTS, came=4)
    assert assembler.continues(going_on)
    setattr(going_on, name, value)
    assert not assembler.continues(going_on)


def test_an_announcement_of_other_arrays_does_not_go_on() -> None:
    assembler, going_on = held_and_going_on(TWO_PARTS, came=4)
    going_on.array_bytes[:] = [2, 3]
    assert not assembler.continues(going_on)


@given(MESSAGE, MESSAGE, IDS, IDS, some.data())
def test_only_the_same_message_under_the_same_id_goes_on(
    parts: Parts, other: Parts, name: str, other_name: str, data: some.DataObject
) -> None:
    assume(parts.size() > 1)
    came = data.draw(some.integers(1, parts.size() - 1))
    assembler, _ = held_and_going_on(parts, came, name)
    announced = frames.begin(other, "", other_name)
    announced.offset = data.draw(some.sampled_from([came, came + 1, came - 1]))
    is_same = (other, other_name, announced.offset) == (parts, name, came)
    assert assembler.continues(announced) == is_same


def test_an_instruction_goes_on_by_its_own_id() -> None:
    assembler = Assembler(frames.begin(TWO_PARTS, "mine"), ENOUGH)
    assembler.add(b"env")
    going_on, another = frames.begin(TWO_PARTS, "mine"), frames.begin(TWO_PARTS, "another")
    going_on.offset = another.offset = 3
    assert assembler.continues(going_on)
    assert not assembler.continues(another)


# Lies


@given(some.integers(0, 2**64 - 1), some.lists(some.integers(0, 2**64 - 1), max_size=5), some.integers(0, 2**40))
def test_no_more_is_let_in_than_may_come(envelope: int, arrays: list[int], most: int) -> None:
    announced = Begin(message_id="id", envelope_bytes=envelope, array_bytes=arrays, sha256=bytes(32))
    fits = 0 < envelope + sum(arrays) <= most and envelope <= LARGEST_ENVELOPE
    if fits:
        Assembler(announced, most)
    else:
        with pytest.raises(BadFrame):
            Assembler(announced, most)


@given(some.integers(0, LARGEST_ENVELOPE), some.lists(some.integers(2, 2**62), min_size=1, max_size=100))
def test_memory_is_taken_for_what_came_and_not_for_what_is_announced(envelope: int, arrays: list[int]) -> None:
    announced = Begin(message_id="id", envelope_bytes=envelope, array_bytes=arrays, sha256=bytes(32))
    tracemalloc.start()
    try:
        Assembler(announced, 2**70).add(b"x")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 16


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Begin(envelope_bytes=1, array_bytes=[0] * 10_000, sha256=bytes(32)), "10001 parts"),
        (Begin(envelope_bytes=LARGEST_ENVELOPE + 1, sha256=bytes(32)), "an envelope of"),
        (Begin(message_id="x" * 65, envelope_bytes=1, sha256=bytes(32)), "an id of 65 characters"),
        (Begin(reply_to_message_id="x" * 65, envelope_bytes=1, sha256=bytes(32)), "an id of 65 characters"),
        (Begin(message_id="x" * 65, reply_to_message_id="x", envelope_bytes=1, sha256=bytes(32)), "65 characters"),
        (Begin(sha256=bytes(32)), "is empty"),
        (Begin(array_bytes=[0, 0], sha256=bytes(32)), "is empty"),
        (Begin(envelope_bytes=2, offset=1, sha256=bytes(32)), "an unknown part"),
        (Begin(envelope_bytes=1), "without its SHA-256"),
        (Begin(envelope_bytes=1, sha256=bytes(33)), "without its SHA-256"),
    ],
)
def test_a_senseless_announcement_is_refused_with_its_reason(said: Begin, why: str) -> None:
    with pytest.raises(BadFrame, match=why):
        Assembler(said, ENOUGH)


@given(MESSAGE, some.data())
def test_a_message_with_one_bit_turned_is_never_handed_out(parts: Parts, data: some.DataObject) -> None:
    sent = bytearray(b"".join(parts.all()))
    place = data.draw(some.integers(0, len(sent) - 1))
    sent[place] ^= 1 << data.draw(some.integers(0, 7))
    with pytest.raises(BadFrame, match="digest"):
        Assembler(frames.begin(parts, "id"), ENOUGH).add(bytes(sent))


@given(MESSAGE, SMALL.filter(bool))
def test_more_than_was_announced_is_refused(parts: Parts, more: bytes) -> None:
    with pytest.raises(BadFrame, match="longer than"):
        Assembler(frames.begin(parts, "id"), ENOUGH).add(b"".join(parts.all()) + more)
    with pytest.raises(BadFrame, match="longer than"):
        Assembler(frames.begin(parts, "id"), ENOUGH).skip(b"".join(parts.all()) + more)


def test_an_empty_chunk_is_refused() -> None:
    with pytest.raises(BadFrame, match="is empty"):
        Assembler(frames.begin(TWO_PARTS, "id"), ENOUGH).add(b"")
    with pytest.raises(BadFrame, match="is empty"):
        Assembler(frames.begin(TWO_PARTS, "id"), ENOUGH).skip(b"")


@given(LONG)
@settings(deadline=None, suppress_health_check=[HealthCheck.data_too_large])
def test_what_is_skipped_is_counted_to_its_end(parts: Parts) -> None:
    assembler, pieces = Assembler(frames.begin(parts, "id"), ENOUGH), list(frames.chunks(parts))
    assert [assembler.skip(piece) for piece in pieces] == [True] * (len(pieces) - 1) + [False]


# The digest


@given(SMALL.filter(bool), some.data())
def test_the_same_bytes_cut_otherwise_have_another_digest(content: bytes, data: some.DataObject) -> None:
    cuts = some.lists(some.integers(0, len(content)), max_size=4).map(lambda places: cut(content, sorted(places)))
    one, other = data.draw(cuts), data.draw(cuts)
    assert (one.sha256 == other.sha256) == (one == other)


def cut(content: bytes, places: list[int]) -> Parts:
    ends = [*places, len(content)]
    parts = [content[start:end] for start, end in zip([0, *places], ends, strict=True)]
    return Parts(parts[0], tuple(parts[1:]))


@given(MESSAGE, some.data())
def test_a_message_announced_with_other_sizes_is_never_handed_out(parts: Parts, data: some.DataObject) -> None:
    whole = b"".join(parts.all())
    announced = frames.begin(parts, "id")
    moved = cut(whole, sorted(data.draw(some.lists(some.integers(0, len(whole)), max_size=4))))
    assume(moved != parts)
    announced.envelope_bytes = len(moved.envelope)
    announced.array_bytes[:] = [len(array) for array in moved.arrays]
    with pytest.raises(BadFrame, match="digest"):
        Assembler(announced, ENOUGH).add(whole)
