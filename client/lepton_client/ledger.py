"""The institution's ledger: what was spent and what left, on disk before it happens, whatever process asks.

Several agents of one institution may share a ledger. Each entry is decided and written under the folder's lock, after
reading what the others wrote, so that two processes never both spend the last of a budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_client import ledger_files as files
from lepton_client import put_back
from lepton_client.ledger_files import START, LedgerDamaged, Reached
from lepton_client.put_back import Countersigned
from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy import budget, chain
from lepton_fl.privacy.books import TRAINED_ON, Account, Books, Declared, Left, Run, Sent, declared_fields
from lepton_fl.privacy.budget import AccountState, Price
from lepton_fl.privacy.chain import GENESIS, Damaged, Head


@dataclass(frozen=True)
class Reserved:
    """A round whose cost is spent, whatever becomes of it."""

    run: str
    round: int
    instruction: str
    is_again: bool  # it was reserved before, for the same instruction, and nothing had left


def nothing(point: str) -> None:
    """A `Reached` that does nothing."""


class Ledger:
    """Open; every method that writes returns once its entry is on disk.

    Any of them raises `LedgerDamaged` if the files are not what was written, and OSError if the disk takes no more;
    then nothing may be read or sent.
    """

    def __init__(self, folder: Path, key: bytes, clock: Callable[[], datetime], reached: Reached) -> None:
        """See `open`."""
        self.folder = folder
        self._key, self._clock, self._reached = key, clock, reached
        self._place, self._hashes = START, [GENESIS.sha256]
        self._books = Books()
        self._announced: dict[str, int] = {}  # bytes of each run, said to leave by the connection that is open

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], datetime], reached: Reached = nothing) -> Ledger:
        """The ledger of this folder, verified whole; a new one only if there is none of its files.

        Raises:
            LedgerDamaged: it is not what was written.
        """
        files.prepare(folder)
        with files.held(folder):
            if files.is_absent(folder):
                files.make(folder)
            try:
                key = files.read_key(folder)
            except Damaged as damage:
                raise LedgerDamaged(folder, damage) from None
            opened = cls(folder, key, clock, reached)
            opened._catch_up()
        return opened

    @property
    def head(self) -> Head:
        """The last entry, as far as this process knows."""
        return self._place.head

    def hash_at(self, position: int) -> str | None:
        """The SHA-256 of that entry's line; None if there is no such entry."""
        return self._hashes[position] if 0 <= position < len(self._hashes) else None

    def declare(self, declared: Declared, *, may_follow_uncovered: bool = False) -> Head:
        """The run is known; saying the same again changes nothing.

        Args:
            may_follow_uncovered: a person allows it although something of the same data left that no epsilon covers.

        Raises:
            ConfigError: declared otherwise before, or in another unit, relation or delta than its data set.
        """
        with self._turn():
            if budget.refuse_declaration(self._books, declared):
                return self.head
            return self._append("declared", declared_fields(declared) | {"may_follow_uncovered": may_follow_uncovered})

    def reserve(self, run: str, round: int, instruction: str) -> Reserved:
        """The round's cost is spent; only now may a record be read.

        An instruction that was reserved and never answered may be carried out again: nothing left.

        Raises:
            BudgetSpent: the round may not begin; the message says what was spent, what it would cost, what is left.
        """
        with self._turn():
            known = self._books.runs.get(run)
            last = known.last if known is not None else None
            if last is not None and (last.round, last.instruction, last.has_left) == (round, instruction, False):
                return Reserved(run, round, instruction, is_again=True)
            filter = budget.filter_for_round(self._books, run, round, instruction)
            order = None if filter is None else filter.order
            self._append("reserved", {"run": run, "round": round, "instruction": instruction, "order": order})
            return Reserved(run, round, instruction, is_again=False)

    def settle(self, run: str, round: int, seconds: float) -> Head:
        """The round is over; it took so long. Its cost stays."""
        with self._turn():
            known = self._known(run)
            if known.last_settled >= round:
                return self.head
            if known.last is None or known.last.round != round:
                raise BudgetSpent(
                    f"round {round} of run {run} ends and was never reserved; nothing may leave; report it"
                )
            return self._append("settled", {"run": run, "round": round, "seconds": seconds})

    def left(self, left: Left) -> Head:
        """The message is about to leave; only now may its first byte. Each sending of it has its entry.

        Raises:
            BudgetSpent: its run was never declared.
        """
        with self._turn():
            if left.run:
                self._known(left.run)
            head = self._append("left", asdict(left))
            self._announced[left.run] = self._announced.get(left.run, 0) + left.bytes
            return head

    def closed(self, run: str, connection: str, sent: Iterable[Sent]) -> Head:
        """A connection is over, and put this on the transport.

        The entry's bytes are what was sent beyond what `left` announced: heartbeats and the like, less what was
        announced and cut off. So the bytes of a run's entries add up to what the transport counted.
        """
        frames = sorted(sent, key=lambda part: part.kind)
        with self._turn():
            announced = self._announced.get(run, 0)
            head = self._append(
                "connection",
                {
                    "run": run,
                    "connection": connection,
                    "sent": [asdict(part) for part in frames],
                    "announced": announced,
                    "bytes": sum(part.bytes for part in frames) - announced,
                },
            )
            self._announced.pop(run, None)
            return head

    def spent(self, data_set: str, unit: str, part: str = TRAINED_ON) -> AccountState:
        """Where this account stands, with what other processes reserved."""
        with self._turn():
            return budget.state(self._books, Account(data_set, unit, part))

    def price(
        self, declared: Declared, *, beside: Iterable[Declared] = (), may_follow_uncovered: bool = False
    ) -> Price:
        """What a run would cost; nothing is written. See `budget.price`."""
        with self._turn():
            return budget.price(self._books, declared, beside=beside, may_follow_uncovered=may_follow_uncovered)

    def run(self, run: str) -> Run | None:
        """What a run has done here; None if it was never declared."""
        with self._turn():
            return self._books.runs.get(run)

    def epsilon_after(self, run: str) -> float | None:
        """What the run's account has spent, for the journal; None where no epsilon covers the run or the account."""
        with self._turn():
            known = self._known(run)
            if known.declared.mechanism is None:
                return None
            spent = budget.epsilon_at_once(self._books, known.declared.account)
            return spent if spent < math.inf else None

    def replaces(self, ledger: str) -> bool:
        """Whether a person put this ledger in the place of that one, named by the SHA-256 of its first entry."""
        return ledger in self._books.replaced

    def note_put_back(self, seen: Countersigned) -> None:
        """The ledger is damaged for every process until a person decides, or until this entry is here again."""
        with files.held(self.folder):
            if not self.is_put_back:
                put_back.note(self.folder, seen)

    @property
    def is_put_back(self) -> bool:
        """Whether it was noted that an operator saw an entry which is not here."""
        try:
            self._refuse_noted()
        except Damaged:
            return True
        return False

    def _refuse_noted(self) -> None:
        put_back.refuse_noted(self.folder, self.hash_at, self._books.replaced)

    def _known(self, run: str) -> Run:
        known = self._books.runs.get(run)
        if known is None:
            raise BudgetSpent(f"run {run} was never declared; nothing was read or sent; tell the operator")
        return known

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nobody else writes, and what others wrote is known."""
        with files.held(self.folder):
            self._catch_up()
            yield

    def _catch_up(self) -> None:
        try:
            found, head = files.look(self.folder, self._key, self._place)
        except Damaged as damage:
            raise LedgerDamaged(self.folder, damage) from None
        self._place = files.settle_end(self.folder, self._key, found, self._place, head)
        for entry in found.entries:
            self._hashes.append(entry.head.sha256)
            self._books.take(entry.fields)
        try:
            self._refuse_noted()
        except Damaged as damage:
            raise LedgerDamaged(self.folder, damage) from None

    def _append(self, entry: str, fields: dict[str, Any]) -> Head:
        at = self._clock().astimezone(UTC).isoformat(timespec="seconds")
        written = {"at": at, "entry": entry, **fields}
        line = chain.line(self.head, written, self._key)
        self._place = files.append(self.folder, self._key, self._place, line, self._reached)
        self._hashes.append(self.head.sha256)
        self._books.take(written)
        return self.head
