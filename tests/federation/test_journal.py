"""Whom a round asks is decided by the round, for a run that keeps nothing too."""

from __future__ import annotations

from lepton_fl.federation.journal import NoJournal, cohort_seed
from lepton_fl.privacy.randomness import Randomness


def test_a_simulated_rounds_seed_is_its_own_in_any_order() -> None:
    journal, randomness = NoJournal(Randomness(7)), Randomness(7)
    for round in (1, 2, 32, 33, 5, 100, 99):
        assert journal.cohort_seed(round) == cohort_seed(randomness, round)


def test_without_a_seed_nobody_can_tell_the_cohorts_of_another_run() -> None:
    one, other = NoJournal(Randomness(None)), NoJournal(Randomness(None))
    assert {one.cohort_seed(round) for round in range(1, 40)}.isdisjoint(map(other.cohort_seed, range(1, 40)))
