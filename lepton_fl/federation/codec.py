"""Flower messages as bytes: an envelope, then the arrays. No pickle, nothing allocated on a peer's word.

`LocalGrid` sends every message through here, so that a simulation shares no object between the operator
and the institutions, and trains on exactly the bytes that a network would carry.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from lepton_fl.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
    array_record,
    received,
)
from lepton_fl.link.frames import LARGEST_ENVELOPE, Parts
from lepton_fl.v1.message_pb2 import ArrayHeader, ArraySet, Content, Entry, Envelope, Failure, ValueSet

LARGEST_HEADER = 1 << 12
_TTL_S = 12 * 3600.0
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)(?P<header>\{'descr': '(?P<dtype>[<|](?:f[248]|[iu][1248]|b1))', "
    rb"'fortran_order': (?P<order>True|False), 'shape': \((?P<shape>(?:\d{1,12},? ?){0,8})\), \} *\n)",
    re.DOTALL,
)
_PREAMBLE = 10  # bytes before a .npy header: magic, version, and the header's length in the last two
_LISTS: dict[type, str] = {int: "integers", float: "reals", bool: "truths", str: "texts", bytes: "blobs"}
_SCALARS: dict[type, str] = {int: "integer", float: "real", bool: "truth", str: "text", bytes: "blob"}


class BadMessage(ValueError):
    """Bytes that are not a message; says what is wrong, never what they held."""


@dataclass(frozen=True)
class ArrayForm:
    """What a .npy header says."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    start: int  # of the values, in bytes


@dataclass(frozen=True)
class Route:
    """What the link knows by itself, and no peer can claim."""

    run_id: int
    source: int  # node id
    destination: int  # node id
    message_id: str
    reply_to: str = ""  # the instruction that a reply answers


def encode(message: Message) -> Parts:
    """The message's bytes, the same for everyone it goes to; array bytes are not copied."""
    envelope = Envelope(message_type=message.metadata.message_type, group_id=message.metadata.group_id)
    if message.has_error():
        envelope.failure.CopyFrom(Failure(code=message.error.code, reason=message.error.reason or ""))
        return Parts(envelope.SerializeToString(), ())
    blobs: list[bytes] = []
    content = envelope.content
    content.SetInParent()
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            data = [array.data for array in record.values()]
            content.arrays.append(_announced(name, tuple(record), tuple(map(len, data))))
            blobs += data
        else:
            values = ValueSet(name=name, entries=[_entry(key, value) for key, value in record.items()])
            (content.metrics if isinstance(record, MetricRecord) else content.configs).append(values)
    return Parts(envelope.SerializeToString(), tuple(blobs))


@lru_cache(maxsize=64)
def _announced(name: str, arrays: tuple[str, ...], npy_bytes: tuple[int, ...]) -> ArraySet:
    """What an envelope says of a record's arrays: the same for every model of a run."""
    headers = [ArrayHeader(name=one, npy_bytes=size) for one, size in zip(arrays, npy_bytes, strict=True)]
    return ArraySet(name=name, arrays=headers)


def decode(encoded: Parts, route: Route) -> Message:
    """The message, its sender and receiver taken from the link.

    Raises:
        BadMessage: too large, not an envelope, repeated names, or arrays other than announced.
    """
    if len(encoded.envelope) > LARGEST_ENVELOPE:
        raise BadMessage(f"its envelope has {len(encoded.envelope)} bytes; at most {LARGEST_ENVELOPE} are taken")
    try:
        envelope = Envelope.FromString(encoded.envelope)
    except DecodeError as error:
        raise BadMessage("its envelope is not a protobuf message") from error
    metadata = _metadata(envelope, route)
    if envelope.WhichOneof("body") == "failure":
        return received(metadata, Error(envelope.failure.code, envelope.failure.reason))
    if envelope.WhichOneof("body") != "content":
        raise BadMessage("it holds neither content nor a failure")
    return received(metadata, _content(envelope.content, encoded.arrays))


def _metadata(envelope: Envelope, route: Route) -> Metadata:
    try:
        return Metadata(
            run_id=route.run_id,
            message_id=route.message_id,
            src_node_id=route.source,
            dst_node_id=route.destination,
            reply_to_message_id=route.reply_to,
            group_id=envelope.group_id,
            # The receiver's clock, whatever the sender's says: a skewed clock must not make a message expire.
            created_at=time.time(),
            ttl=_TTL_S,
            message_type=envelope.message_type,
        )
    except ValueError as error:
        raise BadMessage("its message type is none that Flower knows") from error


