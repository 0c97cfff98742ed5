"""The federation in this process behaves as one over a network would."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_fl.errors import DataError
from lepton_fl.federation.local_grid import LocalGrid, node_id_of
from lepton_fl.flower import (
    CLIENT_APP_RAISED,
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
)

SITES = ("Cleveland", "Hungary", "Zürich")
CANARY = "patient-4711-has-hiv"


class RareError(RuntimeError):
    """A type that no library raises."""


def echo() -> ClientApp:
    """Institutions that answer with their own name's length and the number they were sent."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        sent = message.content.config_records["config"]["number"]
        length = len(str(context.node_config["institution"]))
        return Message(RecordDict({"metrics": MetricRecord({"length": length, "sent": sent})}), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if context.node_config["institution"] == "Hungary":
            raise RareError(CANARY)
        if context.node_config["institution"] == "Cleveland":
            raise DataError("column age: not a number (3 rows, first in row 2)")
        return Message(RecordDict(), reply_to=message)

    return app


@pytest.fixture
def grid() -> LocalGrid:
    return LocalGrid(echo(), SITES)


def instruction(grid: LocalGrid, name: str, number: int = 0, kind: str = "train") -> Message:
    content = RecordDict({"config": ConfigRecord({"number": number})})
    return grid.create_message(content, kind, node_id_of(name), group_id="1")


def test_a_node_id_depends_on_the_name_alone() -> None:
    alone = LocalGrid(echo(), ["Hungary"])
    among = LocalGrid(echo(), ["Zürich", "Hungary", "Cleveland"])
    assert list(alone.get_node_ids()) == [node_id_of("Hungary")]
    assert among.names[node_id_of("Hungary")] == "Hungary"


def test_node_ids_differ_and_fit_into_a_signed_integer() -> None:
    ids = {node_id_of(f"hospital-{number}") for number in range(1000)}
    assert len(ids) == 1000
    assert all(0 <= node_id < 2**63 for node_id in ids)


def test_node_ids_are_told_in_the_order_of_names(grid: LocalGrid) -> None:
    assert list(grid.get_node_ids()) == [node_id_of(name) for name in sorted(SITES)]


def test_it_is_flowers_grid_and_knows_its_run(grid: LocalGrid) -> None:
    assert isinstance(grid, Grid)
    first = grid.run
    grid.set_run(LocalGrid(echo(), SITES).run)
    assert grid.run is not first
    assert grid.run.run_id == first.run_id


def test_a_created_message_is_what_was_asked_for(grid: LocalGrid) -> None:
    content = RecordDict({"config": ConfigRecord({"number": 1})})
    message = grid.create_message(content, "train", 17, group_id="3", ttl=5.0)
    assert message.content is content
    metadata = message.metadata
    assert (metadata.message_type, metadata.dst_node_id, metadata.group_id, metadata.ttl) == ("train", 17, "3", 5.0)


def test_each_institution_answers_in_its_own_name(grid: LocalGrid) -> None:
    replies = list(grid.send_and_receive([instruction(grid, name, 5) for name in SITES]))
    lengths = {m.metadata.src_node_id: m.content.metric_records["metrics"]["length"] for m in replies}
    assert lengths == {node_id_of(name): len(name) for name in SITES}
    assert {m.content.metric_records["metrics"]["sent"] for m in replies} == {5}


def test_replies_can_be_pulled_once(grid: LocalGrid) -> None:
    ids = list(grid.push_messages([instruction(grid, "Hungary")]))
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []


def test_only_the_replies_asked_for_are_pulled(grid: LocalGrid) -> None:
    first = list(grid.push_messages([instruction(grid, "Hungary", 1)]))
    second = list(grid.push_messages([instruction(grid, "Hungary", 2)]))
    assert [m.content.metric_records["metrics"]["sent"] for m in grid.pull_messages(second)] == [2]
    assert [m.content.metric_records["metrics"]["sent"] for m in grid.pull_messages([*first, "unknown"])] == [1]


def test_message_ids_come_in_the_order_of_the_messages(grid: LocalGrid) -> None:
    for names in (SITES, SITES[::-1]):
        ids = list(grid.push_messages([instruction(grid, name) for name in names]))
        answered = [next(iter(grid.pull_messages([message_id]))).metadata.src_node_id for message_id in ids]
        assert answered == [node_id_of(name) for name in names]


def test_an_exceptions_text_stays_at_the_institution(grid: LocalGrid) -> None:
    reply = next(iter(grid.send_and_receive([instruction(grid, "Hungary", kind="query")])))
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (CLIENT_APP_RAISED, "RareError")
    assert CANARY not in repr(reply)
    assert CANARY not in repr(reply.metadata)
    assert reply.metadata.src_node_id == node_id_of("Hungary")


def test_a_lepton_errors_sentence_is_passed_on(grid: LocalGrid) -> None:
    reply = next(iter(grid.send_and_receive([instruction(grid, "Cleveland", kind="query")])))
    assert reply.error.reason == "column age: not a number (3 rows, first in row 2)"


def test_the_others_answer_although_one_raises(grid: LocalGrid) -> None:
    replies = list(grid.send_and_receive([instruction(grid, name, kind="query") for name in SITES]))
    assert {m.metadata.src_node_id: m.has_error() for m in replies} == {
        node_id_of("Cleveland"): True,
        node_id_of("Hungary"): True,
        node_id_of("Zürich"): False,
    }


def test_a_question_nobody_answers_gives_an_error_reply(grid: LocalGrid) -> None:
    reply = next(iter(grid.send_and_receive([instruction(grid, "Hungary", kind="evaluate")])))
    assert reply.has_error()


def test_a_message_to_a_stranger_gives_an_error_reply(grid: LocalGrid) -> None:
    content = RecordDict({"config": ConfigRecord({"number": 1})})
    stranger = grid.create_message(content, "train", 12345, group_id="1")
    replies = list(grid.send_and_receive([stranger, instruction(grid, "Hungary")]))
    assert {m.metadata.src_node_id: m.has_error() for m in replies} == {12345: True, node_id_of("Hungary"): False}


def test_the_operator_and_an_institution_share_no_object() -> None:
    kept: list[Message] = []
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        kept.append(message)
        return Message(message.content, reply_to=message)

    grid = LocalGrid(app, ["Hungary"])
    values = np.arange(3, dtype=np.float32)
    sent = Message(RecordDict({"arrays": ArrayRecord({"w": Array(values)})}), node_id_of("Hungary"), "train")
    reply = next(iter(grid.send_and_receive([sent])))
    assert kept[0].content is not sent.content
    assert reply.content is not kept[0].content
    assert np.array_equal(reply.content.array_records["arrays"]["w"].numpy(), values)


def test_an_institution_cannot_answer_in_anothers_name() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        forged = Message(RecordDict(), dst_node_id=node_id_of("Cleveland"), message_type="train")
        return Message(RecordDict(), reply_to=forged)

    grid = LocalGrid(app, SITES)
    reply = next(iter(grid.send_and_receive([instruction(grid, "Hungary")])))
    assert reply.metadata.src_node_id == node_id_of("Hungary")
