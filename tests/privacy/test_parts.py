"""Who is trained on and who is held out pay apart, as long as nobody changes sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.privacy.accounting import SKELLAM
from lepton_fl.privacy.books import (
    HELD_OUT,
    PARTS,
    TRAINED_ON,
    TUNED_ON,
    Account,
    Books,
    Declared,
    Step,
    declared_fields,
    declared_from,
)
from lepton_fl.privacy.budget import filter_for_round, price, refuse_declaration, state

DELTA, CAP = 1e-5, 2.0
TRAINING = Declared(
    "7", "registry", "heart", "record", "add or remove one record", DELTA, CAP, Step(12.0, 1.0), 1, 5, "ab", "cd",
    split="one",
)  # fmt: skip
EVALUATION = replace(TRAINING, run="7/evaluations", mechanism=Step(8.0, 1.0, SKELLAM, 4.0), part=HELD_OUT, rounds=3)


def declare(books: Books, declared: Declared) -> None:
    assert not refuse_declaration(books, declared)
    books.take({"entry": "declared", "may_follow_uncovered": False, **declared_fields(declared)})


def reserve(books: Books, run: str, round: int) -> None:
    filter = filter_for_round(books, run, round, str(round))
    assert filter is not None
    books.take({"entry": "reserved", "run": run, "round": round, "instruction": str(round), "order": filter.order})


def spent(books: Books, part: str) -> float:
    return state(books, Account("heart", "record", part)).epsilon_pld


def test_an_evaluation_costs_the_people_held_out_and_nobody_else() -> None:
    books = Books()
    declare(books, TRAINING)
    declare(books, EVALUATION)
    reserve(books, "7", 1)
    before = spent(books, TRAINED_ON)
    reserve(books, "7/evaluations", 1)
    assert spent(books, TRAINED_ON) == before > 0
    assert spent(books, HELD_OUT) > 0
    assert spent(books, TUNED_ON) == 0


def test_two_releases_of_one_run_on_one_part_add_up_in_the_price_before_either_began() -> None:
    books, final = (
        Books(),
        replace(EVALUATION, run="7/final evaluation", mechanism=Step(5.0, 1.0, SKELLAM, 5.0), rounds=1),
    )
    alone, together = price(books, final), price(books, final, beside=[EVALUATION])
    assert together.epsilon_after > alone.epsilon_after
    for one in (EVALUATION, final):
        declare(books, one)
        for round in range(1, one.rounds + 1):
            reserve(books, one.run, round)
    assert spent(books, HELD_OUT) == pytest.approx(together.epsilon_after)


@pytest.mark.parametrize("later", [EVALUATION, TRAINING])
def test_a_run_that_holds_out_other_people_is_refused_once_those_held_out_have_paid(later: Declared) -> None:
    books = Books()
    for one in (TRAINING, EVALUATION):
        declare(books, one)
        reserve(books, one.run, 1)
    other = replace(later, run=f"8{later.run[1:]}", split="another")
    with pytest.raises(ConfigError, match=r"holds out other people of heart than run 7.* did.*nothing was read"):
        refuse_declaration(books, other)
    assert not refuse_declaration(books, replace(other, split="one"))


def test_while_nobody_held_out_has_paid_the_split_may_change() -> None:
    books = Books()
    declare(books, TRAINING)
    reserve(books, "7", 1)
    assert not refuse_declaration(books, replace(TRAINING, run="8", split="another"))
    with pytest.raises(ConfigError, match="other people"):
        # But then who was trained on before may be held out now.
        refuse_declaration(books, replace(EVALUATION, run="8/evaluations", split="another"))


def test_an_entry_from_before_splits_were_noted_counts_as_another_split() -> None:
    books = Books()
    declare(books, replace(TRAINING, split=""))
    reserve(books, "7", 1)
    with pytest.raises(ConfigError, match="other people"):
        refuse_declaration(books, EVALUATION)


@pytest.mark.parametrize("declared", [TRAINING, EVALUATION, replace(TRAINING, split="")])
def test_an_entry_holds_what_was_declared(declared: Declared) -> None:
    fields = declared_fields(declared)
    assert declared_from(fields) == declared
    assert ("part" in fields) == (declared.part != TRAINED_ON)  # entries of training are as every version wrote them


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from([4.0, 8.0, 30.0])), min_size=1, max_size=40))
def test_no_part_passes_its_cap_whatever_the_others_do(turns: list[tuple[str, float]]) -> None:
    books, last = Books(), dict[str, int]()
    for part, multiplier in turns:
        run = f"{part}/{multiplier}"
        if run not in books.runs:
            step = Step(multiplier, 1.0, SKELLAM, multiplier)
            declare(books, replace(TRAINING, run=run, part=part, mechanism=step, rounds=40))
        try:
            reserve(books, run, last.get(run, 0) + 1)
            last[run] = last.get(run, 0) + 1
        except BudgetSpent:
            pass
    for part in PARTS:
        assert spent(books, part) <= CAP * (1 + 1e-9)
