"""A ledger with shared noise: entries old and new, two epsilons, and one filter for both kinds of noise."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ledgers import DELTA, QUIET, declared, open_at, work
from lepton_client.ledger_view import account_lines, accounts, accounts_json, read

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.privacy.accounting import SKELLAM, Segment, epsilon_of_history
from lepton_fl.privacy.books import Books, Step, declared_fields, declared_from
from lepton_fl.privacy.rdp_filter import fixed

SHARED = Step(4.0, 0.1, SKELLAM, 2.5)
WHOLE = epsilon_of_history((Segment(4.0, 0.1, 100, SKELLAM),), DELTA)
OWN = epsilon_of_history((Segment(2.5, 0.1, 100, SKELLAM),), DELTA)


def spend(folder: Path, run: str, mechanism: Step, rounds: int = 10) -> None:
    ledger = open_at(folder)
    ledger.declare(declared(run, mechanism))
    for round in range(1, rounds + 1):
        ledger.reserve(run, round, f"{run} {round}")


def test_a_run_with_shared_noise_is_charged_with_both_epsilons(tmp_path: Path) -> None:
    spend(tmp_path, "one", SHARED)
    spent = open_at(tmp_path).spent("heart", "record")
    assert spent.epsilon_pld == WHOLE
    assert spent.epsilon_own == OWN
    assert WHOLE < OWN
    assert WHOLE <= spent.epsilon_rdp <= 3.0


def test_without_shared_noise_there_is_one_epsilon(tmp_path: Path) -> None:
    spend(tmp_path, "one", QUIET)
    assert open_at(tmp_path).spent("heart", "record").epsilon_own is None


def test_noise_of_ones_own_counts_whole_in_both(tmp_path: Path) -> None:
    spend(tmp_path, "one", QUIET, rounds=5)
    spend(tmp_path, "two", SHARED, rounds=4)
    spent = open_at(tmp_path).spent("heart", "record")
    own_noise, shared = Segment(4.0, 0.1, 50), Segment(4.0, 0.1, 40, SKELLAM)
    assert spent.epsilon_pld == epsilon_of_history((own_noise, shared), DELTA)
    assert spent.epsilon_own == epsilon_of_history((own_noise, replace(shared, noise_multiplier=2.5)), DELTA)
    filter = fixed(4.0, 0.1, 3.0, DELTA)
    assert spent.epsilon_rdp == filter.epsilon(filter.divergence((own_noise, shared)))


def test_the_cap_stops_rounds_of_both_kinds_together(tmp_path: Path) -> None:
    spend(tmp_path, "one", QUIET, rounds=10)
    ledger = open_at(tmp_path)
    many = replace(declared("two", SHARED), rounds=10_000)
    fits = ledger.price(many).rounds_that_fit
    assert 0 < fits < 10_000
    ledger.declare(many)
    with pytest.raises(BudgetSpent, match=f"round {fits + 1} of run two would raise epsilon"):
        work(ledger, "two")
    assert ledger.spent("heart", "record").epsilon_pld <= 3.0


def test_an_entry_from_before_there_was_shared_noise_is_read() -> None:
    old = {**asdict(declared()), "mechanism": {"noise_multiplier": 4.0, "sampling_rate": 0.1}}
    assert declared_from(old) == declared()
    books = Books()
    books.take({**old, "entry": "declared", "may_follow_uncovered": False})
    assert books.runs["one"].declared.mechanism == QUIET


def test_an_entry_without_shared_noise_is_written_as_ever() -> None:
    assert declared_fields(declared())["mechanism"] == {"noise_multiplier": 4.0, "sampling_rate": 0.1}
    fields = declared_fields(declared(mechanism=SHARED))
    assert fields["mechanism"] == {
        "noise_multiplier": 4.0,
        "sampling_rate": 0.1,
        "law": "skellam",
        "own_multiplier": 2.5,
    }
    assert declared_from(json.loads(json.dumps(fields))) == declared(mechanism=SHARED)
    assert declared_fields(declared(mechanism=None))["mechanism"] is None


@pytest.mark.parametrize(
    "mechanism",
    [
        Step(4.0, 0.1, SKELLAM),
        Step(4.0, 0.1, SKELLAM, 0.0),
        Step(4.0, 0.1, SKELLAM, 4.1),
        Step(4.0, 0.1, SKELLAM, math.nan),
        Step(4.0, 0.1, "gaussian", 2.5),
        Step(4.0, 0.1, "laplace"),
    ],
)
def test_a_step_that_no_accountant_can_use_is_refused(mechanism: Step) -> None:
    with pytest.raises(ConfigError, match="which no accountant can use"):
        declared(mechanism=mechanism)


def test_with_shared_noise_on_the_account_no_run_may_go_beyond_it_either(tmp_path: Path) -> None:
    ledger = open_at(tmp_path)
    ledger.declare(declared("one", SHARED, cap=50.0))
    ledger.reserve("one", 1, "1")
    ledger.declare(declared("two", Step(0.7, 0.1), rounds=10_000, cap=50.0))
    with pytest.raises(BudgetSpent, match="past the cap of 20"):
        work(ledger, "two")
    assert ledger.spent("heart", "record").epsilon_pld <= 20.0


def test_a_share_that_hides_next_to_nothing_has_no_epsilon(tmp_path: Path) -> None:
    spend(tmp_path, "one", Step(40.0, 1.0, SKELLAM, 0.1), rounds=1)
    assert open_at(tmp_path).spent("heart", "record").epsilon_own == math.inf
    content = read(tmp_path)
    assert any("no epsilon up to 20 against an operator" in line for line in account_lines(tmp_path, content))
    (told,) = json.loads(accounts_json(accounts(content.books)))["accounts"]
    assert (told["account"]["epsilon_own"], told["runs"][0]["epsilon_own"]) == (None, None)


def test_people_are_shown_both_epsilons_and_who_each_holds_against(tmp_path: Path) -> None:
    spend(tmp_path, "one", SHARED)
    content = read(tmp_path)
    lines = account_lines(tmp_path, content)
    assert f"epsilon     {WHOLE:.2f} of 3.00 at delta 1e-05" in lines
    assert f"            {OWN:.2f} against an operator with more colluders than assumed" in lines
    assert any(f"{WHOLE:.2f} ({OWN:.2f} by its own share)" in line for line in lines)
    (told,) = json.loads(accounts_json(accounts(content.books)))["accounts"]
    assert told["account"]["epsilon_own"] == told["runs"][0]["epsilon_own"] == OWN
