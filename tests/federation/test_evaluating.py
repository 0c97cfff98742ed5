"""Which histograms leave when, what they cost, and what of a reply is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proposals import terms

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.evaluation.settings import Exact, Private
from lepton_fl.fairness.settings import GroupWeights
from lepton_fl.federation.client_app import pay_for_evaluation
from lepton_fl.federation.evaluating import DECISIONS, OWN, SCORES, TUNE, Evaluating
from lepton_fl.federation.histograms import (
    BadHistograms,
    Evaluated,
    as_plain,
    from_plain,
    from_record,
    pooled,
    to_record,
)
from lepton_fl.federation.program import program
from lepton_fl.privacy.accounting import epsilon_of_history
from lepton_fl.privacy.books import HELD_OUT, TUNED_ON
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.privacy.units import NoPrivacy
from lepton_fl.tasks.split import HoldOut

ROUNDS = 12


def private(**other: Any) -> Private:
    return Private(**({"every": 5, "bins": 4, "confidence": 0.95, "epsilon": 1.0, "by_institution": False} | other))


def made(noise: str = "own", tune: float = 0.0, **other: Any) -> Evaluating:
    holdout = HoldOut("lepton-fl/hold-out/1", 0.2, tune)
    summed: dict[str, Any] = {}
    if noise == "shared":
        from proposals import SUMMED

        summed = SUMMED
    steered = {"fairness": GroupWeights(None, 3.0, "recall", 1.0)} if tune else {}
    asked = terms(evaluation=private(**other), noise=noise, rounds=ROUNDS, holdout=holdout, **summed, **steered)
    return program(asked, 4).evaluating


def names(evaluating: Evaluating, round: int) -> list[str]:
    return [part.name for part in evaluating.parts(round)]


def test_decisions_leave_every_few_rounds_and_scores_once_at_the_end() -> None:
    evaluating = made(tune=0.1, by_institution=True)
    assert [round for round in range(1, ROUNDS + 1) if evaluating.is_due(round)] == [5, 10, 12]
    assert names(evaluating, 5) == [DECISIONS, TUNE]
    assert names(evaluating, 12) == [DECISIONS, SCORES, OWN, TUNE]
    with pytest.raises(ConfigError, match="round 6 has no evaluation in the plan; nothing was read"):
        evaluating.parts(6)


@pytest.mark.parametrize("noise", ["own", "shared"])
@pytest.mark.parametrize("by_institution", [False, True])
def test_what_is_charged_is_what_the_promise_says_and_hardly_less(noise: str, by_institution: bool) -> None:
    evaluating = made(noise, tune=0.1, by_institution=by_institution)
    for part in (HELD_OUT, TUNED_ON):
        charges = [one for one in evaluating.charges() if one.part == part]
        history = tuple(one.step.segment(one.releases, is_own=False) for one in charges)
        assert 0.98 < epsilon_of_history(history, 1e-4) <= 1.0
        own = tuple(one.step.segment(one.releases, is_own=True) for one in charges)
        assert (epsilon_of_history(own, 1e-4) > 1.0) == (noise == "shared")


def test_an_evaluation_is_paid_once_and_only_where_the_plan_has_one() -> None:
    asked = terms(evaluation=private(), rounds=ROUNDS)
    trains, spent = program(asked, 4), InMemory()
    for round in (5, 10, 12):
        pay_for_evaluation(trains, "Cleveland", round, spent)
        with pytest.raises(BudgetSpent, match="begun before"):
            pay_for_evaluation(trains, "Cleveland", round, spent)
    with pytest.raises(ConfigError, match="no evaluation in the plan"):
        pay_for_evaluation(trains, "Cleveland", 6, spent)


def test_exact_counts_cost_nothing_that_counts() -> None:
    assert program(terms(evaluation=Exact(1, 20, 0.95)), 4).evaluating.charges() == ()


def test_noise_on_counts_is_refused_where_training_promises_nothing() -> None:
    with pytest.raises(ConfigError, match="evaluation=private needs privacy=record or patient"):
        program(terms(evaluation=private(), privacy=NoPrivacy()), 4)


def test_no_noise_keeps_a_promise_that_cannot_be_kept() -> None:
    with pytest.raises(BudgetSpent, match="nothing was released"):
        program(terms(evaluation=private(epsilon=1e-7)), 4)


# -- as replies carry them

PRIVATE, EXACT = made(by_institution=True), program(terms(rounds=ROUNDS), 4).evaluating


def reply(evaluating: Evaluating, seed: int = 0) -> dict[str, Any]:
    numbers = np.random.default_rng(seed)
    tables = {part.name: numbers.integers(0, 9, part.layout.shape) for part in evaluating.parts(ROUNDS)}
    tables.pop(OWN, None)
    return dict(to_record(tables, None if evaluating.is_private else 3.0, 1))


def test_what_is_sent_is_what_is_read_and_what_a_report_keeps() -> None:
    for evaluating in (PRIVATE, EXACT):
        record = reply(evaluating)
        found = from_record(evaluating, ROUNDS, record, (10**6, 1))
        assert found.scores is not None
        assert found.scores.table.ravel().tolist() == record["scores"]
        kept = from_plain(evaluating, as_plain(found, is_final=True))
        assert kept.scores is not None
        assert np.array_equal(kept.scores.table, found.scores.table)
        assert np.array_equal(kept.decisions.table, found.decisions.table)
        assert kept.decisions.variance == found.decisions.variance
        assert from_plain(evaluating, as_plain(found, is_final=False)).scores is None


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=5))
def test_pooled_histograms_are_sums_and_their_noises_add_up(seeds: list[int]) -> None:
    each = [from_record(PRIVATE, ROUNDS, reply(PRIVATE, seed), (1000, 1)) for seed in seeds]
    whole = pooled(each)
    assert whole is not None
    assert np.array_equal(whole.decisions.table, np.sum([one.decisions.table for one in each], axis=0))
    assert whole.decisions.variance == len(seeds) * each[0].decisions.variance > 0
    assert pooled([]) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decisions": None}, "decisions do not have the expected length"),
        ({"scores": [1, 2, 3]}, "scores do not have"),
        ({"scores": [10**9] * 24}, "scores are not whole numbers in the expected range"),
        ({"scores": [-(10**9)] * 24}, "scores are not whole numbers"),
        ({"scores": [1.0] * 24}, "scores are not whole numbers"),
        ({"scores": [True] * 24}, "scores are not whole numbers"),
        ({"noises": 0}, "whose noise"),
        ({"noises": 2}, "whose noise"),
        ({"own/mallory": [1] * 5}, "own do not have"),
    ],
)
def test_a_hostile_reply_shows_nothing(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadHistograms, match=reason):
        from_record(PRIVATE, ROUNDS, reply(PRIVATE) | change, (1000, 1))


def test_a_cell_with_noise_may_be_negative_and_an_exact_one_may_not() -> None:
    record = reply(PRIVATE)
    assert from_record(PRIVATE, ROUNDS, record | {"scores": [-1, *record["scores"][1:]]}, (1000, 1))
    exact = reply(EXACT)
    with pytest.raises(BadHistograms, match="whole numbers"):
        from_record(EXACT, ROUNDS, exact | {"scores": [-1, *exact["scores"][1:]]}, (1000, 1))


def test_the_same_records_with_other_noise_are_another_release() -> None:
    tables = PRIVATE.nothing(ROUNDS)
    one, other = (PRIVATE.released(tables, ROUNDS, Randomness(None).stream("evaluation-noise")) for _ in range(2))
    for name in tables:
        assert not np.array_equal(one[name], other[name])
        # Of every cell, as the plan says: a wrong law or scale would show in the spread of so many cells.
    variances = {part.name: part.variance for part in PRIVATE.parts(ROUNDS)}
    draws = [PRIVATE.released(tables, ROUNDS, Randomness(None).stream("n"))[SCORES] for _ in range(200)]
    assert np.var(draws) == pytest.approx(variances[SCORES], rel=0.15)


def test_the_rounds_line_takes_the_finest_that_there_is() -> None:
    found = from_record(EXACT, ROUNDS, reply(EXACT), (10**6, 1))
    metrics = found.metrics()
    assert metrics.loss == pytest.approx(3.0 / metrics.records)
    assert metrics.auc is not None
    coarse = Evaluated({DECISIONS: found.decisions})
    assert coarse.metrics().auc is None
    assert coarse.metrics().accuracy == metrics.accuracy
