"""Why shared noise is for one local step: the example of decision 021, played."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

TRIALS = 200_000


def guessed(institutions: int, steps: int, noise: float) -> float:
    """How much more often an outsider who sees the sums alone guesses 1 with the person than without.

    One parameter, clipping norm 1. The person's gradient is 1; a million other records of the same institution have
    the loss |w - 1/2|. Each institution adds noise / sqrt(institutions) in each step; what is seen is the sum over all.
    """
    draw = np.random.default_rng(0)
    share = noise / math.sqrt(institutions)
    guesses = []
    for person in (1.0, 0.0):
        own = draw.normal(0, share, (TRIALS, steps))
        others = draw.normal(0, share * math.sqrt(institutions - 1), (TRIALS, steps))
        w, total = np.zeros(TRIALS), np.zeros(TRIALS)
        for step in range(steps):
            crowd = 1e6 * np.sign(w - 0.5) if step else 0.0
            gradient = person + crowd
            w = w + gradient + own[:, step]
            total += gradient + own[:, step] + others[:, step]
        guesses.append((total > (0 if steps > 1 else 0.5)).mean())
    return float(guesses[0] - guesses[1])


def allowed(steps: int, noise: float) -> float:
    """The most that so many steps of Gaussian noise on a sum of sensitivity 1 let anybody tell."""
    return float(2 * norm.cdf(math.sqrt(steps) / (2 * noise)) - 1)


@pytest.mark.parametrize("institutions", [2, 4, 9])
def test_one_local_step_tells_no_more_than_the_whole_noise_allows(institutions: int) -> None:
    assert guessed(institutions, 1, 2.0) == pytest.approx(allowed(1, 2.0), abs=0.01)


@pytest.mark.parametrize("institutions", [4, 9])
def test_two_local_steps_tell_what_a_share_alone_hides(institutions: int) -> None:
    told = guessed(institutions, 2, 2.0)
    assert told > allowed(2, 2.0) + 0.05
    assert told == pytest.approx(2 * norm.cdf(math.sqrt(institutions) / 4.0) - 1, abs=0.01)
