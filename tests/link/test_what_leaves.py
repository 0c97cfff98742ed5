"""Every byte that leaves is in the ledger before it does, and nothing of the data is among them."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from agreed import Capture, Institution, Run, arrays_of, begun, institution, left, reconnect
from federations import HEART, PUBLIC_POLICY, policy_text
from lepton_client.agent import _known
from line import Line
from proposals import terms
from served import until

from lepton_fl.federation.codec import encode
from lepton_fl.federation.contract import Contract
from lepton_fl.flower import Message, MetricRecord, RecordDict
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.units import NoPrivacy
from lepton_fl.v1.federation_pb2 import ClientFrame

TEXT = "CANARY-5f3c9a71"
VALUE = 151.73291015625  # a blood pressure that nobody has, exact in float32


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with begun(tmp_path) as made:
        yield made


def write_canaries(path: Path) -> None:
    """Cleveland's patients, of whom every one has the canary in the id and a tenth have its value."""
    with HEART.open() as file:
        rows = [row for row in csv.DictReader(file) if row["hospital"] == "Cleveland"]
    for number, row in enumerate(rows):
        row["record_id"] = f"{TEXT}-{number}"
        if number % 10 == 0:
            row["trestbps"] = str(VALUE)
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def elm_of(run: Run, tmp_path: Path, policy: str, port: int | None = None) -> Institution:
    write_canaries(tmp_path / "data.csv")
    return institution(run.member, tmp_path / "elm", tmp_path / "data.csv", port or run.operator.port, policy)


def rounds(run: Run, contract: Contract, count: int) -> None:
    """So many whole rounds, each trained and evaluated."""
    arrays = arrays_of(contract.settings())
    for round in range(1, count + 1):
        trained = run.answer(run.ask("train", contract, arrays, {"server-round": round}))
        assert not trained.has_error(), trained.error
        arrays = trained.content.array_records["arrays"]
        run.answer(run.ask("evaluate", contract, arrays, {"server-round": round}))


@pytest.mark.parametrize("privacy", ["record", "none"])
def test_the_ledger_accounts_for_every_byte_that_the_operator_received(run: Run, tmp_path: Path, privacy: str) -> None:
    elm = elm_of(run, tmp_path, PUBLIC_POLICY)
    asked = terms() if privacy == "record" else terms(privacy=NoPrivacy())
    contract = run.contract(asked)
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    rounds(run, contract, 3)
    run.federation.hub.end_run("the test is over")
    elm.over()
    hub = run.federation.hub
    until(lambda: not hub.sessions)
    rows = left(elm, run)
    assert sum(row["bytes"] for row in rows) == hub.received_bytes == elm.agent.standing.sent_bytes
    kinds = [row["kind"] for row in rows if row["kind"] != "connection"]
    update = "noised-update" if privacy == "record" else "plain-update+record-count"
    assert kinds == [update, "exact-counts"] * 3
    for row in rows:
        if row["kind"] != "connection":
            assert row["rule"].startswith("policy.may_leave")
            assert len(row["sha256"]) == 64
        if row["kind"] == "noised-update":
            assert 0 < row["epsilon"] < 1


def test_bytes_of_an_upload_that_was_cut_off_are_counted_as_far_as_they_went(run: Run, tmp_path: Path) -> None:
    with Line(run.operator.port) as line:
        elm = elm_of(run, tmp_path, PUBLIC_POLICY, line.port)
        contract = run.contract(terms())
        run.offer(contract)
        elm.connect()
        until(lambda: "elm" in run.federation.hub.consent.accepted)
        rounds(run, contract, 1)
        line.cut()
        elm.over()
        reconnect(elm)
        rounds_again = run.ask("train", contract, arrays_of(contract.settings()), {"server-round": 2})
        assert not run.answer(rounds_again).has_error()
        run.federation.hub.end_run("the test is over")
        elm.over()
    rows = left(elm, run)
    assert sum(row["bytes"] for row in rows) == elm.agent.standing.sent_bytes
    assert sum(row["kind"] == "connection" for row in rows) == 2


