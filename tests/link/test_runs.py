"""What the operator's records say of runs is said once, survives the process, and can be continued."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from lepton_server.database import StoreError
from lepton_server.journal import Inbox, Place, RunJournal
from lepton_server.presence import Presence
from lepton_server.runs import Asked, Runs
from lepton_server.store import Store

from lepton_fl.evaluation.metrics import Metrics
from lepton_fl.federation.journal import RoundReport
from lepton_fl.flower import Array, ArrayRecord
from lepton_fl.link.frames import Parts
from lepton_fl.privacy.randomness import Randomness

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = Asked('{"rounds": 3}', "/out", ("North", "South"), 3)
MEMBERS = {11: "North", 12: "South"}
REPORT = RoundReport(
    1, ("North", "South"), ("North",), {"South": "it failed"}, Metrics(3, 1 / 3, None, 0.1), {}, 0.7, 2.5
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "server.db"
    store = Store(path)
    for number, name in enumerate(MEMBERS.values()):
        secret = bytes([number]) * 32
        store.invite(name, secret, NOW + timedelta(days=1), NOW)
        store.enrol(secret, bytes([number + 1]) * 32, b"certificate", (NOW, NOW + timedelta(days=30)))
    store.close()
    return path


def model(value: float) -> ArrayRecord:
    return ArrayRecord({"b": Array(np.full(2, value, np.float32)), "a": Array(np.full((1, 2), value, np.float32))})


def journal(database: Path, run_id: int, seed: int | None = None) -> RunJournal:
    place = Place(run_id, database.parent / "run", lambda point: None)
    return RunJournal(Runs(database), place, Randomness(seed), lambda: dict(MEMBERS))


def begun(database: Path) -> int:
    runs = Runs(database)
    try:
        return runs.begin(ASKED, NOW).run_id
    finally:
        runs.close()


def test_a_run_that_was_begun_is_found_unfinished_until_it_ends(database: Path) -> None:
    run_id = begun(database)
    runs = Runs(database)
    found = runs.unfinished()
    assert found is not None
    assert (found.run_id, found.asked, found.state) == (run_id, ASKED, "open")
    runs.end(run_id, "finished", "", NOW + timedelta(hours=1))
    assert runs.unfinished() is None
    assert [(run.state, run.ended_at) for run in runs.all()] == [("finished", NOW + timedelta(hours=1))]


def test_there_is_one_unfinished_run_at_most(database: Path) -> None:
    begun(database)
    with pytest.raises(sqlite3.IntegrityError):
        begun(database)


def test_a_report_comes_back_as_it_was(database: Path) -> None:
    run_id, runs = begun(database), Runs(database)
    runs.add_trained(run_id, REPORT, b"\x01" * 32, b"\x03" * 32)
    runs.add_evaluated(run_id, REPORT)
    (stored,) = runs.rounds(run_id)
    assert stored.trained == stored.evaluated == REPORT


def test_the_first_commit_of_a_round_stays_whatever_comes_later(database: Path) -> None:
    run_id, runs = begun(database), Runs(database)
    other = replace(REPORT, replied=("South",))
    for report, sha256 in ((REPORT, b"\x01" * 32), (other, b"\x02" * 32)):
        runs.add_trained(run_id, report, sha256, sha256)
        runs.add_evaluated(run_id, report)
    (stored,) = runs.rounds(run_id)
    assert (stored.trained, stored.evaluated, stored.checkpoint_sha256) == (REPORT, REPORT, b"\x01" * 32)


def test_whom_a_round_asks_is_decided_once(database: Path) -> None:
    run_id = begun(database)
    first = journal(database, run_id).cohort_seed(1)
    again = journal(database, run_id)
    assert again.cohort_seed(1) == first
    assert again.members == MEMBERS
    assert again.cohort_seed(2) != first


def test_without_a_seed_the_first_model_is_the_same_after_a_crash(database: Path) -> None:
    run_id = begun(database)
    assert journal(database, run_id).resume(model(1.0)).arrays["a"].numpy().tolist() == [[1.0, 1.0]]
    progress = journal(database, run_id).resume(model(2.0))
    assert progress.arrays["a"].numpy().tolist() == [[1.0, 1.0]]
    assert list(progress.arrays) == ["b", "a"]


def test_a_run_goes_on_after_its_last_commit(database: Path) -> None:
    run_id = begun(database)
    kept = journal(database, run_id)
    kept.resume(model(0.0))
    kept.cohort_seed(1)
    kept.trained(REPORT, model(1.0), {"m_t/a": np.ones(2)})

    between = journal(database, run_id).resume(model(0.0))
    assert (between.trained, between.reports) == (REPORT, ())
    assert between.strategy["m_t/a"].tolist() == [1.0, 1.0]

    kept.evaluated(REPORT)
    after = journal(database, run_id).resume(model(0.0))
    assert (after.trained, after.reports) == (None, (REPORT,))
    assert after.arrays["b"].numpy().tolist() == [1.0, 1.0]


def test_a_reply_that_was_taken_is_found_after_a_crash_and_forgotten_after_its_commit(database: Path) -> None:
    run_id = begun(database)
    place = Place(run_id, database.parent / "run", lambda point: None)
    message_id, parts = "ab" * 32, Parts(b"envelope", (b"array",))
    for inbox in (Inbox(Runs(database), place), Inbox(Runs(database), place)):
        inbox.write(message_id, parts)
        inbox.count(message_id, "North", parts)

    assert Inbox(Runs(database), place).find(message_id) == parts
    assert Inbox(Runs(database), place).find("cd" * 32) is None
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT institution, bytes FROM replies").fetchall() == [("North", 13)]
    journal(database, run_id).resume(model(0.0))
    journal(database, run_id).trained(REPORT, model(1.0), {})
    assert Inbox(Runs(database), place).find(message_id) is None


def test_a_reply_whose_file_was_written_and_whose_row_was_not_does_not_count(database: Path) -> None:
    run_id = begun(database)
    died = Place(run_id, database.parent / "run", _die_after("reply written"))
    with pytest.raises(KeyboardInterrupt):
        Inbox(Runs(database), died).write("ab" * 32, Parts(b"envelope", ()))
    assert Inbox(Runs(database), died).find("ab" * 32) is None


def _die_after(point: str):  # type: ignore[no-untyped-def]
    def reached(passed: str) -> None:
        if passed == point:
            raise KeyboardInterrupt

    return reached


def test_an_earlier_releases_records_are_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE institutions (name TEXT)")
        db.execute("PRAGMA user_version = 1")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="written by another release or program; nothing was changed"):
        Runs(path)
    assert path.read_bytes() == before


def test_who_was_connected_to_a_killed_server_is_not_connected_to_the_next(database: Path) -> None:
    presence = Presence(database)
    presence.connected("North", NOW)
    presence.heard(["North"], NOW + timedelta(seconds=5))
    assert [(one.institution, one.is_connected) for one in presence.all()] == [("North", True), ("South", False)]
    Presence(database).nobody(NOW + timedelta(seconds=9))
    (north, _) = presence.all()
    assert not north.is_connected
    assert north.last_heard_at == NOW + timedelta(seconds=5)
    presence.connected("North", NOW + timedelta(seconds=20))
    assert presence.all()[0].is_connected
