"""A reply is hostile until it was checked; what fails is named and left out, and the round goes on."""

from __future__ import annotations

import io
import math
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.evaluation.settings import Exact
from lepton_fl.federation.arrays import BadArrays, checked, load_arrays, template_of, to_arrays
from lepton_fl.federation.evaluating import Evaluating
from lepton_fl.federation.histograms import LARGEST_LOSS
from lepton_fl.federation.journal import NoJournal, Progress
from lepton_fl.federation.local_grid import LocalGrid, node_id_of
from lepton_fl.federation.replies import LARGEST_TRAIN_LOSS, BadReply, Expected, Sorted, evaluated, sort_replies
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.flower import (
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
    enter_run,
)
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.strategies.averaging import FedAvg
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY, Federation
from lepton_fl.tasks.groups import Groups

TEMPLATE = {"weight": (2, 3), "bias": (2,)}
# Three classes, so that a guess is a cell of its own; every round is evaluated.
EVALUATING = Evaluating(Exact(1, 20, 0.95), Groups(()), 3, 100, None, 1, has_tune=False, one_per_subject=False)
EXPECTED = Expected(TEMPLATE, EVALUATING, weight_cap=1000, most_records=1000, with_loss=False)
WITH_LOSS = Expected(TEMPLATE, EVALUATING, weight_cap=1000, most_records=1000, with_loss=True)
NAMES = {1: "north", 2: "south"}

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.array([7.0, 8.0], dtype=np.float32)


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def blob(data: bytes) -> Array:
    """An Array that claims to be right and holds these bytes."""
    return Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=data)


