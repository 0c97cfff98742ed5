"""An entry of the log is part of the change that it tells of: both are there, or neither."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lepton_server.agreements import Agreements, Offered
from lepton_server.log import Log
from lepton_server.runs import Asked, Runs
from operators import Operator

from lepton_fl.evidence.log_entries import BadEntry, Entry, read
from lepton_fl.federation.journal import RoundReport
from lepton_fl.link.signature import Signed

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REPORT = RoundReport(0, ("oak", "elm"), ("elm",), {"oak": "it failed: 38 records of Ada"}, epsilon=0.5, skipped="why")


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "server")


def entries(operator: Operator) -> list[tuple[str, Any]]:
    """Kind and fields of what the log has, but for its key."""
    log = Log(operator.home)
    found = [read(one) for one in log.bundle().entries]
    log.close()
    return [(one.kind, dict(one.fields)) for one in found if one.kind != "log-key"]


def with_runs(operator: Operator, act: Callable[[Runs], Any]) -> Any:
    runs = Runs(operator.home.database)
    try:
        return act(runs)
    finally:
        runs.close()


def begun(operator: Operator) -> int:
    return int(with_runs(operator, lambda runs: runs.begin(Asked("{}", "", ("elm",), 3), NOW).run_id))


def test_who_came_and_who_went_is_in_the_log(operator: Operator) -> None:
    member = operator.admit("elm")
    store = operator.store()
    key = next(iter(store.member_keys()))
    store.renew(key, member.certificate, (NOW, NOW + timedelta(days=30)))
    store.revoke("elm", NOW)
    store.close()
    assert entries(operator) == [
        ("enrolled", {"institution": "elm", "key": key.hex(), "again": False}),
        ("renewed", {"institution": "elm", "key": key.hex(), "until": "2026-03-31T12:00:00.000000+00:00"}),
        ("revoked", {"institution": "elm"}),
    ]


def test_a_round_is_there_once_with_fixed_words_for_what_was_left_out(operator: Operator) -> None:
    run_id = begun(operator)
    for model in (b"\x01", b"\x02"):
        with_runs(operator, lambda runs, model=model: runs.add_trained(run_id, REPORT, model * 32, model * 32))
    fields = {"run": str(run_id), "round": 0, "model": "01" * 32, "skipped": True, "epsilon": 0.5}
    names = {"cohort": ["elm", "oak"], "replied": ["elm"], "refused": {"oak": "failed"}}
    assert entries(operator) == [("round", fields | names)]


def test_an_evaluation_that_was_released_is_there_once_with_what_it_costs(operator: Operator) -> None:
    run_id = begun(operator)
    released = {"decisions": {"bins": 2, "table": [1, -2, 3, 4], "variance": 9.0}}
    shown = replace(REPORT, round=1, histograms=released, held_out={"epsilon": 1.0, "delta": 1e-5})
    for report in (replace(REPORT, round=1), shown, replace(shown, held_out=None)):
        with_runs(operator, lambda runs, report=report: runs.add_evaluated(run_id, report))
    # What `printf '{"decisions":{"bins":2,"table":[1,-2,3,4],"variance":9}}' | sha256sum` says.
    sha256 = hashlib.sha256(b'{"decisions":{"bins":2,"table":[1,-2,3,4],"variance":9}}').hexdigest()
    fields = {"run": str(run_id), "round": 1, "what": "evaluation", "of": "held out", "sha256": sha256}
    assert entries(operator) == [("release", {**fields, "epsilon": 1.0, "delta": 1e-5})]


def test_what_cannot_be_logged_is_not_committed(operator: Operator) -> None:
    run_id = begun(operator)
    with pytest.raises(BadEntry):
        with_runs(operator, lambda runs: runs.add_trained(run_id, replace(REPORT, epsilon=-1.0), b"1" * 32, b"1" * 32))
    assert with_runs(operator, lambda runs: runs.rounds(run_id)) == []
    assert entries(operator) == []


def test_a_run_its_decisions_and_its_end_are_there_once(operator: Operator) -> None:
    for name in ("elm", "oak"):
        operator.admit(name)
    run_id = begun(operator)
    agreements = Agreements(operator.home.database)
    agreements.offer(run_id, Offered(b"{}", Signed(b"pem", b"der")))
    for _ in range(2):
        agreements.accept(run_id, "elm", Signed(b"pem", b"signature"), NOW)
        agreements.refuse(run_id, "oak", "policy.budget.epsilon: at most 1, as the board says", NOW)
    agreements.close()
    for _ in range(2):
        with_runs(operator, lambda runs: runs.end(run_id, "finished", "", NOW, "ab" * 32))
    run = str(run_id)
    empty = {"run": run, "certificate": None, "signature": None}
    assert [one for one in entries(operator) if one[0] != "enrolled"] == [
        ("run", {"run": run, "contract": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}),
        (
            "decision",
            {
                "run": run,
                "institution": "elm",
                "accepted": True,
                "clause": None,
                "certificate": "pem",
                "signature": "c2lnbmF0dXJl",
            },
        ),
        ("decision", {**empty, "institution": "oak", "accepted": False, "clause": "policy.budget.epsilon"}),
        ("run-ended", {"run": run, "state": "finished", "model": "ab" * 32}),
    ]


def test_two_connections_never_take_the_same_place(operator: Operator) -> None:
    first, second = Log(operator.home), Log(operator.home)
    places = [log.append("revoked", {"institution": str(n)}) for n in range(4) for log in (first, second)]
    assert places == list(range(1, 9))
    assert first.head().note == second.head().note
    for log in (first, second):
        log.close()


def test_an_entry_of_another_shape_is_refused_before_the_lock_is_taken(operator: Operator) -> None:
    log = Log(operator.home, lambda: NOW)
    with pytest.raises(BadEntry, match="nothing was written"):
        log.append("revoked", {"institution": "elm", "why": "Ada left"})
    assert log.append("revoked", {"institution": "elm"}) == 1
    assert read(log.bundle().entries[1]) == Entry("revoked", NOW, {"institution": "elm"})
    log.close()
