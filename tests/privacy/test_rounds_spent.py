"""An institution answers each planned round once, in order, whatever an operator asks."""

from __future__ import annotations

import pytest

from lepton_fl.errors import BudgetSpent
from lepton_fl.privacy.rounds_spent import InMemory, begin_round


def begun(*rounds: int) -> InMemory:
    spent = InMemory()
    for round in rounds:
        begin_round(spent, "North", round, planned=10)
    return spent


def test_planned_rounds_are_begun_in_order_with_gaps_where_others_were_asked() -> None:
    assert begun(1, 2, 5, 10).last("North") == 10


@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_round_that_was_begun_or_passed_over_is_refused_and_changes_nothing(again: int) -> None:
    spent = begun(1, 3)
    with pytest.raises(BudgetSpent, match="nothing was released"):
        begin_round(spent, "North", again, planned=10)
    assert spent.last("North") == 3


def test_a_round_past_the_plan_is_refused_and_changes_nothing() -> None:
    spent = begun(1)
    with pytest.raises(BudgetSpent, match="past the 10 rounds that the noise was made for"):
        begin_round(spent, "North", 11, planned=10)
    assert spent.last("North") == 1


def test_each_institution_counts_for_itself() -> None:
    spent = begun(1, 2)
    begin_round(spent, "South", 1, planned=10)
    assert (spent.last("North"), spent.last("South")) == (2, 1)
