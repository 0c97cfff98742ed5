"""How much noise each release of a run's evaluation carries, fixed before the first round.

Releases about the same subjects compose, so there is one budget and a list of what it is spent on; what is not on the
list is not released. Held-out subjects, those that choices are made with, and those that are trained on are different
people, so each pays for its own releases alone: under adding or removing a subject, and while the split stays.

A histogram has L2 sensitivity 1 (`histogram`). Its Skellam noise of variance v counts as Gaussian noise of the
multiplier z of `skellam_bounds`, and several histograms with independent noise as one with 1/z^2 = sum of 1/z_i^2. The
budget is therefore shared out in parts of 1/z^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass

from lepton_fl.errors import BudgetSpent
from lepton_fl.evaluation.settings import Private
from lepton_fl.privacy import skellam_bounds
from lepton_fl.privacy.accounting import SKELLAM, Segment, epsilon_of_history
from lepton_fl.privacy.skellam import MOST_VARIANCE

_PRECISION = 1e-3  # of the budget in 1/z^2
_LEAST, _MOST = 1e-7, 1e4  # between which it lies


@dataclass(frozen=True)
class Release:
    """The variances of ONE institution's Skellam noise in each cell of a release's histograms.

    Whole numbers; 0 where that histogram is not part of the release.
    """

    decisions: int  # two bins of the score, split at 1/2; of more than two labels, the guesses
    scores: int  # `Evaluation.bins` bins
    own: int  # this institution's alone, `Evaluation.bins` bins
    tune: int  # of `Site.tune`, two bins

    def multiplier(self, shares: int) -> float:
        """The noise multiplier of all that is said of held-out subjects; infinite if that is nothing.

        Args:
            shares: institutions whose noise is surely in a sum; in an institution's own histogram there is its own.
        """
        return _together([(self.decisions, shares), (self.scores, shares), (self.own, 1)])

    def tune_multiplier(self, shares: int) -> float:
        """The same of what is said of subjects that choices are made with."""
        return _together([(self.tune, shares)])


@dataclass(frozen=True)
class Plan:
    """Every release of a run."""

    routine: Release
    final: Release
    routine_rounds: tuple[int, ...]
    final_round: int

    @property
    def releases(self) -> int:
        """How many there are, the final one included."""
        return len(self.routine_rounds) + 1

    def at(self, round: int) -> Release | None:
        """What is released in this round, counted from 1; None: nothing."""
        if round == self.final_round:
            return self.final
        return self.routine if round in self.routine_rounds else None

    def held_out(self, shares: int) -> tuple[Segment, ...]:
        """What the whole plan costs a held-out subject, as the accountant has it."""
        return _segments((self.routine.multiplier(shares), len(self.routine_rounds)), self.final.multiplier(shares))

    def tune(self, shares: int) -> tuple[Segment, ...]:
        """What the whole plan costs a subject that choices are made with."""
        routine = (self.routine.tune_multiplier(shares), len(self.routine_rounds))
        return _segments(routine, self.final.tune_multiplier(shares))


def plan(settings: Private, delta: float, rounds: int, shares: int, labels: int, has_tune: bool) -> Plan:
    """The least noise under which the whole plan costs each subject at most (`settings.epsilon`, delta).

    Of a held-out subject's budget the routine releases together take a quarter, the final scores a quarter, each
    institution's own histogram a quarter, and the final decisions the rest. Subjects that choices are made with pay for
    equal releases, and the final one counts as two.

    Args:
        shares: institutions whose noise is surely in a sum, at least 1.
        labels: of the task; more than two have no scores apart from the guesses.
        has_tune: someone makes choices with `Site.tune`.

    Raises:
        BudgetSpent: no noise that can be drawn keeps the promise.
    """
    routine_rounds = tuple(range(settings.every, rounds, settings.every))
    routine, final = _parts(settings, len(routine_rounds), labels)

    def made(held_out: float, tune: float) -> Plan:
        first, last = (_release(parts, (held_out, tune), shares) for parts in (routine, final))
        return Plan(first, last, routine_rounds, rounds)

    held_out = _most(lambda budget: epsilon_of_history(made(budget, 0.0).held_out(shares), delta), settings.epsilon)
    tune = 0.0
    if has_tune:
        tune = _most(lambda budget: epsilon_of_history(made(0.0, budget).tune(shares), delta), settings.epsilon)
    whole = made(held_out, tune)
    if max(max(astuple(release)) for release in (whole.routine, whole.final)) > MOST_VARIANCE:
        raise _unreachable(settings.epsilon)
    return whole


def _parts(settings: Private, routine: int, labels: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of the budgets: what a routine release takes for each histogram, and the final one; zero for what it has not."""
    scores = 1 / 4 if labels == 2 and settings.bins > 2 else 0.0
    own = 1 / 4 if settings.by_institution else 0.0
    routines = 1 / 4 if routine else 0.0
    equal = {"decisions": routines / max(1, routine), "scores": 0.0, "own": 0.0, "tune": 1 / (routine + 2)}
    return equal, {"decisions": 1 - routines - scores - own, "scores": scores, "own": own, "tune": 2 / (routine + 2)}


def _release(parts: dict[str, float], budgets: tuple[float, float], shares: int) -> Release:
    held_out, tune = budgets
    return Release(
        decisions=_variance(parts["decisions"] * held_out, shares),
        scores=_variance(parts["scores"] * held_out, shares),
        own=_variance(parts["own"] * held_out, 1),
        tune=_variance(parts["tune"] * tune, shares),
    )


def _variance(budget: float, shares: int) -> int:
    """Of one institution's noise, so that a histogram takes at most this part 1/z^2; 0 for a histogram that is none."""
    return math.ceil(skellam_bounds.variance_for(budget**-0.5, 1.0) / shares) if budget > 0 else 0


def _together(histograms: list[tuple[int, int]]) -> float:
    """The multiplier of histograms that are released together, from one institution's variance and how many add it."""
    spent = sum(skellam_bounds.multiplier(one * shares, 1.0) ** -2 for one, shares in histograms if one)
    return spent**-0.5 if spent else math.inf


def _segments(routine: tuple[float, int], final: float) -> tuple[Segment, ...]:
    return tuple(
        Segment(multiplier, 1.0, steps, SKELLAM) for multiplier, steps in (routine, (final, 1)) if multiplier < math.inf
    )


def _most(epsilon_at: Callable[[float], float], epsilon: float) -> float:
    """The largest budget in 1/z^2, to a thousandth of it, whose plan costs at most this epsilon."""
    low, high = _LEAST, _MOST
    if epsilon_at(low) > epsilon:
        raise _unreachable(epsilon)
    while high / low > 1 + _PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if epsilon_at(middle) <= epsilon else (low, middle)
    return low


def _unreachable(epsilon: float) -> BudgetSpent:
    return BudgetSpent(
        f"no noise that can be drawn keeps the evaluation within epsilon {epsilon:g}; nothing was released; plan fewer "
        "releases with a larger evaluation.every, or raise evaluation.epsilon"
    )