def test_what_the_policy_keeps_at_home_is_declined_and_that_is_in_the_ledger_too(run: Run, tmp_path: Path) -> None:
    elm = elm_of(run, tmp_path, policy_text())
    contract = run.contract(terms())
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    arrays = arrays_of(terms())
    run.answer(run.ask("train", contract, arrays))
    answer = run.answer(run.ask("evaluate", contract, arrays))
    assert answer.error.reason == "declined: exact-counts may not leave"
    run.federation.hub.end_run("the test is over")
    elm.over()
    (declined,) = [row for row in left(elm, run) if row["kind"] == "declined"]
    assert declined["rule"].startswith("always")
    assert elm.ledger.spent("heart", "record").uncovered == 0


def test_an_answer_that_was_kept_stays_at_home_once_the_policy_is_stricter(run: Run, tmp_path: Path) -> None:
    elm = elm_of(run, tmp_path, PUBLIC_POLICY)
    contract = run.contract(terms())
    run.offer(contract)
    elm.connect()
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    asked = run.ask("evaluate", contract, arrays_of(terms()))
    assert not run.answer(asked).has_error()
    run.federation.hub.end_run("the test is over")
    elm.over()
    # As if the acknowledgement had never come: the answer is on the disk, and is asked for again.
    spool = Spool(elm.home.path / "spool")
    answer = encode(
        Message(RecordDict({"metrics": MetricRecord({"counts": [1]})}), dst_node_id=1, message_type="evaluate")
    )
    spool.keep(asked, answer)
    strict = elm_of(run, tmp_path, policy_text("budget: {unit: record, epsilon: 100.0, delta: 1.0e-4}"))
    run.offer(contract)
    again = run.ask("evaluate", contract, arrays_of(terms()), {"again": 1})
    strict.connect()
    assert run.answer(again).error.reason.startswith("declined")
    job = strict.agent._job
    assert job is not None
    assert _known(job, asked, answer) is None
    run.federation.hub.end_run("the test is over")
    strict.over()


def test_no_answer_leaves_before_the_operator_countersigned_its_reservation(run: Run, tmp_path: Path) -> None:
    elm = elm_of(run, tmp_path, policy_text())
    contract = run.contract(terms())
    run.offer(contract)
    capture = Capture()
    elm.connect(capture)
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    run.answer(run.ask("train", contract, arrays_of(terms())))
    kinds = [ClientFrame.FromString(frame).WhichOneof("frame") for frame in capture.frames]
    told = kinds[: kinds.index("begin")]
    assert told.index("decision") < len(told) - 1 - told[::-1].index("ledger_head")
    reservation = next(
        ClientFrame.FromString(frame).ledger_head
        for frame, kind in reversed(list(zip(capture.frames, told, strict=False)))
        if kind == "ledger_head"
    )
    assert elm.ledger.hash_at(reservation.position) == reservation.sha256.hex()
    run.federation.hub.end_run("the test is over")
    elm.over()


def encodings(value: float) -> list[bytes]:
    """How this value could stand in a message."""
    packed = [struct.pack(form, value) for form in ("<f", ">f", "<d", ">d")]
    return [*packed, str(value).encode(), f"{value:.3f}".encode(), f"{value:.1f}".encode()]


def test_a_text_and_a_value_of_the_data_are_in_no_byte_that_leaves(run: Run, tmp_path: Path) -> None:
    elm = elm_of(run, tmp_path, PUBLIC_POLICY)
    contract = run.contract(terms(rounds=10))
    run.offer(contract)
    capture = Capture()
    elm.connect(capture)
    until(lambda: "elm" in run.federation.hub.consent.accepted)
    rounds(run, contract, 10)
    # A round that fails says nothing of the data either.
    failed = run.answer(run.ask("train", contract, arrays_of(terms()), {"server-round": 10, "again": 1}))
    assert failed.error.reason == "BudgetSpent"
    run.federation.hub.end_run("the test is over")
    elm.over()
    assert sum(map(len, capture.frames)) == elm.agent.standing.sent_bytes > 10_000
    everything = b"".join(capture.frames)
    # As the model sees it: scaled to the task's bounds.
    low, high = 60.0, 260.0
    for scaled in (VALUE, (VALUE - low) / (high - low), 2 * (VALUE - low) / (high - low) - 1):
        assert not [form for form in encodings(scaled) if form in everything]
    for form in (TEXT, TEXT.lower(), TEXT[::-1], "Cleveland", "record_id"):
        assert form.encode() not in everything
        assert form.encode("utf-16-le") not in everything
    assert TEXT not in (elm.home.path / "ledger" / "ledger.jsonl").read_text()
