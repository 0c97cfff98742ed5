"""An institution answers each planned round once, in order, whatever an operator asks."""

from __future__ import annotations

import pytest

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.rounds_spent import InMemory


def begun(*rounds: int) -> InMemory:
    spent = InMemory()
    for round in rounds:
        spent.begin("North", round, planned=10)
    return spent


def test_planned_rounds_are_begun_in_order_with_gaps_where_others_were_asked() -> None:
    spent = begun(1, 2, 5, 10)
    with pytest.raises(BudgetSpent, match="the last is 10"):
        spent.begin("North", 10, planned=10)


@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_round_that_was_begun_or_passed_over_is_refused_and_changes_nothing(again: int) -> None:
    spent = begun(1, 3)
    with pytest.raises(BudgetSpent, match="nothing was released"):
        spent.begin("North", again, planned=10)
    spent.begin("North", 4, planned=10)


def test_a_round_past_the_plan_is_refused_and_changes_nothing() -> None:
    spent = begun(1)
    with pytest.raises(BudgetSpent, match="past the 10 rounds that the noise was made for"):
        spent.begin("North", 11, planned=10)
    spent.begin("North", 2, planned=10)


def test_each_institution_counts_for_itself() -> None:
    spent = begun(1, 2)
    spent.begin("South", 1, planned=10)
    with pytest.raises(BudgetSpent, match="the last is 2"):
        spent.begin("North", 2, planned=10)
