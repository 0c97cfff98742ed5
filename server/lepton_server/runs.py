"""Runs in the operator's database: what was asked, how far it came, which replies were taken."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_fl.evidence import canonical
from lepton_fl.evidence.log_entries import Entry, reason_word
from lepton_fl.federation.journal import RoundReport
from lepton_fl.privacy.books import HELD_OUT
from lepton_server import log_rows
from lepton_server.database import Database, as_text, as_time


@dataclass(frozen=True)
class Asked:
    """A run as it was asked for, before its first round."""

    settings: str  # JSON of every setting that two invocations of one run must share
    output: str
    institutions: tuple[str, ...]  # when it began; their number sets a private step's divisor
    planned: int  # rounds


@dataclass(frozen=True)
class StoredRun:
    """A run and its state."""

    run_id: int
    asked: Asked
    state: str  # open, finished, failed or abandoned
    began_at: datetime
    ended_at: datetime | None
    detail: str


@dataclass(frozen=True)
class StoredRound:
    """A round, as far as it was committed."""

    round: int
    members: dict[int, str]  # node id: institution; who could be asked
    checkpoint_sha256: bytes | None
    trained: RoundReport | None
    evaluated: RoundReport | None


class Runs:
    """Runs, rounds and replies; one connection, used by one thread."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def unfinished(self) -> StoredRun | None:
        """The run that was begun and has not ended; there is one at most."""
        return next((run for run in self.all() if run.state == "open"), None)

    def all(self) -> list[StoredRun]:
        """Every run, the latest first."""
        rows = self._db.execute(
            "SELECT run_id, settings, output, institutions, planned, state, began_at, ended_at, detail FROM runs "
            "ORDER BY began_at DESC"
        )
        return [_run(row) for row in rows]

    def begin(self, asked: Asked, now: datetime) -> StoredRun:
        """Remember a new run under a number of its own."""
        run_id = secrets.randbits(62) + 2
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO runs (run_id, settings, output, institutions, planned, state, began_at, detail) "
                "VALUES (?, ?, ?, ?, ?, 'open', ?, '')",
                (run_id, asked.settings, asked.output, json.dumps(asked.institutions), asked.planned, as_text(now)),
            )
            self._db.note(now, None, "run begun", str(run_id))
        return StoredRun(run_id, asked, "open", now, None, "")

    def end(self, run_id: int, state: str, detail: str, now: datetime, model: str | None = None) -> None:
        """The run is over: finished, failed or abandoned.

        Args:
            model: hex SHA-256 of the model file that was written.
        """
        with self._db.transaction():
            self._db.execute(
                "UPDATE runs SET state = ?, ended_at = ?, detail = ? WHERE run_id = ?",
                (state, as_text(now), detail, run_id),
            )
            self._db.note(now, None, f"run {state}", f"{run_id} {detail}".strip())
            entry = Entry("run-ended", now, {"run": str(run_id), "state": state, "model": model})
            log_rows.enter(self._db, entry, f"run-ended/{run_id}")

    def node_ids(self, institutions: tuple[str, ...]) -> dict[int, str]:
        """These institutions by node id."""
        rows = self._db.execute("SELECT node_id, name FROM institutions ORDER BY name")
        return {node_id: name for node_id, name in rows if name in institutions}

    def open_round(self, run_id: int, round: int, proposed: tuple[int, dict[int, str]]) -> tuple[int, dict[int, str]]:
        """The cohort seed and the members of a round: those proposed, or those of before a crash."""
        seed, members = proposed
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO rounds (run_id, round, cohort_seed, members) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (run_id, round, seed, json.dumps({str(node_id): name for node_id, name in members.items()})),
            )
            seed, text = self._db.execute(
                "SELECT cohort_seed, members FROM rounds WHERE run_id = ? AND round = ?", (run_id, round)
            ).fetchone()
        return int(seed), _members(text)

    def add_trained(self, run_id: int, report: RoundReport, checkpoint_sha256: bytes, model_sha256: bytes) -> None:
        """Commit a round's model, and its entry in the log; round 0 is the model before the first.

        Args:
            checkpoint_sha256: of the file that holds the model and the strategy's state.
            model_sha256: see `federation.arrays.sha256_of`.
        """
        entry = Entry("round", datetime.now(UTC), _round_fields(run_id, report, model_sha256))
        # Together or not at all: a crash leaves no model without its entry, and no entry without its model.
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO rounds (run_id, round, checkpoint_sha256, trained) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET checkpoint_sha256 = excluded.checkpoint_sha256, trained = excluded.trained "
                "WHERE trained IS NULL",
                (run_id, report.round, checkpoint_sha256, json.dumps(report.as_plain())),
            )
            log_rows.enter(self._db, entry, f"round/{run_id}/{report.round}")

    def add_evaluated(self, run_id: int, report: RoundReport) -> None:
        """Commit that a round is over, and what was released of who is held out, in the log."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE rounds SET evaluated = ? WHERE run_id = ? AND round = ? AND evaluated IS NULL",
                (json.dumps(report.as_plain()), run_id, report.round),
            )
            for what, released in _released(report).items():
                entry = Entry("release", datetime.now(UTC), _release_fields(run_id, report, (what, released)))
                log_rows.enter(self._db, entry, f"{what}/{run_id}/{report.round}")

    def rounds(self, run_id: int) -> list[StoredRound]:
        """The rounds that were opened, in order."""
        rows = self._db.execute(
            "SELECT round, members, checkpoint_sha256, trained, evaluated FROM rounds WHERE run_id = ? ORDER BY round",
            (run_id,),
        )
        return [
            StoredRound(round, _members(members), sha256, _report(trained), _report(over))
            for round, members, sha256, trained, over in rows
        ]

    def add_reply(self, run_id: int, message_id: str, sender: tuple[str, int], now: datetime) -> None:
        """Note that this reply was taken; a repeat changes nothing.

        Args:
            sender: the institution, and how many bytes came.
        """
        self._db.execute(
            "INSERT INTO replies (message_id, run_id, institution, bytes, accepted_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            (message_id, run_id, *sender, as_text(now)),
        )

    def has_reply(self, message_id: str) -> bool:
        """Whether the reply to this instruction was taken."""
        return self._db.execute("SELECT 1 FROM replies WHERE message_id = ?", (message_id,)).fetchone() is not None


def _run(row: tuple[Any, ...]) -> StoredRun:
    asked = Asked(row[1], row[2], tuple(json.loads(row[3])), row[4])
    return StoredRun(row[0], asked, row[5], as_time(row[6]), None if row[7] is None else as_time(row[7]), row[8])


def _members(text: str | None) -> dict[int, str]:
    return {} if text is None else {int(node_id): name for node_id, name in json.loads(text).items()}


def _report(text: str | None) -> RoundReport | None:
    return None if text is None else RoundReport.from_plain(json.loads(text))


def _released(report: RoundReport) -> dict[str, Any]:
    """What a round told of who is held out, by what it is."""
    if report.histograms is None:
        return {}
    from lepton_fl.federation.evaluating import ATTRIBUTIONS  # with torch, for which nobody who looks at a run waits

    whole = dict(report.histograms)
    attributions = whole.pop(ATTRIBUTIONS, None)
    return {"evaluation": whole, **({} if attributions is None else {"explanation": attributions})}


def _release_fields(run_id: int, report: RoundReport, told: tuple[str, Any]) -> dict[str, Any]:
    """What it is, the epsilon of who is held out after it, and its digest; no figure stands in the log."""
    (what, released), spent = told, report.held_out or {}
    return {
        "run": str(run_id),
        "round": report.round,
        "what": what,
        "of": HELD_OUT,
        "epsilon": spent.get("epsilon"),
        "delta": spent.get("delta"),
        "sha256": hashlib.sha256(canonical.to_bytes(released)).hexdigest(),
    }


def _round_fields(run_id: int, report: RoundReport, model_sha256: bytes) -> dict[str, Any]:
    """What the log says of a round: nothing that was not released, and reasons by fixed words."""
    return {
        "run": str(run_id),
        "round": report.round,
        "model": model_sha256.hex(),
        "cohort": sorted(report.cohort),
        "replied": sorted(report.replied),
        "refused": {name: reason_word(why) for name, why in report.refused.items()},
        "skipped": report.skipped is not None,
        "epsilon": report.epsilon,
    }
