"""Whoever chooses the runs, and however, an account stays within its cap."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.accounting import epsilon_of_history
from lepton_fl.privacy.books import Account, Books, Declared, Step
from lepton_fl.privacy.budget import filter_for_round, price, state
from lepton_fl.privacy.rdp_filter import Filter

DELTA, CAP = 1e-5, 3.0
ACCOUNT = Account("heart", "record")
MECHANISMS = (Step(1.5, 0.1), Step(3.0, 0.1), Step(2.0, 0.3), Step(0.9, 0.02), Step(20.0, 0.5))


def declared(run: int, mechanism: Step, rounds: int) -> Declared:
    return Declared(
        f"run {run}", "registry", *ACCOUNT[:2], "add or remove one record", DELTA, CAP, mechanism, 5, rounds, "ab", "cd"
    )


def reserve(books: Books, run: str, round: int) -> bool:
    """Whether the round may begin; then it is reserved."""
    try:
        filter = filter_for_round(books, run, round, str(round))
    except BudgetSpent:
        return False
    assert filter is not None
    books.take({"entry": "reserved", "run": run, "round": round, "instruction": str(round), "order": filter.order})
    return True


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(MECHANISMS), st.sampled_from([1, 10, 60])), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=30, max_size=120),
)
def test_no_choice_of_runs_and_rounds_passes_the_cap(runs: list[tuple[Step, int]], turns: list[int]) -> None:
    """Either one theorem holds or the other: one schedule alone, declared ahead; or one order's sum within its room."""
    books, last = Books(), [0] * len(runs)
    for number, (mechanism, rounds) in enumerate(runs):
        fields = vars(declared(number, mechanism, rounds)) | {"mechanism": vars(mechanism)}
        books.take({"entry": "declared", "may_follow_uncovered": False, **fields})
    for turn in turns:
        run = turn % len(runs)
        last[run] += reserve(books, f"run {run}", last[run] + 1)
    begun = [run for run in books.runs.values() if run.rounds]
    assert state(books, ACCOUNT).epsilon_pld <= CAP
    if not begun:
        return
    filter = Filter(books.orders[ACCOUNT], DELTA)
    if len(begun) > 1:
        assert filter.divergence(books.history(ACCOUNT)) <= filter.room(CAP)
    else:
        whole = begun[0].declared
        assert epsilon_of_history(whole.segment(whole.rounds), DELTA) <= CAP
    # No schedule that needed PLD stands beside another run.
    first = books.runs[books.first[ACCOUNT]].declared
    if filter.divergence(first.segment(first.rounds)) > filter.room(CAP):
        assert len(begun) == 1


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(MECHANISMS), st.sampled_from(MECHANISMS), st.integers(0, 40))
def test_as_many_rounds_begin_as_the_price_said(first: Step, second: Step, before: int) -> None:
    books = Books()
    for number, mechanism in enumerate((first, second)):
        fields = vars(declared(number, mechanism, 40)) | {"mechanism": vars(mechanism)}
        books.take({"entry": "declared", "may_follow_uncovered": False, **fields})
    for round in range(1, before + 1):
        reserve(books, "run 0", round)
    said = price(books, books.runs["run 1"].declared).rounds_that_fit
    assert [reserve(books, "run 1", round) for round in range(1, 41)] == [True] * said + [False] * (40 - said)