def with_header(text: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy blob whose header says whatever it likes."""
    header = text.encode("latin1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + body


def arrays(weight: Array | None = None) -> ArrayRecord:
    return ArrayRecord({"weight": weight or Array(WEIGHT), "bias": Array(BIAS)})


def content(record: ArrayRecord | None = None, **metrics: object) -> RecordDict:
    values = {WEIGHT_KEY: 10, **metrics}
    return RecordDict({"arrays": arrays() if record is None else record, "metrics": MetricRecord(values)})  # type: ignore[arg-type]


def weighing(weight: object) -> RecordDict:
    return content(**{WEIGHT_KEY: weight})


def asked(node: int, kind: str = "train") -> Message:
    enter_run(1)
    return Message(RecordDict(), dst_node_id=node, message_type=kind)


def reply(node: int, answer: RecordDict | Error) -> Message:
    return Message(answer, reply_to=asked(node))


def sorted_beside_a_good_one(answer: RecordDict | Error, expected: Expected = EXPECTED) -> Sorted:
    """South answers this, north answers well."""
    good = content(**{TRAIN_LOSS_KEY: 0.5})
    return sort_replies([reply(2, answer), reply(1, good)], NAMES, NAMES, expected)


# Arrays.

RIGHT = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}"

BAD_BYTES = {
    "nan": (npy(np.full((2, 3), np.nan, dtype=np.float32)), "not finite"),
    "one infinity": (npy(np.array([[0, 0, 0], [0, 0, -np.inf]], dtype=np.float32)), "not finite"),
    "another shape": (npy(np.zeros((3, 2), dtype=np.float32)), r"the shape \(3, 2\), not \(2, 3\)"),
    "another rank": (npy(np.zeros(6, dtype=np.float32)), r"the shape \(6,\), not \(2, 3\)"),
    "a scalar": (npy(np.float32(1.0)), "shape"),
    "float64": (npy(WEIGHT.astype(np.float64)), "float64, not float32"),
    "float16": (npy(WEIGHT.astype(np.float16)), "float16, not float32"),
    "big-endian": (npy(WEIGHT.astype(">f4")), "valid header"),
    "int32": (npy(WEIGHT.astype(np.int32)), "int32, not float32"),
    "a pickle": (npy(np.array([[1, 2, 3], [4, 5, {}]], dtype=object), pickled=True), "weight"),
    "a record type": (npy(np.zeros((2, 3), dtype=[("a", "<f4")])), "weight"),
    "nothing": (b"", "weight"),
    "half a magic string": (b"\x93NUM", "weight"),
    "a header and no values": (npy(WEIGHT)[:-24], "0 bytes of values where 24"),
    "one byte short": (npy(WEIGHT)[:-1], "23 bytes of values where 24"),
    "one byte more": (npy(WEIGHT) + b"\0", "25 bytes of values where 24"),
    "far too many bytes": (npy(WEIGHT) + bytes(1 << 20), "bytes where 24 are due"),
    "text": (b"hello, this is not an array at all", "weight"),
    "a zip file": (b"PK\x03\x04" + bytes(60), "weight"),
    "version 3": (
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", bytes(24), (3, 0)),
        "weight",
    ),
    "version 9": (with_header("{}", version=(9, 9)), "weight"),
    "a huge shape": (
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000, 1000), } \n", bytes(24)),
        "shape",
    ),
    "a negative shape": (
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}", bytes(24)),
        "valid header",
    ),
    "a header longer than the blob": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + bytes(24), "weight"),
    "an unclosed header": (with_header("{'descr': ("), "weight"),
    "an unclosed string": (with_header("{'descr': '''"), "weight"),
    "an indented header": (with_header("  {}\n {}\n"), "weight"),
    "a deep header": (with_header("-" * 4000 + "1"), "weight"),
    "deep brackets": (with_header("(" * 300), "weight"),
    "keys that do not sort": (with_header("{1: 2, 'descr': 3}"), "weight"),
    "keys that do not hash": (with_header("{[]: 2}"), "weight"),
    "a Python 2 header": (
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}", bytes(24)),
        "weight",
    ),
    "a type that numpy has deprecated": (
        with_header("{'descr': 'a4', 'fortran_order': False, 'shape': (2, 3)}", bytes(24)),
        "weight",
    ),
    "an endless type": (with_header("{'descr': '<V999999999999', 'fortran_order': False, 'shape': ()}"), "weight"),
}


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_bytes_that_are_not_the_models_array_are_refused(kind: str) -> None:
    data, reason = BAD_BYTES[kind]
    with pytest.raises(BadArrays, match=reason) as refusal:
        checked(arrays(blob(data)), TEMPLATE)
    assert "weight" in str(refusal.value)


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_an_institution_with_a_bad_array_is_named_and_the_others_are_kept(kind: str) -> None:
    found = sorted_beside_a_good_one(content(arrays(blob(BAD_BYTES[kind][0]))))
    assert [message.metadata.src_node_id for message in found.usable] == [1]
    assert list(found.refused) == ["south"]
    assert "weight" in found.refused["south"]


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_a_refusal_is_one_short_printable_line(kind: str) -> None:
    reason = sorted_beside_a_good_one(content(arrays(blob(BAD_BYTES[kind][0])))).refused["south"]
    assert reason.isprintable()
    assert len(reason) <= 200


def test_a_header_that_lies_about_its_size_allocates_nothing() -> None:
    lie = blob(BAD_BYTES["a huge shape"][0])
    tracemalloc.start()
    try:
        with pytest.raises(BadArrays):
            checked(arrays(lie), TEMPLATE)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20


def test_a_fortran_ordered_array_is_read_as_the_same_matrix() -> None:
    values = checked(arrays(blob(npy(np.asfortranarray(WEIGHT)))), TEMPLATE)
    assert np.array_equal(values["weight"], WEIGHT)
    assert values["weight"].flags.c_contiguous


def test_good_arrays_come_back_in_the_templates_order_bit_for_bit() -> None:
    record = ArrayRecord({"bias": Array(BIAS), "weight": Array(WEIGHT)})
    values = checked(record, TEMPLATE)
    assert list(values) == ["weight", "bias"]
    assert values["weight"].tobytes() == WEIGHT.tobytes()
    assert values["bias"].tobytes() == BIAS.tobytes()


def test_a_scalar_and_an_empty_parameter_are_arrays_too() -> None:
    record = ArrayRecord({"scale": Array(np.array(2.0, dtype=np.float32)), "none": Array(np.zeros((0, 3), np.float32))})
    values = checked(record, {"scale": (), "none": (0, 3)})
    assert values["scale"] == 2.0
    assert values["none"].shape == (0, 3)


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord({"weight": Array(WEIGHT)}),
        ArrayRecord({"weight": Array(WEIGHT), "bias": Array(BIAS), "extra": Array(BIAS)}),
        ArrayRecord({"weight": Array(WEIGHT), "Bias": Array(BIAS)}),
        ArrayRecord(),
    ],
    ids=["missing", "extra", "wrong", "none"],
)
def test_other_names_than_the_models_are_refused(record: ArrayRecord) -> None:
    with pytest.raises(BadArrays, match="missing or unknown"):
        checked(record, TEMPLATE)
    assert list(sorted_beside_a_good_one(content(record)).refused) == ["south"]


def test_a_name_that_would_write_to_the_terminal_is_made_harmless() -> None:
    record = ArrayRecord({"weight": Array(WEIGHT), "bias": Array(BIAS), "\x1b[2J\n" * 100: Array(BIAS)})
    with pytest.raises(BadArrays) as refusal:
        checked(record, TEMPLATE)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 200


def test_a_model_takes_checked_arrays_and_gives_them_back() -> None:
    model = torch.nn.Linear(3, 2)
    record = arrays()
    load_arrays(model, record)
    assert template_of(model) == TEMPLATE
    assert np.array_equal(model.weight.detach().numpy(), WEIGHT)
    assert checked(to_arrays(model), TEMPLATE)["bias"].tobytes() == BIAS.tobytes()


def test_a_model_is_untouched_by_arrays_that_are_refused() -> None:
    model = torch.nn.Linear(3, 2)
    before = model.bias.detach().clone()
    with pytest.raises(BadArrays):
        load_arrays(model, arrays(blob(b"")))
    assert torch.equal(model.bias, before)


def test_sent_arrays_do_not_change_when_the_model_does() -> None:
    model = torch.nn.Linear(3, 2)
    sent = to_arrays(model)
    before = sent["bias"].data
    with torch.no_grad():
        model.bias.add_(1.0)
    assert sent["bias"].data == before


HEADER_PARTS = ["{", "}", "(", ")", "[", "]", "'", '"', "'descr'", "'fortran_order'", "'shape'", ":", ",", " ", "\n"]
HEADER_PARTS += ["'<f4'", "'|O'", "True", "False", "2", "3", "-", "1e9", "L", "None", "\\", "#", "\0", "\t", "0x", "é"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_bad_arrays(data: bytes) -> None:
    with pytest.raises(BadArrays):
        checked(arrays(blob(data)), TEMPLATE)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(HEADER_PARTS), max_size=30), st.binary(max_size=24), st.sampled_from([(1, 0), (2, 0)]))
def test_a_random_header_raises_nothing_but_bad_arrays(parts: list[str], body: bytes, version: tuple[int, int]) -> None:
    try:
        values = checked(arrays(blob(with_header("".join(parts), body, version))), TEMPLATE)
    except BadArrays:
        return
    assert values["weight"].shape == (2, 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(npy(WEIGHT)) - 1), st.integers(0, 255))
def test_one_wrong_byte_gives_bad_arrays_or_a_finite_array_of_the_right_shape(place: int, value: int) -> None:
    data = bytearray(npy(WEIGHT))
    data[place] = value
    try:
        values = checked(arrays(blob(bytes(data))), TEMPLATE)
    except BadArrays:
        return
    assert values["weight"].shape == (2, 3)
    assert values["weight"].dtype == np.float32
    assert np.isfinite(values["weight"]).all()


# The rest of a training reply.


@pytest.mark.parametrize("weight", [0, -1, -0.5, math.nan, math.inf, -math.inf, [1], [1.0, 2.0], []])
def test_a_weight_that_is_not_a_positive_number_is_refused(weight: object) -> None:
    found = sorted_beside_a_good_one(weighing(weight))
    assert len(found.usable) == 1
    assert "weight" in found.refused["south"] or WEIGHT_KEY in found.refused["south"]


def test_a_metric_cannot_be_a_truth_value_at_all() -> None:
    with pytest.raises(TypeError):
        weighing(True)


@pytest.mark.parametrize(
    "weight", [1001, 1e300, 2**63 - 1, 10**30, 10**400], ids=["over", "1e300", "int64", "10^30", "10^400"]
)
def test_a_huge_weight_counts_as_the_cap(weight: float) -> None:
    found = sorted_beside_a_good_one(weighing(weight))
    assert found.refused == {}
    assert [m.content.metric_records["metrics"][WEIGHT_KEY] for m in found.usable] == [10, 1000]


def test_a_weight_below_the_cap_is_kept() -> None:
    found = sorted_beside_a_good_one(weighing(999.5))
    assert found.usable[1].content.metric_records["metrics"][WEIGHT_KEY] == 999.5


@pytest.mark.parametrize("loss", [math.nan, math.inf, -0.001, LARGEST_TRAIN_LOSS * 1.001, [0.5]])
def test_a_training_loss_out_of_range_is_refused_where_a_strategy_reads_it(loss: object) -> None:
    found = sorted_beside_a_good_one(content(**{TRAIN_LOSS_KEY: loss}), WITH_LOSS)
    assert len(found.usable) == 1
    assert "loss" in found.refused["south"]


def test_a_missing_training_loss_is_refused_where_a_strategy_reads_it() -> None:
    assert "loss" in sorted_beside_a_good_one(content(), WITH_LOSS).refused["south"]


def test_a_strategy_sees_nothing_that_was_not_checked() -> None:
    answer = content(**{TRAIN_LOSS_KEY: math.nan, "note": [1, 2, 3]})
    answer["config"] = ConfigRecord({"command": "rm"})
    cleaned = sorted_beside_a_good_one(answer).usable[1].content
    assert list(cleaned) == ["arrays", "metrics"]
    assert dict(cleaned.metric_records["metrics"]) == {WEIGHT_KEY: 10}


@pytest.mark.parametrize(
    "answer",
    [
        RecordDict({"arrays": arrays()}),
        RecordDict({"arrays": arrays(), "numbers": MetricRecord({WEIGHT_KEY: 1})}),
        RecordDict({"arrays": arrays(), "metrics": MetricRecord({})}),
        RecordDict(
            {"arrays": arrays(), "metrics": MetricRecord({WEIGHT_KEY: 1}), "more": MetricRecord({WEIGHT_KEY: 9})}
        ),
        RecordDict({"arrays": arrays(), "more": arrays(), "metrics": MetricRecord({WEIGHT_KEY: 1})}),
        RecordDict({"update": arrays(), "metrics": MetricRecord({WEIGHT_KEY: 1})}),
        RecordDict({"metrics": MetricRecord({WEIGHT_KEY: 1})}),
        RecordDict(),
    ],
    ids=[
        "no metrics",
        "misnamed metrics",
        "no weight",
        "two sets of metrics",
        "two sets of arrays",
        "misnamed arrays",
        "no arrays",
        "nothing",
    ],
)
def test_a_reply_with_other_records_than_asked_for_is_refused(answer: RecordDict) -> None:
    found = sorted_beside_a_good_one(answer)
    assert [message.metadata.src_node_id for message in found.usable] == [1]
    assert list(found.refused) == ["south"]


def test_an_error_reply_is_refused_with_its_reason_made_harmless() -> None:
    found = sorted_beside_a_good_one(Error(2, "OutOfMemory\x1b[31m\n" + "x" * 1000))
    assert found.refused["south"].startswith("it failed: OutOfMemory?[31m?")
    assert len(found.refused["south"]) < 200


def test_an_error_reply_without_a_reason_is_refused() -> None:
    assert sorted_beside_a_good_one(Error(2)).refused["south"].startswith("it failed")


def test_a_second_reply_of_one_institution_does_not_count_twice() -> None:
    second = content(ArrayRecord({"weight": Array(WEIGHT + 1), "bias": Array(BIAS)}))
    found = sort_replies([reply(2, content()), reply(2, second), reply(1, content())], NAMES, NAMES, EXPECTED)
    assert [message.metadata.src_node_id for message in found.usable] == [1, 2]
    kept = checked(found.usable[1].content.array_records["arrays"], TEMPLATE)
    assert np.array_equal(kept["weight"], WEIGHT)
    assert list(found.refused) == ["south"]


def test_a_reply_from_a_stranger_is_refused_by_its_number() -> None:
    found = sort_replies([reply(77, content()), reply(1, content())], NAMES, NAMES, EXPECTED)
    assert [message.metadata.src_node_id for message in found.usable] == [1]
    assert found.refused == {"node 77": "it was not asked in this round"}


def test_usable_replies_come_in_the_order_of_node_ids_whatever_their_arrival() -> None:
    names = {node: f"hospital-{node}" for node in range(1, 6)}
    arrived = [reply(node, content()) for node in (4, 1, 5, 3, 2)]
    assert [m.metadata.src_node_id for m in sort_replies(arrived, names, names, EXPECTED).usable] == [1, 2, 3, 4, 5]


# Evaluation counts.


REST = [0] * 5  # of the nine cells of three classes


def counted(scores: object, loss_sum: object = 1.0, noises: object = 1) -> Message:
    metrics = MetricRecord({"scores": scores, "loss-sum": loss_sum, "noises": noises})  # type: ignore[dict-item]
    return Message(RecordDict({"metrics": metrics}), reply_to=asked(2, "evaluate"))


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([1, 2, 3, *REST], "length"),
        ([1, 2, 3, 4, 5, *REST], "length"),
        ([], "length"),
        (4, "length"),
        ([1, 2, 3, -1, *REST], "whole numbers"),
        ([1.0, 2.0, 3.0, 4.0, *(0.0 for _ in REST)], "whole numbers"),
        ([0.5, math.nan, 1.0, 1.0, *(0.0 for _ in REST)], "whole numbers"),
        ([0, 0, 0, 1001, *REST], "whole numbers"),
        ([0, 0, 0, 10**30, *REST], "whole numbers"),
    ],
)
def test_counts_that_cannot_be_are_refused(scores: object, reason: str) -> None:
    with pytest.raises(BadReply, match=reason):
        evaluated(counted(scores), EXPECTED, 1, 1)


def test_counts_of_more_records_than_the_weight_cap_are_refused() -> None:
    with pytest.raises(BadReply, match="weight cap"):
        evaluated(counted([1000, 1000, 1000, 1000, *REST]), EXPECTED, 1, 1)


@pytest.mark.parametrize("noises", [0, 2, -1, 1.0, "1", None, 10**30])
def test_nobody_claims_more_noise_than_is_its_own(noises: object) -> None:
    if noises is None:
        reply = Message(RecordDict({"metrics": MetricRecord({"scores": [1, *[0] * 8]})}), reply_to=asked(2))
    else:
        reply = counted([1, *[0] * 8], noises=noises) if not isinstance(noises, str) else counted([1], noises=[1])
    with pytest.raises(BadReply, match="whose noise"):
        evaluated(reply, EXPECTED, 1, 1)


@pytest.mark.parametrize(
    "loss_sum",
    [math.nan, math.inf, -1.0, 11 * LARGEST_LOSS, [1.0], 10**400],
    ids=["nan", "inf", "negative", "large", "list", "10^400"],
)
def test_a_loss_that_cannot_be_is_refused(loss_sum: object) -> None:
    with pytest.raises(BadReply, match="loss"):
        evaluated(counted([1, 2, 3, 4, *REST], loss_sum), EXPECTED, 1, 1)


def test_counts_without_a_loss_are_refused() -> None:
    metrics = MetricRecord({"scores": [1, 2, 3, 4, *REST], "noises": 1})
    with pytest.raises(BadReply, match="loss"):
        evaluated(Message(RecordDict({"metrics": metrics}), reply_to=asked(2)), EXPECTED, 1, 1)


def test_good_counts_are_read_row_by_row() -> None:
    found = evaluated(counted([1, 2, 3, 4, *REST], 5), EXPECTED, 1, 1)
    assert found.decisions.table.tolist() == [[[1, 2, 3], [4, 0, 0], [0, 0, 0]]]
    metrics = found.metrics()
    assert (metrics.records, metrics.loss, metrics.accuracy) == (10, 0.5, 0.1)


# A whole run: one institution misbehaves, two do not.

SITES = ("clinic", "mill lane", "harbour")
BAD = "mill lane"


def training(bad: Callable[[Message], Message | None], evaluating: bool = False, always: bool = False) -> ClientApp:
    """Institutions that answer (1, ..., 1) and 3 of 4 right in each of two classes; one does something else."""
    app = ClientApp()

    def ones(scale: float) -> ArrayRecord:
        return ArrayRecord({n: Array(np.full(shape, scale, dtype=np.float32)) for n, shape in TEMPLATE.items()})

    @app.train()
    def train(message: Message, context: Context) -> Message:
        name = str(context.node_config["institution"])
        if name == BAD and (always or not evaluating):
            return bad(message)  # type: ignore[return-value]
        scale = {"clinic": 1.0, "harbour": 3.0}.get(name, 2.0)
        return Message(content(ones(scale), **{WEIGHT_KEY: 1}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        if context.node_config["institution"] == BAD and (always or evaluating):
            return bad(message)  # type: ignore[return-value]
        metrics = MetricRecord({"scores": [3, 1, 0, 1, 3, 0, 0, 0, 0], "loss-sum": 4.0, "noises": 1})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def two_rounds(app: ClientApp) -> tuple[Rounds, ArrayRecord]:
    grid = LocalGrid(app, SITES)
    inner = FedAvg().build(Federation(3, 3, 0.1), is_summed=False)
    rounds = Rounds(
        inner,
        Run(grid.names, EXPECTED, NoJournal(Randomness(1)), None, lambda report: None, 1, None),
        Progress(ArrayRecord()),
    )
    start = ArrayRecord({name: Array(np.zeros(shape, dtype=np.float32)) for name, shape in TEMPLATE.items()})
    return rounds, rounds.start(grid, start, num_rounds=2).arrays


def answering(answer: RecordDict | Error) -> Callable[[Message], Message]:
    return lambda message: Message(answer, reply_to=message)


def raising(message: Message) -> Message:
    raise ZeroDivisionError("no number of a patient belongs here")


MISBEHAVIOURS: dict[str, Callable[[Message], Message | None]] = {
    **{kind: answering(content(arrays(blob(data)))) for kind, (data, _) in BAD_BYTES.items()},
    "a missing array": answering(content(ArrayRecord({"weight": Array(WEIGHT)}))),
    "an unknown array": answering(content(ArrayRecord({"weight": Array(WEIGHT), "other": Array(BIAS)}))),
    "a negative weight": answering(weighing(-1)),
    "a weight that is not a number": answering(weighing(math.nan)),
    "a list as weight": answering(weighing([1, 2])),
    "a weight of no machine's width": answering(weighing(2**64 - 1)),
    "no metrics": answering(RecordDict({"arrays": arrays()})),
    "two sets of arrays": answering(
        RecordDict({"arrays": arrays(), "more": arrays(), "metrics": MetricRecord({WEIGHT_KEY: 1})})
    ),
    "nothing": answering(RecordDict()),
    "an error": answering(Error(2, "Nope")),
    "an exception": raising,
    "no message": lambda message: None,
}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_a_run_goes_on_without_the_institution_that_misbehaves(kind: str) -> None:
    rounds, model = two_rounds(training(MISBEHAVIOURS[kind]))
    assert [report.round for report in rounds.reports] == [1, 2]
    for report in rounds.reports:
        assert report.cohort == ("clinic", "harbour", "mill lane")
        assert report.replied == ("clinic", "harbour")
        assert list(report.refused) == [BAD]
        assert report.refused[BAD]
    assert np.array_equal(model["weight"].numpy(), np.full((2, 3), 2.0, dtype=np.float32))


def evaluating(**metrics: object) -> Callable[[Message], Message]:
    return answering(RecordDict({"metrics": MetricRecord(metrics)}))  # type: ignore[arg-type]


MISCOUNTS: dict[str, Callable[[Message], Message | None]] = {
    "too few counts": evaluating(**{"scores": [1, 2, *REST], "loss-sum": 1.0, "noises": 1}),
    "negative counts": evaluating(**{"scores": [1, 2, 3, -4, *REST], "loss-sum": 1.0, "noises": 1}),
    "fractions": evaluating(**{"scores": [1.0, 2.0, 3.0, 4.0, *(0.0 for _ in REST)], "loss-sum": 1.0, "noises": 1}),
    "too many records": evaluating(**{"scores": [1, 2, 3, 10**6, *REST], "loss-sum": 1.0, "noises": 1}),
    "a loss that is not a number": evaluating(**{"scores": [1, 2, 3, 4, *REST], "loss-sum": math.nan, "noises": 1}),
    "an error": answering(Error(2, "Nope")),
    "an exception": raising,
    "nothing": answering(RecordDict()),
}


@pytest.mark.parametrize("kind", MISCOUNTS)
def test_the_others_are_pooled_without_the_institution_that_miscounts(kind: str) -> None:
    rounds, _ = two_rounds(training(MISCOUNTS[kind], evaluating=True))
    for report in rounds.reports:
        assert report.replied == ("clinic", "harbour", "mill lane")
        assert (list(report.refused), list(report.not_evaluated)) == ([], [BAD])
        assert report.metrics is not None
        assert (report.metrics.records, report.metrics.accuracy, report.metrics.loss) == (16, 0.75, 0.5)
        assert list(report.metrics_by_institution) == ["clinic", "harbour"]


def test_training_and_evaluation_of_one_institution_may_both_be_refused() -> None:
    app = training(MISCOUNTS["nothing"], always=True)
    rounds, _ = two_rounds(app)
    assert (list(rounds.reports[0].refused), list(rounds.reports[0].not_evaluated)) == ([BAD], [BAD])


def test_an_institution_that_was_not_asked_is_not_counted() -> None:
    enter_run(1)
    names = {node_id_of(name): name for name in SITES}

    class Everyone:
        """What a strategy asks of a grid when it chooses whom to ask."""

        @staticmethod
        def get_node_ids() -> list[int]:
            return sorted(names)

    inner = FedAvg().build(Federation(institutions=3, cohort_size=2, client_learning_rate=0.1), is_summed=False)
    rounds = Rounds(
        inner,
        Run(names, EXPECTED, NoJournal(Randomness(1)), None, lambda report: None, 1, None),
        Progress(ArrayRecord()),
    )
    sent = list(rounds.configure_train(1, arrays(), ConfigRecord(), Everyone()))  # type: ignore[arg-type]
    idle = next(node for node in names if node not in {message.metadata.dst_node_id for message in sent})
    answers = [Message(content(), reply_to=message) for message in sent] + [reply(idle, content())]

    rounds.aggregate_train(1, answers)
    rounds.aggregate_evaluate(1, [])

    report = rounds.reports[0]
    assert report.replied == report.cohort
    assert list(report.refused) == [names[idle]]
