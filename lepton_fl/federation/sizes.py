"""How many bytes a message has on a network, without making them: see `codec.encode`, which says what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from lepton_fl.flower import ArrayRecord, ConfigRecord, Metadata, MetricRecord

Records = Mapping[str, ArrayRecord | MetricRecord | ConfigRecord]


def size_of(metadata: Metadata, content: Records) -> int:
    """`encode(message).size()` of a message with this content.

    A protobuf field that has no value takes nothing, any other a byte for its tag (no field here has a number above
    15), and where it is no number its length and itself.
    """
    arrays = sum(len(array.data) for one in content.values() if isinstance(one, ArrayRecord) for array in one.values())
    body = sum(_field(_record(name, one)) for name, one in content.items())
    return _text(metadata.message_type) + _text(metadata.group_id) + _field(body) + arrays


def _record(name: str, record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    if isinstance(record, ArrayRecord):
        return _announced(name, tuple(record), tuple(len(array.data) for array in record.values()))
    return _text(name) + sum(_field(_text(key) + _value(value)) for key, value in record.items())


@lru_cache(maxsize=64)
def _announced(name: str, arrays: tuple[str, ...], npy_bytes: tuple[int, ...]) -> int:
    """What is said of a record's arrays: the same for every model of a run."""
    each = (_text(one) + (1 + _varint(size) if size else 0) for one, size in zip(arrays, npy_bytes, strict=True))
    return _text(name) + sum(map(_field, each))


def _value(value: Any) -> int:
    if isinstance(value, list):
        return _field(_LISTS[type(value[0])](value) if value else 0)
    return 1 + _SCALARS[type(value)](value)


def _varint(number: int) -> int:
    """Seven bits to a byte."""
    return max(1, (number.bit_length() + 6) // 7)


def _signed(number: int) -> int:
    """Numbers of either sign take turns: 0, -1, 1, -2."""
    return _varint(2 * number if number >= 0 else -2 * number - 1)


def _of_text(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _text(text: str) -> int:
    return _field(_of_text(text)) if text else 0


def _field(length: int) -> int:
    """A field of so many bytes, its tag and its length included."""
    return 1 + _prefixed(length)


def _prefixed(length: int) -> int:
    return _varint(length) + length


def _each(lengths: Iterable[int]) -> int:
    return sum(map(_field, lengths))


_SCALARS: Mapping[type, Callable[[Any], int]] = {
    int: _signed,
    float: lambda _: 8,
    bool: lambda _: 1,
    str: lambda text: _prefixed(_of_text(text)),
    bytes: lambda blob: _prefixed(len(blob)),
}
_LISTS: Mapping[type, Callable[[list[Any]], int]] = {
    int: lambda numbers: _field(sum(map(_signed, numbers))),
    float: lambda numbers: _field(8 * len(numbers)),
    bool: lambda truths: _field(len(truths)),
    str: lambda texts: _each(map(_of_text, texts)),
    bytes: lambda blobs: _each(map(len, blobs)),
}
