"""The journal of a run over the network: files first, then the row that makes them count.

Every change is on disk before anything that depends on it leaves this process, so `kill -9` at any moment leaves a
run that goes on at its next uncommitted round. The moments have names (`POINTS`), so that a test can stop there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.errors import LeptonError
from lepton_fl.federation.arrays import sha256_of
from lepton_fl.federation.journal import Progress, RoundReport, StrategyState, cohort_seed
from lepton_fl.flower import ArrayRecord
from lepton_fl.link.frames import Parts
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.randomness import Randomness
from lepton_server.checkpoint import Checkpoints
from lepton_server.database import StoreError
from lepton_server.decisions import Decisions
from lepton_server.runs import Runs

POINTS = (
    "run begun",
    "round opened",
    "reply written",
    "reply accepted",
    "checkpoint written",
    "round trained",
    "round evaluated",
    "results written",
    "run ended",
)
Reached = Callable[[str], None]
"""Told each of `POINTS` as it is passed."""


@dataclass(frozen=True)
class Place:
    """Which run, and where its files are."""

    run_id: int
    folder: Path
    reached: Reached


class Inbox:
    """Replies that were taken, until their round is committed; used by one thread, but for `write`."""

    def __init__(self, runs: Runs, place: Place) -> None:
        self._runs, self._place = runs, place
        self._spool = Spool(place.folder / "replies")

    def write(self, message_id: str, parts: Parts) -> None:
        """The reply is on disk; in any thread, one at a time for each message.

        Raises:
            StoreError: the disk is full.
        """
        try:
            self._spool.keep(message_id, parts)
        except OSError as error:
            raise StoreError(
                f"cannot write a reply to {self._place.folder}: {error.strerror}; the institution keeps it; make room, "
                "then run the same command again"
            ) from error
        self._place.reached("reply written")

    def count(self, message_id: str, institution: str, parts: Parts) -> None:
        """The reply that was written counts when this returns; only then may it be acknowledged."""
        self._runs.add_reply(self._place.run_id, message_id, (institution, parts.size()), datetime.now(UTC))
        self._place.reached("reply accepted")

    def find(self, message_id: str) -> Parts | None:
        """The reply to this instruction, if it was taken before a crash."""
        return self._spool.find(message_id) if self._runs.has_reply(message_id) else None

    def clear(self) -> None:
        """What came is committed, or will never be asked for again."""
        for message_id in self._spool.holds():
            self._spool.forget(message_id)


class RunJournal:
    """See `lepton_fl.federation.journal.Journal`; used by the strategy's thread.

    `members` is who can be asked in the open round, node id to institution: those the run began with, and those
    who were connected when the round was opened.
    """

    def __init__(self, runs: Runs, place: Place, randomness: Randomness, present: Callable[[], dict[int, str]]) -> None:
        self._runs, self._place, self._randomness, self._present = runs, place, randomness, present
        self._checkpoints = Checkpoints(place.folder)
        self._inbox = Inbox(runs, place)
        self.decisions = Decisions(place.folder / "steps")  # of the open masked round
        self.members: dict[int, str] = present()

    def resume(self, initial: ArrayRecord) -> Progress:
        """See `Journal.resume`."""
        rounds = self._runs.rounds(self._place.run_id)
        committed = [one for one in rounds if one.trained is not None]
        if not committed:
            # Round 0: without a seed, a second start would draw another first model.
            self._commit(RoundReport(0), initial, {})
            return Progress(initial)
        last = committed[-1]
        if last.checkpoint_sha256 is None:
            raise StoreError("the records name no checkpoint; nothing was changed; restore the home from a backup")
        arrays, strategy = self._checkpoints.read(last.round, last.checkpoint_sha256, list(initial))
        self._set_members(last.members)
        over = tuple(one.evaluated for one in rounds if one.evaluated is not None)
        return Progress(arrays, strategy, over, last.trained if last.round > len(over) else None)

    def cohort_seed(self, round: int) -> int:
        """See `Journal.cohort_seed`; also fixes who can be asked."""
        proposed = (cohort_seed(self._randomness, round), self._present())
        seed, members = self._runs.open_round(self._place.run_id, round, proposed)
        self._set_members(members)
        self._place.reached("round opened")
        return seed

    def trained(self, report: RoundReport, arrays: ArrayRecord, strategy: StrategyState) -> None:
        """See `Journal.trained`."""
        self._commit(report, arrays, strategy)
        self._place.reached("round trained")
        self._inbox.clear()
        self.decisions.clear()
        self._checkpoints.forget_before(report.round)

    def evaluated(self, report: RoundReport) -> None:
        """See `Journal.evaluated`."""
        self._runs.add_evaluated(self._place.run_id, report)
        self._place.reached("round evaluated")
        self._inbox.clear()
        self.decisions.clear()

    def ended(self, error: LeptonError | None, model: str | None = None) -> None:
        """The run is over: it has its results, or can never have them.

        Args:
            model: hex SHA-256 of the model file among the results.
        """
        state, detail = ("finished", "") if error is None else ("failed", str(error))
        self._runs.end(self._place.run_id, state, detail, datetime.now(UTC), model)
        self._place.reached("run ended")

    def _commit(self, report: RoundReport, arrays: ArrayRecord, strategy: StrategyState) -> None:
        sha256 = self._checkpoints.write(report.round, arrays, strategy)
        self._place.reached("checkpoint written")
        model = sha256_of({name: array.numpy() for name, array in arrays.items()})
        self._runs.add_trained(self._place.run_id, report, sha256, model)

    def _set_members(self, members: dict[int, str]) -> None:
        if members:
            self.members.clear()
            self.members.update(members)
