"""What an account has spent, what a run would cost, and whether a round may begin.

Two rules bound an account, and which of them holds is settled by what its first run declared:

- A first run whose whole schedule fits the filter, and every run after it, answer to the filter, round by round.
- A first run whose schedule fits the cap by PLD and not by the filter, which is looser, may use its schedule; it then
  counts whole in the filter, so that no other run can begin on the account, and nothing was chosen adaptively.

`docs/decisions/017-ledger-filter.md` has the argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.privacy.accounting import (
    GAUSSIAN,
    MOST_SKELLAM_EPSILON,
    Segment,
    epsilon_by_renyi,
    epsilon_of_history,
)
from lepton_fl.privacy.books import Account, Books, Declared, Run
from lepton_fl.privacy.rdp_filter import Filter, fixed


@dataclass(frozen=True)
class AccountState:
    """What one account has spent."""

    data_set: str
    unit: str
    part: str  # of `books.PARTS`
    neighbouring_relation: str | None
    epsilon_pld: float  # of everything reserved, by Renyi divergences where noise was shared; infinite: none covers it
    epsilon_rdp: float  # by the filter, as it decides about the next run
    # Where noise was shared: against an operator who sees through the sum, by this institution's own share alone.
    epsilon_own: float | None  # None: no noise was shared, and `epsilon_pld` holds against every operator
    delta: float
    cap: float  # of the run declared last
    steps: int
    rounds: int
    runs: int
    uncovered: int  # messages that left without an epsilon
    is_covered: bool  # False: a round was released that no epsilon covers
    is_known: bool  # False: entries were lost, and the cap is taken as spent


@dataclass(frozen=True)
class Price:
    """What a run would cost its account, all its rounds taken."""

    epsilon_now: float  # by PLD
    epsilon_after: float  # by PLD
    rounds_that_fit: int  # of the declared, under the rule that decides


def state(books: Books, account: Account) -> AccountState:
    """Where an account stands; zeros if it has no run."""
    runs = books.of(account)
    private = tuple(run for run in runs if run.declared.mechanism is not None)
    last = (private or runs)[-1].declared if runs else None
    first = books.runs.get(books.first.get(account, ""))
    is_covered = books.uncovered_rounds(account.data_set) == 0
    by_pld = by_filter = 0.0
    by_own = None
    if first is not None:
        by_pld = epsilon_of_history(books.history(account), first.declared.delta)
        by_own = _own(books, account, first.declared.delta)
        by_filter = _filter(books, first.declared).epsilon(_charged(books, first.declared))
    cap = last.epsilon_cap if last else 0.0
    if books.cap_is_spent:
        by_pld, by_filter = max(by_pld, cap), max(by_filter, cap)
        # What was lost may have been shared noise, whose cap says nothing about a share.
        by_own = None if by_own is None else math.inf
    return AccountState(
        *account,
        neighbouring_relation=last.neighbouring_relation if last else None,
        epsilon_pld=by_pld if is_covered else math.inf,
        epsilon_rdp=by_filter if is_covered else math.inf,
        epsilon_own=by_own if is_covered or by_own is None else math.inf,
        delta=(first.declared if first else last).delta if last else 0.0,
        cap=cap,
        steps=sum(run.rounds * run.declared.steps_per_round for run in runs),
        rounds=sum(run.rounds for run in runs),
        runs=len(runs),
        uncovered=sum(run.uncovered for run in runs),
        is_covered=is_covered,
        is_known=not books.cap_is_spent,
    )


def _own(books: Books, account: Account, delta: float) -> float | None:
    own = books.history(account, is_own=True)
    # Where the noise is all this institution's own, there is one epsilon.
    return epsilon_of_history(own, delta) if own != books.history(account) else None


def epsilon_at_once(books: Books, account: Account) -> float:
    """What an account has spent, by a bound that costs no time: a little above PLD's; infinite where none covers it."""
    private = [run.declared for run in books.of(account) if run.declared.mechanism is not None]
    if books.uncovered_rounds(account.data_set) or not private:
        return math.inf if books.uncovered_rounds(account.data_set) else 0.0
    return epsilon_by_renyi(books.history(account), private[-1].delta)


