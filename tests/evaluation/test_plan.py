"""Every release is planned, and all together never cost more than was promised."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.evaluation.plan import Plan, Release, plan
from lepton_fl.evaluation.settings import Exact, Private
from lepton_fl.privacy.accounting import epsilon_of_history

DELTA = 1e-5
PRIVATE = Private(every=5, bins=20, confidence=0.95, epsilon=1.0, by_institution=False)


def planned(asked: Private = PRIVATE, **changed: Any) -> Plan:
    settings: dict[str, Any] = {"rounds": 30, "shares": 4, "labels": 2, "has_tune": False}
    return plan(asked, DELTA, **(settings | changed))


def test_routine_releases_come_every_so_many_rounds_and_a_final_one_at_the_end() -> None:
    made = planned()
    assert made.routine_rounds == (5, 10, 15, 20, 25)
    assert made.releases == 6
    assert [made.at(number) for number in (4, 5, 25, 30, 31)] == [None, made.routine, made.routine, made.final, None]
    assert planned(rounds=5).routine_rounds == ()
    assert planned(rounds=5).final_round == 5


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([0.1, 1.0, 20.0]),
    st.integers(1, 60),
    st.integers(1, 12),
    st.sampled_from([2, 10]),
    st.booleans(),
)
def test_no_plan_costs_a_subject_more_than_its_epsilon_and_none_wastes_much(
    epsilon: float, rounds: int, shares: int, labels: int, by_institution: bool
) -> None:
    asked = replace(PRIVATE, epsilon=epsilon, by_institution=by_institution)
    made = planned(asked, rounds=rounds, shares=shares, labels=labels, has_tune=True)
    for paid in (made.held_out(shares), made.tune(shares)):
        assert epsilon_of_history(paid, DELTA) <= epsilon
        # Whole variances are rounded up for each institution, which counts where they are small.
        assert epsilon_of_history(paid, DELTA) >= {0.1: 0.098, 1.0: 0.5, 20.0: 0.0}[epsilon]


def test_the_final_decisions_have_half_the_budget_the_scores_and_the_routine_releases_a_quarter() -> None:
    made = planned(replace(PRIVATE, epsilon=0.1), shares=1)
    spent = [1 / made.final.decisions, 1 / made.final.scores, 5 / made.routine.decisions]
    assert [one / sum(spent) for one in spent] == pytest.approx([0.5, 0.25, 0.25], rel=0.01)


def test_without_routine_releases_their_part_goes_to_the_decisions() -> None:
    made = planned(replace(PRIVATE, epsilon=0.1), rounds=1, shares=1)
    assert made.routine == Release(0, 0, 0, 0)
    assert made.final.scores / made.final.decisions == pytest.approx(3, rel=0.01)


def test_each_institutions_own_histogram_has_noise_of_its_own_alone() -> None:
    made = planned(replace(PRIVATE, epsilon=0.1, by_institution=True), shares=10)
    assert made.final.own / made.final.decisions == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(("labels", "bins"), [(10, 20), (2, 2)])
def test_where_scores_say_no_more_than_decisions_they_are_not_released(labels: int, bins: int) -> None:
    assert planned(replace(PRIVATE, bins=bins), labels=labels).final.scores == 0


def test_the_final_release_for_choices_counts_as_two_of_the_others() -> None:
    made = planned(replace(PRIVATE, epsilon=0.1), has_tune=True, shares=1)
    assert made.routine.tune / made.final.tune == pytest.approx(2, rel=0.01)
    assert planned().final.tune == 0
    assert planned().tune(4) == ()


def test_several_histograms_of_a_release_compose() -> None:
    alone = Release(100, 0, 0, 0).multiplier(4)
    # Variance 400 in the sum; the Skellam bound takes 1 + 2.5 / 400 off.
    assert alone == pytest.approx(math.sqrt(400 / (1 + 2.5 / 400)))
    assert Release(100, 100, 400, 7).multiplier(4) == pytest.approx(alone / math.sqrt(3))
    assert Release(100, 100, 400, 100).tune_multiplier(4) == pytest.approx(alone)
    assert Release(0, 0, 0, 0).multiplier(4) == math.inf


def test_noise_of_more_institutions_is_never_less_private() -> None:
    made = planned(shares=3)
    assert epsilon_of_history(made.held_out(5), DELTA) < epsilon_of_history(made.held_out(3), DELTA)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-4])
def test_an_epsilon_that_no_noise_keeps_is_refused(epsilon: float) -> None:
    with pytest.raises(BudgetSpent, match=r"nothing was released; plan fewer .* evaluation\.every"):
        planned(replace(PRIVATE, epsilon=epsilon))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("every", 0),
        ("bins", 3),
        ("bins", 0),
        ("bins", 1002),
        ("confidence", 0.2),
        ("confidence", 1.0),
        ("confidence", math.nan),
        ("epsilon", 0.0),
        ("epsilon", -1.0),
        ("epsilon", 21.0),
        ("epsilon", math.nan),
    ],
)
def test_settings_out_of_range_are_refused_by_their_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.{field}"):
        replace(PRIVATE, **{field: value})


def test_exact_counts_have_no_epsilon() -> None:
    assert not hasattr(Exact(every=1, bins=20, confidence=0.95), "epsilon")


@pytest.mark.parametrize("bins", [16, 30, 300])
def test_exact_counts_come_in_bins_that_can_be_added_up_to_what_is_reported(bins: int) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.bins must divide 1000"):
        Exact(every=1, bins=bins, confidence=0.95)
