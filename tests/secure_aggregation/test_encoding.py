"""Every value has one form, every form one value, and no bytes do anything worse than be refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.secure_aggregation.encoding import MOST_BYTES, Malformed
from lepton_fl.secure_aggregation.messages import (
    Advert,
    Echo,
    Echoes,
    Inbox,
    Message,
    Roster,
    RoundParams,
    Shares,
    Survivors,
    Unmask,
    UploadHeader,
)

KINDS: list[type[Message]] = [
    RoundParams,
    Advert,
    Roster,
    Shares,
    Inbox,
    UploadHeader,
    Survivors,
    Echo,
    Echoes,
    Unmask,
]
NUMBERS = st.integers(0, 2**64 - 1)
NAMES = st.text(min_size=1, max_size=50).filter(str.isprintable)
SETS = st.lists(NAMES, max_size=4, unique=True).map(lambda names: tuple(sorted(names)))


def of_bytes(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def named(size: int) -> st.SearchStrategy[tuple[tuple[str, bytes], ...]]:
    return st.dictionaries(NAMES, of_bytes(size), max_size=4).map(lambda entries: tuple(sorted(entries.items())))


B32, B64 = of_bytes(32), of_bytes(64)
ADVERTS = st.builds(Advert, NAMES, B32, B32, B32, B32, B32, B64)
ECHOES = st.builds(Echo, B32, B32, NAMES, B64)
MESSAGES = st.one_of(
    st.builds(RoundParams, NUMBERS, B32, NAMES, NUMBERS, NUMBERS, B32, B32, NUMBERS, NUMBERS, SETS, B32),
    ADVERTS,
    st.lists(ADVERTS, max_size=3).map(lambda adverts: Roster(tuple(adverts))),
    st.builds(Shares, B32, NAMES, named(80), B64),
    st.builds(Inbox, B32, named(80)),
    st.builds(UploadHeader, B32, SETS, B32, B64),
    st.builds(Survivors, B32, SETS),
    ECHOES,
    st.lists(ECHOES, max_size=3).map(lambda echoes: Echoes(tuple(echoes))),
    st.builds(Unmask, B32, NAMES, named(32), named(32), B64),
)

SURVIVORS = Survivors(bytes(32), ("a", "bc"))


def test_a_forms_bytes_are_those_that_the_document_says() -> None:
    label = b"lepton-fl/secure-aggregation/1/survivors"
    assert SURVIVORS.to_bytes() == b"".join(
        (b"\0\0\0\x28", label, bytes(32), b"\0\0\0\x02", b"\0\0\0\x01a", b"\0\0\0\x02bc")
    )


def test_a_statement_is_the_form_without_the_signature() -> None:
    echo = Echo(b"r" * 32, b"s" * 32, "a", b"x" * 64)
    assert echo.to_bytes() == echo.statement() + b"x" * 64


@given(MESSAGES)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_as_the_same_value(message: Any) -> None:
    assert type(message).from_bytes(message.to_bytes()) == message


@given(message=MESSAGES, data=st.data())
@settings(max_examples=200, deadline=None)
def test_changed_bytes_are_refused_or_are_another_value_with_exactly_these_bytes(
    message: Any, data: st.DataObject
) -> None:
    good = message.to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    changed = data.draw(
        st.sampled_from(
            [
                good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :],
                good[:at],
                good + bytes(at + 1),
                good[:at] + good[at + 1 :],
                good[:at] + b"\xff\xff\xff\xff" + good[at + 4 :],
            ]
        )
    )
    try:
        other = type(message).from_bytes(changed)
    except Malformed:
        return
    assert other.to_bytes() == changed


@given(body=st.binary(max_size=400), kind=st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_any_bytes_behind_the_right_label_are_refused_or_read_back(body: bytes, kind: type[Message]) -> None:
    label = kind.LABEL.encode()
    data = len(label).to_bytes(4, "big") + label + body
    try:
        message = kind.from_bytes(data)
    except Malformed:
        return
    assert message.to_bytes() == data


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_of_another_kind_is_refused(kind: type[Message]) -> None:
    other = Survivors if kind is not Survivors else Inbox
    with pytest.raises(Malformed, match="another kind"):
        kind.from_bytes(other(bytes(32), ()).to_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_allocated_on_a_peers_word(kind: type[Message]) -> None:
    """Counts and lengths of four billion cost no memory; a message beyond the limit is not looked into."""
    label = kind.LABEL.encode()
    hostile = len(label).to_bytes(4, "big") + label + b"\xff" * 2000
    tracemalloc.start()
    for data in (hostile, hostile[:200], b"\xff" * 8):
        with pytest.raises(Malformed):
            kind.from_bytes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    with pytest.raises(Malformed, match="too large"):
        kind.from_bytes(bytes(MOST_BYTES + 1))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Survivors(bytes(31), ()), "32 bytes are wanted"),
        (Survivors(bytes(32), ("b", "a")), "out of order"),
        (Survivors(bytes(32), ("a", "a")), "doubled"),
        (Survivors(bytes(32), ("",)), "empty"),
        (Survivors(bytes(32), ("x" * 201,)), "too long"),
        (Survivors(bytes(32), ("a\nerror: all is well",)), "not printable"),
        (Survivors(bytes(32), ("\ud800",)), "not text"),
        (Survivors(bytes(32), tuple(f"{n:04}" for n in range(1001))), "too many"),
        (RoundParams(-1, bytes(32), "p", 0, 0, bytes(32), bytes(32), 1, 24, (), bytes(32)), "out of range"),
        (RoundParams(1, bytes(32), "p", 2**64, 0, bytes(32), bytes(32), 1, 24, (), bytes(32)), "out of range"),
    ],
)
def test_a_value_without_a_form_is_refused(message: Message, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        message.to_bytes()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"\0\0\0\x02bc", b"\0\0\0\x02\xff\xfe"), (b"\0\0\0\x02bc", b"\0\0\0\x02a\n"), (b"\0\0\0\x02bc", b"\0\0\0\x01a")],
    ids=["not text", "not printable", "doubled"],
)
def test_bytes_that_no_writer_makes_are_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(Malformed):
        Survivors.from_bytes(SURVIVORS.to_bytes().replace(old, new))


@pytest.mark.parametrize("left", [3, 43, 60, 81, 84])
def test_a_message_that_ends_early_is_too_short(left: int) -> None:
    with pytest.raises(Malformed, match="too short"):
        Survivors.from_bytes(SURVIVORS.to_bytes()[:left])


def test_more_institutions_than_there_may_be_are_refused_though_all_are_there() -> None:
    most = Survivors(bytes(32), tuple(f"{n:04}" for n in range(1000)))
    assert Survivors.from_bytes(most.to_bytes()) == most
    one_more = most.to_bytes().replace(b"\0\0\x03\xe8", b"\0\0\x03\xe9") + b"\0\0\0\x041000"
    with pytest.raises(Malformed, match="too many"):
        Survivors.from_bytes(one_more)


def test_a_refusal_never_shows_the_bytes() -> None:
    with pytest.raises(Malformed) as refused:
        Survivors.from_bytes(SURVIVORS.to_bytes().replace(b"bc", b"\xff\xfe"))
    assert "xff" not in str(refused.value)
    assert refused.value.__cause__ is None