def price(
    books: Books, declared: Declared, *, beside: Iterable[Declared] = (), may_follow_uncovered: bool = False
) -> Price:
    """What this run would cost, and how much of it may happen; if it is declared already, what is left of it.

    Args:
        beside: runs that are to be declared with it and pay from the same account, all their rounds counted.
        may_follow_uncovered: a person allows private runs after rounds that no epsilon covers; those are not counted.
    """
    history, left = books.history(declared.account), _left(books, declared)
    if declared.mechanism is None:
        return Price(state(books, declared.account).epsilon_pld, math.inf, left)
    others = tuple(part for one in beside for part in one.segment(_left(books, one)))
    after = (*history, *declared.segment(left), *others)
    is_void = books.uncovered_rounds(declared.data_set) and not may_follow_uncovered
    now = math.inf if is_void else epsilon_of_history(history, declared.delta)
    fits = _rounds_that_fit(books, declared, left, others)
    return Price(now, now if now == math.inf else epsilon_of_history(after, declared.delta), fits)


def _left(books: Books, declared: Declared) -> int:
    run = books.runs.get(declared.run)
    return declared.rounds - (0 if run is None else run.rounds)


def _rounds_that_fit(books: Books, declared: Declared, left: int, others: tuple[Segment, ...]) -> int:
    if books.cap_is_spent:
        return 0
    if _is_alone(books, declared) and not others:
        return left if _schedule(declared) <= declared.epsilon_cap else 0
    filter = _filter(books, declared)
    room = filter.room(_cap(books, declared)) - _charged(books, declared) - filter.divergence(others)
    return max(0, min(left, math.floor(room / filter.divergence(declared.segment(1)))))


def refuse_declaration(books: Books, declared: Declared) -> bool:
    """Whether this very run is declared already.

    Raises:
        ConfigError: it was declared otherwise, or does not fit the account that it would pay from.
    """
    known = books.runs.get(declared.run)
    if known is not None:
        if known.declared == declared:
            return True
        changed = next(name for name in vars(declared) if vars(declared)[name] != vars(known.declared)[name])
        raise ConfigError(
            f"run {declared.run} was declared with another {changed}; nothing was read; begin a new run, or bring back "
            "what was declared"
        )
    _refuse_unlike_begun(books, declared)
    return False


def _refuse_unlike_begun(books: Books, declared: Declared) -> None:
    """A run that never began says nothing about how its data set is accounted."""
    for other in books.runs.values():
        is_same_data = other.declared.data_set == declared.data_set and other.rounds > 0
        if is_same_data and other.declared.mechanism is not None and declared.mechanism is not None:
            _refuse_unlike(other.declared, declared)
            _refuse_another_split(other.declared, declared)


def _refuse_another_split(other: Declared, declared: Declared) -> None:
    """Parts pay apart since nobody is in two of them, which holds as long as the split stays."""
    if (other.part or declared.part) and other.split != declared.split:
        raise ConfigError(
            f"run {declared.run} holds out other people of {declared.data_set} than run {other.run} did, so somebody "
            "would be trained on who was held out, and pay twice where one payment is counted; nothing was read; ask "
            "the operator for the same holdout.key, holdout.share and holdout.tune, or for evaluation=exact where the "
            "policy allows it"
        )


def _refuse_unlike(other: Declared, declared: Declared) -> None:
    for name, was, asked in (
        ("unit", other.unit, declared.unit),
        ("neighbouring relation", other.neighbouring_relation, declared.neighbouring_relation),
        ("delta", other.delta, declared.delta),
    ):
        if was != asked:
            raise ConfigError(
                f"{declared.data_set} is accounted with {name} {was}, and run {declared.run} asks for {asked}, which "
                f"cannot be added up; nothing was read; ask the operator for {name} {was}"
            )


def filter_for_round(books: Books, run: str, round: int, instruction: str) -> Filter | None:
    """The account's filter, if this round may begin; None if no epsilon covers the run.

    Raises:
        BudgetSpent: it may not; nothing may be read.
        ConfigError: another run began meanwhile, in a unit, relation or delta that cannot be added to this one's.
    """
    found = books.runs.get(run)
    if found is None:
        raise BudgetSpent(f"run {run} was never declared; nothing was read; tell the operator")
    declared = found.declared
    if found.last is not None and round <= found.last.round:
        raise BudgetSpent(
            f"round {round} of run {run} was begun before (the last is {found.last.round}); its cost is spent; nothing "
            "more was released"
        )
    if not 1 <= round <= declared.rounds:
        raise BudgetSpent(
            f"round {round} of run {run} is none of the {declared.rounds} that were declared; nothing was released"
        )
    if declared.mechanism is None:
        return None
    _refuse_unlike_begun(books, declared)
    _refuse_unknown(books, found)
    _refuse_beyond(books, declared, round)
    return _filter(books, declared)


