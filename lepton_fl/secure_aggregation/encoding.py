"""One binary form for every value, and nothing allocated on a peer's word.

Integers are 8 bytes, counts 4, big-endian; names and blobs carry their length, byte strings of a fixed size do not;
every message begins with its label. There is no optional field, no second order and no slack: what is read and written
again has the same bytes, so a hash or a signature over the bytes is one over the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

MOST_BYTES = 1 << 20  # of a message; a roster of 1,000 has half of that
MOST_INSTITUTIONS = 1000
MOST_NAME_BYTES = 200
_COUNT_BYTES, _NUMBER_BYTES = 4, 8


class Malformed(ValueError):
    """The bytes are no message of this kind, or the value has no form. Never says what the bytes were."""


class Reader:
    """Reads one message from its first byte to its last; every step raises `Malformed` unless it is there whole."""

    def __init__(self, data: bytes, label: str) -> None:
        if len(data) > MOST_BYTES:
            raise Malformed("the message is too large")
        self._data, self._at = data, 0
        if NAME.read(self) != label:
            raise Malformed("the message is of another kind")

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise Malformed("the message is too short")
        self._at += size
        return self._data[self._at - size : self._at]

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise Malformed("the message is too long")


T = TypeVar("T")
Named = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How one kind of field is written and read; each raises `Malformed` on what is not of the kind."""

    write: Callable[[T], bytes]
    read: Callable[[Reader], T]


class HasForm(Protocol):
    """A value that is a message itself."""

    def to_bytes(self) -> bytes: ...


M = TypeVar("M", bound=HasForm)
M_co = TypeVar("M_co", bound=HasForm, covariant=True)


class Form(Protocol[M_co]):
    """A kind of message."""

    def from_bytes(self, data: bytes, /) -> M_co: ...


def _write_number(value: int) -> bytes:
    if not 0 <= value < 1 << 8 * _NUMBER_BYTES:
        raise Malformed("an integer is out of range")
    return value.to_bytes(_NUMBER_BYTES, "big")


def _write_count(value: int) -> bytes:
    if value > MOST_INSTITUTIONS:
        raise Malformed("there are too many entries")
    return value.to_bytes(_COUNT_BYTES, "big")


def _read_count(reader: Reader) -> int:
    if (count := reader.integer(_COUNT_BYTES)) > MOST_INSTITUTIONS:
        raise Malformed("there are too many entries")
    return count


def _write_name(value: str) -> bytes:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise Malformed("a name is not text") from None
    _refuse_bad_name(value, len(encoded))
    return len(encoded).to_bytes(_COUNT_BYTES, "big") + encoded


def _read_name(reader: Reader) -> str:
    length = reader.integer(_COUNT_BYTES)
    try:
        value = reader.take(length).decode()
    except UnicodeDecodeError:
        raise Malformed("a name is not text") from None
    _refuse_bad_name(value, length)
    return value


def _refuse_bad_name(value: str, encoded_bytes: int) -> None:
    # An unprintable name could write lines of its own into a log.
    if not 0 < encoded_bytes <= MOST_NAME_BYTES or not value.isprintable():
        raise Malformed("a name is empty, too long or not printable")


def _refuse_disorder(names: Sequence[str]) -> None:
    if any(first >= second for first, second in pairwise(names)):
        raise Malformed("names are doubled or out of order")


NUMBER = Kind(_write_number, lambda reader: reader.integer(_NUMBER_BYTES))  # an integer in [0, 2^64)
NAME = Kind(_write_name, _read_name)  # 1 to 200 bytes of printable UTF-8


def fixed_kind(size: int) -> Kind[bytes]:
    """Byte strings of one size."""

    def write(value: bytes) -> bytes:
        if len(value) != size:
            raise Malformed(f"{size} bytes are wanted, there are {len(value)}")
        return value

    return Kind(write, lambda reader: reader.take(size))


def named_kind(size: int) -> Kind[Named]:
    """A byte string of one size for each of a set of names, the names ascending."""
    value_kind = fixed_kind(size)

    def write(entries: Named) -> bytes:
        _refuse_disorder([name for name, _ in entries])
        return _write_count(len(entries)) + b"".join(_write_name(name) + value_kind.write(v) for name, v in entries)

    def read(reader: Reader) -> Named:
        entries = tuple((_read_name(reader), value_kind.read(reader)) for _ in range(_read_count(reader)))
        _refuse_disorder([name for name, _ in entries])
        return entries

    return Kind(write, read)


_NAMED_ALONE = named_kind(0)

# A set of names, ascending.
NAMES: Kind[tuple[str, ...]] = Kind(
    lambda names: _NAMED_ALONE.write(tuple((name, b"") for name in names)),
    lambda reader: tuple(name for name, _ in _NAMED_ALONE.read(reader)),
)


def list_kind(form: Form[M]) -> Kind[tuple[M, ...]]:
    """Messages in the order in which they are given, each behind its length."""

    def write(messages: tuple[M, ...]) -> bytes:
        parts = [message.to_bytes() for message in messages]
        return _write_count(len(parts)) + b"".join(len(p).to_bytes(_COUNT_BYTES, "big") + p for p in parts)

    def read(reader: Reader) -> tuple[M, ...]:
        return tuple(form.from_bytes(reader.take(reader.integer(_COUNT_BYTES))) for _ in range(_read_count(reader)))

    return Kind(write, read)
