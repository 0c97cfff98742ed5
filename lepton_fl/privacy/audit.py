"""What one run shows about epsilon: a lower bound, from guesses about who was in it.

m canaries are each put in or left out by a fair coin of their own. Whoever sees only what was released guesses
some of the coins. A mechanism that is (epsilon, delta)-private lets nobody guess too many of them right, so many right
guesses refute a small epsilon. The bound holds for every way to guess; a bad way only makes it weak.

Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846), theorem 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LARGEST_BOUND = 20.0  # beyond it nothing is looked for: that many guesses of a coin protect nobody
_STEP = 0.1
_SHARES = (100, 50, 20, 10, 4, 2)  # one in so many canaries is guessed to be in, and as many to be out


@dataclass(frozen=True)
class Guesses:
    """How many coins were guessed, of how many, and how many of the guesses were right."""

    canaries: int
    made: int
    right: int


def chance(guesses: Guesses, epsilon: float, delta: float) -> float:
    """At least the probability of so many right guesses about an (epsilon, delta)-private mechanism.

    Returns:
        P[W >= right] + 2 m delta max_i (P[W >= right - i] - P[W >= right]) / i, at most 1, where W is binomial: each
        guess is right with chance e^epsilon / (1 + e^epsilon).
    """
    tail = binomial_tail(guesses.made, 1 / (1 + math.exp(-epsilon)))
    fewer = np.arange(1, guesses.right + 1)
    steepest = float(((tail[guesses.right - fewer] - tail[guesses.right]) / fewer).max(initial=0.0))
    return min(1.0, float(tail[guesses.right]) + 2 * guesses.canaries * delta * steepest)


def lower_bound(guesses: Guesses, delta: float, level: float) -> float:
    """The epsilon below which every mechanism is refuted by these guesses; wrong with a chance of at most `level`.

    Returns:
        0 where even epsilon 0 explains the guesses; at most `LARGEST_BOUND`.
    """
    low = 0.0
    # From below in small steps, since with a delta the chance need not grow with epsilon everywhere.
    while chance(guesses, low, delta) < level:
        if low >= LARGEST_BOUND:
            return LARGEST_BOUND
        low += _STEP
    if low == 0.0:
        return 0.0
    low, high = low - _STEP, low
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if chance(guesses, middle, delta) < level else (low, middle)
    return low


def bound_from_scores(
    was_in: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64], delta: float, level: float
) -> float:
    """A lower bound on epsilon from each canary's score, higher where it looks as if it was in.

    The highest scores are guessed to be in and as many of the lowest to be out; several numbers of guesses are tried
    and share the level among them.

    Args:
        was_in: [m], how the coins fell.
        scores: [m], a function of what was released.
        level: chance that the bound is too high.
    """
    tried = guesses_from(was_in, scores)
    return max(lower_bound(guesses, delta, level / len(tried)) for guesses in tried)


def guesses_from(was_in: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> Sequence[Guesses]:
    """The guesses for each number of them, fixed by the number of canaries alone."""
    order = np.argsort(-scores, kind="stable")
    sizes = sorted({max(1, len(scores) // share) for share in _SHARES})
    return [
        Guesses(len(scores), 2 * size, int(was_in[order[:size]].sum() + (~was_in[order[-size:]]).sum()))
        for size in sizes
    ]


def binomial_tail(trials: int, rate: float) -> npt.NDArray[np.float64]:
    """P[W >= k] for k = 0..trials, W the number of successes in so many trials; float64 [trials + 1]."""
    if rate >= 1.0:
        return np.ones(trials + 1)
    factorial = np.cumsum(np.log(np.maximum(np.arange(trials + 1), 1)))
    k = np.arange(trials + 1)
    log_choose = factorial[-1] - factorial - factorial[::-1]
    terms = np.exp(log_choose + k * math.log(rate) + (trials - k) * math.log1p(-rate))
    tail: npt.NDArray[np.float64] = np.minimum(1.0, np.cumsum(terms[::-1])[::-1])
    return tail