def _refuse_unknown(books: Books, run: Run) -> None:
    declared = run.declared
    if books.cap_is_spent:
        raise BudgetSpent(
            "entries of the ledger were lost, so what was spent is unknown and the cap of "
            f"{declared.epsilon_cap:g} per {declared.unit} is taken as spent; nothing was released; docs/ledger.md "
            "says what a person can decide"
        )
    if (rounds := books.uncovered_rounds(declared.data_set)) and not run.may_follow_uncovered:
        raise BudgetSpent(
            f"{rounds} rounds on {declared.data_set} were released that no epsilon covers, so no epsilon of run "
            f"{declared.run} would be true; nothing more was released; allow it in the policy if that data was public"
        )


def _refuse_beyond(books: Books, declared: Declared, round: int) -> None:
    if _is_alone(books, declared):
        whole = _schedule(declared)
        if whole > declared.epsilon_cap:
            raise BudgetSpent(
                f"the {declared.rounds} rounds of run {declared.run} cost epsilon {_up(whole)}, past the cap of "
                f"{declared.epsilon_cap:g} {_promise(declared)}; nothing was released; plan fewer rounds or more noise"
            )
        return
    filter, spent = _filter(books, declared), _charged(books, declared)
    after = spent + filter.divergence(declared.segment(1))
    cap = _cap(books, declared)
    if after <= filter.room(cap):
        return
    now, left = filter.epsilon(spent), max(0.0, cap - filter.epsilon(spent))
    raise BudgetSpent(
        f"round {round} of run {declared.run} would raise epsilon, by the ledger's filter, from {now:.2f} to "
        f"{_up(filter.epsilon(after))}, past the cap of {cap:g} {_promise(declared)}, of which "
        f"{left:.2f} is left{_why_more(books, declared)}; the round was not begun and nothing more was released; the "
        "model of the last round stands"
    )


def _cap(books: Books, declared: Declared) -> float:
    """Of this run; with shared noise on the account, no more than what is accounted for that."""
    laws = {part.law for part in (*books.history(declared.account), *declared.segment(1))}
    return declared.epsilon_cap if laws == {GAUSSIAN} else min(declared.epsilon_cap, MOST_SKELLAM_EPSILON)


def _why_more(books: Books, declared: Declared) -> str:
    whole = _counted_whole(books, declared)
    return f" (run {whole.run} counts with all {whole.rounds} rounds that it declared)" if whole else ""


def _up(epsilon: float) -> str:
    """Rounded up: what passes a cap must not look as if it met it."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if epsilon < math.inf else "infinity"


def _promise(declared: Declared) -> str:
    return f"per {declared.unit} ({declared.neighbouring_relation}) at delta {declared.delta:g}"


def _schedule(declared: Declared) -> float:
    """Epsilon of everything that the run declares, by PLD."""
    return epsilon_of_history(declared.segment(declared.rounds), declared.delta)


def _filter(books: Books, declared: Declared) -> Filter:
    """The account's; before its first round, the one that this run would fix."""
    order = books.orders.get(declared.account)
    if order is not None:
        return Filter(order, declared.delta)
    if declared.mechanism is None:
        raise ValueError("a run without a mechanism has no filter")
    step = declared.mechanism
    return fixed(step.noise_multiplier, step.sampling_rate, declared.epsilon_cap, declared.delta, step.law)


def _is_alone(books: Books, declared: Declared) -> bool:
    """Whether nothing was reserved on the account but rounds of this run."""
    return all(
        run.rounds == 0 or run.declared.mechanism is None or run.declared.run == declared.run
        for run in books.of(declared.account)
    )


def _reserved(books: Books, declared: Declared) -> float:
    return _filter(books, declared).divergence(books.history(declared.account))


def _charged(books: Books, declared: Declared) -> float:
    """What the filter counts: everything reserved, and the first run whole if it relied on its schedule."""
    reserved, whole = _reserved(books, declared), _counted_whole(books, declared)
    if whole is None:
        return reserved
    return reserved + _filter(books, declared).divergence(whole.segment(whole.rounds - books.runs[whole.run].rounds))


def _counted_whole(books: Books, declared: Declared) -> Declared | None:
    """The account's first run if its schedule did not fit the filter, so that it relied on having declared it."""
    first = books.runs.get(books.first.get(declared.account, ""))
    if first is None:
        return None
    filter, whole = _filter(books, declared), first.declared.segment(first.declared.rounds)
    return first.declared if filter.divergence(whole) > filter.room(first.declared.epsilon_cap) else None