def _content(content: Content, blobs: tuple[bytes, ...]) -> RecordDict:
    announced = [header.npy_bytes for group in content.arrays for header in group.arrays]
    if announced != [len(blob) for blob in blobs]:
        raise BadMessage("its arrays are not those its envelope announces")
    waiting = iter(blobs)
    names = [item.name for sets in (content.arrays, content.metrics, content.configs) for item in sets]
    _refuse_repeats(names)
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    for group in content.arrays:
        _refuse_repeats([header.name for header in group.arrays])
        records[group.name] = array_record((header.name, _array(next(waiting))) for header in group.arrays)
    try:
        records |= {item.name: MetricRecord(dict(_entries(item))) for item in content.metrics}
        records |= {item.name: ConfigRecord(dict(_entries(item))) for item in content.configs}
    except BadMessage:
        raise
    except (TypeError, ValueError) as error:
        raise BadMessage("a value has a type that its record does not take") from error
    return RecordDict(records)


def _array(blob: bytes) -> Array:
    """An Array around the blob, described by its own header, which is checked and bounded; no value is read."""
    form = read_header(blob)
    return Array(dtype=str(form.dtype), shape=form.shape, stype="numpy.ndarray", data=blob)


def array_of(values: npt.NDArray[Any]) -> Array:
    """An Array of these numbers, the same bytes as Flower's own way by `numpy.save`, in one copy."""
    values = np.asarray(values, order="C")
    name, head = _npy_head(values.dtype, values.shape)
    return Array(name, values.shape, "numpy.ndarray", head + values.data.cast("B") if values.size else head)


def arrays_in(flat: npt.NDArray[Any], shapes: Iterable[tuple[int, ...]]) -> Iterator[Array]:
    """Arrays of these shapes, of the numbers of one vector in its order, as `array_of` makes them."""
    data, start, size = flat.view(np.uint8).data, 0, flat.dtype.itemsize
    for shape in shapes:
        name, head = _npy_head(flat.dtype, shape)
        end = start + size * math.prod(shape)
        yield Array(name, shape, "numpy.ndarray", head + data[start:end])
        start = end


def values_of(array: Array) -> npt.NDArray[Any]:
    """An Array's numbers, read where they are: nothing can be written to them.

    Raises:
        BadMessage: another form than numbers in a .npy blob, or fewer or more of them than its header says.
    """
    form = read_header(array.data)
    found, due = len(array.data) - form.start, form.dtype.itemsize * math.prod(form.shape)
    if found != due:
        raise BadMessage(f"an array has {found} bytes of values where its header says {due}")
    flat = np.frombuffer(array.data, dtype=form.dtype, offset=form.start)
    return flat.reshape(form.shape, order="F" if form.is_fortran else "C")


@lru_cache(maxsize=4096)
def _npy_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, bytes]:
    """The type's name, and what comes before the values."""
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return str(dtype), head.getvalue()


def read_header(blob: bytes) -> ArrayForm:
    """Shape, order, type and place of the values of a .npy blob, from its header alone.

    Only the one form that `numpy.save` writes for plain numbers is taken (format 1.0). numpy's own reader
    evaluates the header as Python, with a fall-back for old files; a peer's bytes have no business there.

    Raises:
        BadMessage: any other header.
    """
    length = int.from_bytes(blob[_PREAMBLE - 2 : _PREAMBLE], "little")
    return _form(blob[: min(_PREAMBLE + length, LARGEST_HEADER)])


@lru_cache(maxsize=1024)
def _form(head: bytes) -> ArrayForm:
    """What a header says, which every array of that shape has alike; what is refused is not remembered."""
    match = _NPY.fullmatch(head)
    if match is None or int.from_bytes(match["length"], "little") != len(match["header"]):
        raise BadMessage("an array is not numeric or has no valid header")
    shape = tuple(int(size) for size in match["shape"].replace(b",", b" ").split())
    return ArrayForm(shape, match["order"] == b"True", np.dtype(match["dtype"].decode()), match.end())


def _entry(name: str, value: Any) -> Entry:
    entry = Entry(name=name)
    if isinstance(value, list):
        # An empty list has no type of its own; any kind reads back as the same empty list.
        getattr(entry, _LISTS[type(value[0]) if value else int]).items.extend(value)
        if not value:
            entry.integers.SetInParent()
    else:
        setattr(entry, _SCALARS[type(value)], value)
    return entry


def _entries(item: ValueSet) -> Iterator[tuple[str, Any]]:
    _refuse_repeats([entry.name for entry in item.entries])
    for entry in item.entries:
        kind = entry.WhichOneof("value")
        if kind is None:
            raise BadMessage("an entry has no value")
        value = getattr(entry, kind)
        yield entry.name, list(value.items) if kind in _LISTS.values() else value


def _refuse_repeats(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise BadMessage("a name stands twice in it")
