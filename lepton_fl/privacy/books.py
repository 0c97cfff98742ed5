"""What the entries of an institution's ledger mean: accounts, runs, rounds reserved, messages that left.

An account is a data set, a unit of privacy, and a part of the data: who is trained on, who is held out to judge the
model, who is held out to steer it. Nobody is in two parts, so each part pays for itself, and a person's epsilon is that
of the part they are in; a run whose split puts people into other parts is refused. A run declares itself once for each
part; each round reserves its cost before the first record is read, and the reservation stays spent whatever happens.
Replaying the entries gives the books, and nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.accounting import GAUSSIAN, LAWS, Segment
from lepton_fl.privacy.chain import Entry

TRAINED_ON, HELD_OUT, TUNED_ON = PARTS = ("", "held out", "tuned on")


@dataclass(frozen=True)
class Step:
    """One step of a run's mechanism: Poisson sampling, then noise on a clipped sum.

    Of shared noise, which is Skellam noise, the multiplier is that of the sum over the fewest honest institutions, and
    `own_multiplier` that of this institution's share alone.
    """

    noise_multiplier: float  # standard deviation over the clipping norm, > 0
    sampling_rate: float  # in (0, 1]
    law: str = GAUSSIAN  # entries from before there was shared noise name none
    own_multiplier: float | None = None  # None: all the noise is this institution's own

    @property
    def is_known(self) -> bool:
        """Whether an accountant can use it."""
        is_step = 0 < self.noise_multiplier < math.inf and 0 < self.sampling_rate <= 1 and self.law in LAWS
        if self.law == GAUSSIAN:
            return is_step and self.own_multiplier is None
        return is_step and self.own_multiplier is not None and 0 < self.own_multiplier <= self.noise_multiplier

    def segment(self, steps: int, *, is_own: bool) -> Segment:
        """So many of them, for an accountant.

        Args:
            is_own: with this institution's share of the noise alone, as against an operator who sees through the sum.
        """
        noise_multiplier = self.noise_multiplier
        if is_own and self.own_multiplier is not None:
            noise_multiplier = self.own_multiplier
        return Segment(noise_multiplier, self.sampling_rate, steps, self.law)


@dataclass(frozen=True)
class Declared:
    """What a run is, before it reads a record."""

    run: str
    operator: str  # whose run it is
    data_set: str
    unit: str  # whose presence is hidden
    neighbouring_relation: str | None  # None: the run promises nothing
    delta: float  # of the account, the same in all its runs
    epsilon_cap: float  # the most that the account may have spent while this run goes on
    mechanism: Step | None  # None: no epsilon covers what the run releases
    steps_per_round: int
    rounds: int
    data_sha256: str
    contract_sha256: str
    part: str = TRAINED_ON
    split: str = ""  # digest of what decides who is in which part; empty: an entry from before it was noted

    def __post_init__(self) -> None:
        if not self.run or self.steps_per_round < 1 or self.rounds < 1:
            raise ConfigError("a run needs a name, a round and a step; nothing was read; tell the operator")
        if self.mechanism is None:
            return
        if not self.mechanism.is_known or not 0 < self.delta < 0.5 or not 0 < self.epsilon_cap < math.inf:
            raise ConfigError(
                f"the run declares {self.mechanism}, delta {self.delta:g} and a cap of {self.epsilon_cap:g}, which no "
                "accountant can use; nothing was read; tell the operator"
            )

    @property
    def account(self) -> Account:
        """Who pays."""
        return Account(self.data_set, self.unit, self.part)

    def segment(self, rounds: int, *, is_own: bool = False) -> tuple[Segment, ...]:
        """So many of its rounds, for an accountant; empty where no epsilon covers them. See `Step.segment`."""
        if self.mechanism is None:
            return ()
        return (self.mechanism.segment(rounds * self.steps_per_round, is_own=is_own),)


class Account(NamedTuple):
    """Where epsilon adds up."""

    data_set: str
    unit: str
    part: str = TRAINED_ON


@dataclass(frozen=True)
class Left:
    """A message that is about to leave, by one connection."""

    run: str  # empty: it belongs to none
    round: int
    message_id: str  # of the instruction that it answers
    kind: str
    bytes: int  # in frames, as announced; what was then not sent is taken off when the connection ends
    sha256: str
    epsilon: float | None  # of the account after it; None: no epsilon covers this message
    rule: str  # of the policy, that allowed it


@dataclass(frozen=True)
class Sent:
    """Frames of one kind that a connection put on the transport."""

    kind: str
    frames: int
    bytes: int


@dataclass(frozen=True)
class Round:
    """The last round of a run that was reserved."""

    round: int
    instruction: str  # its digest
    has_left: bool  # the answer left, or may have


@dataclass(frozen=True)
class Run:
    """What one run has done here."""

    declared: Declared
    may_follow_uncovered: bool  # a person allowed it on data of which something left that no epsilon covers
    rounds: int = 0  # reserved
    settled: int = 0
    seconds: float = 0.0  # of training, over the rounds that settled
    last: Round | None = None
    last_settled: int = 0
    uncovered: int = 0  # messages that left without an epsilon


class Books:
    """The state that entries add up to."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.orders: dict[Account, float] = {}  # of each account's filter, fixed by its first round
        self.first: dict[Account, str] = {}  # the run of that round
        self.replaced: set[str] = set()  # ledgers that a person gave up for this one, by their first entry's SHA-256
        self._is_cap_spent = False  # decided in this chain
        self._was_cap_spent = False  # decided in one that it goes on from
        self._is_forgotten = False

    @property
    def cap_is_spent(self) -> bool:
        """Whether entries were lost and nobody knows what they spent, so that every cap is taken as spent."""
        return self._is_cap_spent or self._was_cap_spent

    def take(self, fields: Mapping[str, Any]) -> None:
        """One more entry; raises `ConfigError` if it is none of ours, since nobody knows what it spent."""
        entry = fields["entry"]
        if entry == "declared":
            declared = declared_from(fields)
            # A second one can only be carried along from a damaged ledger; what the run spent stays.
            self.runs.setdefault(declared.run, Run(declared, fields["may_follow_uncovered"]))
        elif entry == "reserved":
            self._reserved(fields)
        elif entry == "settled":
            run = self.runs[fields["run"]]
            self.runs[fields["run"]] = replace(
                run, settled=run.settled + 1, seconds=run.seconds + fields["seconds"], last_settled=fields["round"]
            )
        elif entry == "left":
            self._left(fields)
        elif entry == "accepted":
            self._accepted(fields)
        elif entry != "connection":
            raise ConfigError(
                f"the ledger has an entry {entry!r} that this version does not know; nothing is trained or sent; "
                "install the version that wrote it, or a later one"
            )

    def _reserved(self, fields: Mapping[str, Any]) -> None:
        run = self.runs[fields["run"]]
        last = Round(fields["round"], fields["instruction"], has_left=False)
        self.runs[fields["run"]] = replace(run, rounds=run.rounds + 1, last=last)
        if fields["order"] is not None:
            self.first.setdefault(run.declared.account, fields["run"])
            self.orders.setdefault(run.declared.account, float(fields["order"]))

    def _left(self, fields: Mapping[str, Any]) -> None:
        run = self.runs.get(fields["run"])
        if run is None:
            return
        last = run.last
        if last is not None and last.instruction == fields["message_id"]:
            last = replace(last, has_left=True)
        uncovered = run.uncovered + (fields["epsilon"] is None)
        self.runs[fields["run"]] = replace(run, last=last, uncovered=uncovered)

    def _accepted(self, fields: Mapping[str, Any]) -> None:
        spending = fields["spending"]
        self.replaced.update(fields.get("replaces", ()))
        if "was" in fields:
            # Carried along from an older chain; what a person decided on this one stands above it.
            if spending != "carried":
                self._was_cap_spent = spending == "cap" and not self._is_forgotten
        elif spending == "cap":
            self._is_cap_spent = True
        elif spending == "forgotten":
            self._is_forgotten, self._is_cap_spent, self._was_cap_spent = True, False, False

    def accounts(self) -> tuple[Account, ...]:
        """Every account, in the order in which they were opened."""
        return tuple(dict.fromkeys(run.declared.account for run in self.runs.values()))

    def of(self, account: Account) -> tuple[Run, ...]:
        """The runs of an account, in the order in which they were declared."""
        return tuple(run for run in self.runs.values() if run.declared.account == account)

    def history(self, account: Account, *, is_own: bool = False) -> tuple[Segment, ...]:
        """Everything reserved; equal mechanisms together, so that equal histories are equal. See `Step.segment`."""
        steps: dict[tuple[float, float, str], int] = {}
        for run in self.of(account):
            for part in run.declared.segment(run.rounds, is_own=is_own):
                mechanism = (part.noise_multiplier, part.sampling_rate, part.law)
                steps[mechanism] = steps.get(mechanism, 0) + part.steps
        return tuple(Segment(z, rate, count, law) for (z, rate, law), count in sorted(steps.items()) if count)

    def uncovered_rounds(self, data_set: str) -> int:
        """Rounds on this data set that no epsilon covers, in any unit."""
        runs = (run for run in self.runs.values() if run.declared.data_set == data_set)
        return sum(run.rounds for run in runs if run.declared.mechanism is None)


def books_of(entries: Iterable[Entry]) -> Books:
    """What these entries add up to."""
    books = Books()
    for entry in entries:
        books.take(entry.fields)
    return books


def declared_fields(declared: Declared) -> dict[str, Any]:
    """As an entry holds it; what is as it always was is left out, as every version wrote it."""
    fields = asdict(declared)
    for name in ("part", "split"):
        if not fields[name]:
            fields.pop(name)
    if declared.mechanism is not None and declared.mechanism.law == GAUSSIAN:
        for name in ("law", "own_multiplier"):
            fields["mechanism"].pop(name)
    return fields


def declared_from(fields: Mapping[str, Any]) -> Declared:
    """What such an entry declared."""
    names = Declared.__dataclass_fields__
    mechanism = fields["mechanism"]
    plain = {name: value for name, value in fields.items() if name in names}
    return Declared(**{**plain, "mechanism": None if mechanism is None else Step(**mechanism)})
