"""Messages survive the journey; anything else is refused before it is believed."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.federation.codec import BadMessage, Route, array_of, arrays_in, decode, encode, values_of
from lepton_fl.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
    enter_run,
)
from lepton_fl.link.frames import Parts
from lepton_fl.v1.message_pb2 import ArrayHeader, ArraySet, Content, Entry, Envelope, ValueSet

ROUTE = Route(run_id=1, source=1, destination=42, message_id="id-1")
BACK = Route(run_id=1, source=42, destination=1, message_id="id-2", reply_to="id-1")
WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)
NAMES = st.text(min_size=1, max_size=12)
METRICS = st.dictionaries(
    NAMES, st.one_of(WHOLE, REAL, st.lists(WHOLE, min_size=1, max_size=4), st.lists(REAL, min_size=1, max_size=4))
)
WORDS, BLOBS = st.text(max_size=20), st.binary(max_size=20)
KINDS = (WHOLE, REAL, st.booleans(), WORDS, BLOBS)
CONFIGS = st.dictionaries(NAMES, st.one_of(*KINDS, *(st.lists(kind, min_size=1, max_size=4) for kind in KINDS)))
ARRAYS = st.dictionaries(
    NAMES,
    st.builds(
        lambda shape, kind, seed: np.random.default_rng(seed).integers(0, 100, shape).astype(kind),
        st.lists(st.integers(0, 4), max_size=3),
        st.sampled_from(["<f4", "<f8", "<i4", "<i8", "u1", "?"]),
        st.integers(0, 1000),
    ),
)


@pytest.fixture(autouse=True)
def _coordinator() -> None:
    enter_run(1)


def instruction(content: RecordDict) -> Message:
    return Message(content, 42, "train", group_id="3")


@settings(deadline=None)
@given(ARRAYS, METRICS, CONFIGS)
def test_every_record_comes_back_as_it_was(
    arrays: dict[str, np.ndarray], metrics: dict[str, object], configs: dict[str, object]
) -> None:
    enter_run(1)
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()}),
            "metrics": MetricRecord(metrics),
            "config": ConfigRecord(configs),
        }
    )
    back = decode(encode(instruction(content)), ROUTE)
    assert back.content.metric_records == content.metric_records
    assert back.content.config_records == content.config_records
    for name, value in arrays.items():
        got = back.content.array_records["arrays"][name].numpy()
        assert got.dtype == value.dtype
        assert np.array_equal(got, value)
    assert (back.metadata.message_id, back.metadata.message_type, back.metadata.group_id) == ("id-1", "train", "3")


def test_sender_and_receiver_come_from_the_link_and_not_from_the_message() -> None:
    forged = Message(RecordDict(), 999, "train")
    back = decode(encode(forged), ROUTE)
    assert (back.metadata.src_node_id, back.metadata.dst_node_id) == (1, 42)


def test_a_failure_travels_as_a_failure() -> None:
    received = decode(encode(instruction(RecordDict())), ROUTE)
    reply = decode(encode(Message(Error(2, "RuntimeError"), reply_to=received)), BACK)
    assert (reply.error.code, reply.error.reason) == (2, "RuntimeError")
    assert reply.metadata.reply_to_message_id == "id-1"


@given(st.binary(max_size=300), st.lists(st.binary(max_size=100), max_size=2))
def test_random_bytes_are_a_bad_message_or_a_message_and_never_anything_else(
    envelope: bytes, arrays: list[bytes]
) -> None:
    enter_run(1)
    with contextlib.suppress(BadMessage):
        decode(Parts(envelope, tuple(arrays)), ROUTE)


def sealed(content: Content, *arrays: bytes) -> Parts:
    return Parts(Envelope(message_type="train", content=content).SerializeToString(), arrays)


def npy(value: np.ndarray) -> bytes:
    return Array(value).data


def test_an_array_that_was_not_announced_is_refused() -> None:
    with pytest.raises(BadMessage, match="announces"):
        decode(sealed(Content(), b"abc"), ROUTE)


def test_a_shorter_array_than_announced_is_refused() -> None:
    header = ArrayHeader(name="w", npy_bytes=1 << 40)
    with pytest.raises(BadMessage, match="announces"):
        decode(sealed(Content(arrays=[ArraySet(name="arrays", arrays=[header])]), b"abc"), ROUTE)


def test_an_array_of_objects_is_refused() -> None:
    blob = (
        b"\x93NUMPY\x01\x00F\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(80) + b"cos\nsystem\n"
    )
    header = ArrayHeader(name="w", npy_bytes=len(blob))
    with pytest.raises(BadMessage, match=r"numeric|header"):
        decode(sealed(Content(arrays=[ArraySet(name="arrays", arrays=[header])]), blob), ROUTE)


@pytest.mark.parametrize("where", ["records", "arrays", "values"])
def test_a_name_that_stands_twice_is_refused(where: str) -> None:
    blob = npy(np.zeros(1, dtype=np.float32))
    header = ArrayHeader(name="w", npy_bytes=len(blob))
    entry = Entry(name="a", integer=1)
    content = {
        "records": Content(metrics=[ValueSet(name="m")], configs=[ValueSet(name="m")]),
        "arrays": Content(arrays=[ArraySet(name="arrays", arrays=[header, header])]),
        "values": Content(metrics=[ValueSet(name="m", entries=[entry, entry])]),
    }[where]
    with pytest.raises(BadMessage, match="twice"):
        decode(sealed(content, *([blob, blob] if where == "arrays" else [])), ROUTE)


def test_text_among_metrics_is_refused() -> None:
    content = Content(metrics=[ValueSet(name="m", entries=[Entry(name="a", text="x")])])
    with pytest.raises(BadMessage, match="type"):
        decode(sealed(content), ROUTE)


def test_an_envelope_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadMessage, match="at most"):
        decode(Parts(bytes(17 << 20), ()), ROUTE)


def test_a_message_without_a_body_is_refused() -> None:
    with pytest.raises(BadMessage, match="neither"):
        decode(Parts(Envelope(message_type="train").SerializeToString(), ()), ROUTE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4)])
def test_an_array_is_made_and_read_as_flower_does(dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for numbers in (values, values.T):
        made, right = array_of(numbers), Array(np.ascontiguousarray(numbers).reshape(numbers.shape))
        assert (made.data, made.dtype, made.shape, made.stype) == (right.data, right.dtype, right.shape, right.stype)
        assert np.array_equal(values_of(made), numbers)
    in_columns = Array(np.array(values, order="F"))
    assert np.array_equal(values_of(in_columns), values)


def test_arrays_of_one_vector_are_those_of_its_parts() -> None:
    flat = np.arange(9, dtype=np.float32)
    made = list(arrays_in(flat, [(2, 3), (0,), (), (2,)]))
    parts = [flat[:6].reshape(2, 3), flat[:0], flat[6].reshape(()), flat[7:]]
    for one, part in zip(made, parts, strict=True):
        right = array_of(part)
        assert (one.data, one.dtype, one.shape, one.stype) == (right.data, right.dtype, right.shape, right.stype)


def test_an_array_of_fewer_values_than_it_says_is_refused() -> None:
    made = array_of(np.ones(3, dtype=np.float32))
    made.data = made.data[:-4]
    with pytest.raises(BadMessage, match="8 bytes of values where its header says 12"):
        values_of(made)
