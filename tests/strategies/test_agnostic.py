"""AFL: an institution with a larger loss weighs more from round to round, in the clear and under masks alike."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from compositions import sim_config
from voices import Quiet

from lepton_fl.results.folder import Folder
from lepton_fl.run import Names
from lepton_fl.simulation import plan, simulate
from lepton_fl.strategies.agnostic import AFL, Scores, scores_of
from lepton_fl.strategies.averaging import FedAvg
from lepton_fl.strategies.sums import LARGEST_WEIGHT

GUESS = math.log(2)


def scores(step: float = 0.5, most: float = 2.0) -> Scores:
    made = scores_of(AFL(step, most), labels=2)
    assert made is not None
    return made


def test_the_weight_is_the_exponential_of_the_losses_so_far() -> None:
    kept = scores()
    assert kept.weight("A", 1, GUESS + 0.2) == math.ceil(1000 * math.exp(0.1))
    assert kept.weight("A", 2, GUESS + 0.4) == math.ceil(1000 * math.exp(0.3))


def test_the_larger_loss_weighs_more_and_more() -> None:
    kept = scores()
    shares = []
    for round in range(1, 6):
        worse, better = kept.weight("worse", round, 0.9), kept.weight("better", round, 0.5)
        shares.append(worse / (worse + better))
    assert shares == sorted(shares)
    assert 0.5 < shares[0] < shares[-1] < 1


def test_a_score_stays_within_its_bounds() -> None:
    kept = scores(step=10.0)
    for round in range(1, 9):
        high, low = kept.weight("high", round, 100.0), kept.weight("low", round, 0.0)
    assert (high, low) == (math.ceil(1000 * math.exp(2)), math.ceil(1000 * math.exp(-2)))


def test_a_loss_that_is_no_number_weighs_as_the_largest_and_no_more() -> None:
    assert scores().weight("A", 1, math.nan) == math.ceil(1000 * math.exp(2))


def test_a_first_round_begins_anew() -> None:
    kept = scores()
    first = kept.weight("A", 1, 1.0)
    kept.weight("A", 2, 1.0)
    assert kept.weight("A", 1, 1.0) == first


def test_with_step_zero_all_institutions_weigh_the_same() -> None:
    kept = scores(step=0.0)
    assert {kept.weight(name, 1, loss) for name, loss in (("A", 0.1), ("B", 9.0))} == {1000}


def test_the_sum_form_takes_every_weight_as_it_is() -> None:
    form = AFL(step=0.5, most=4.0).sum_form(1, 0.5)
    largest = scores(step=100.0, most=4.0).weight("A", 1, 100.0)
    part = form.part(1.0, largest, 0.5)
    assert part.weight == largest <= LARGEST_WEIGHT
    assert part.factor == pytest.approx(1.0)


def test_other_strategies_keep_no_scores() -> None:
    assert scores_of(FedAvg(), labels=2) is None


def federated(step: float) -> list[float]:
    """Losses of four institutions after 300 rounds: the same patients, and the fourth one's have the other label."""
    kept, form, model = scores(step, most=4.0), AFL(step, 4.0).sum_form(1, 0.5), 0.0
    towards = [1.0, 1.0, 1.0, -1.0]
    for round in range(1, 301):
        losses = [math.log1p(math.exp(-sign * model)) for sign in towards]
        updates = [0.5 * sign / (1 + math.exp(sign * model)) for sign in towards]
        parts = [
            form.part(abs(update), kept.weight(str(number), round, loss), loss)
            for number, (update, loss) in enumerate(zip(updates, losses, strict=True))
        ]
        total = sum(part.factor * update for part, update in zip(parts, updates, strict=True))
        model += form.scale * total / sum(part.weight for part in parts)
    return [math.log1p(math.exp(-sign * model)) for sign in towards]


def test_the_worst_served_institution_is_served_as_well_as_the_others() -> None:
    plain, lifted = federated(step=0.0), federated(step=0.2)
    # One in four: the mean settles at odds of 3 to 1, and the fourth institution's loss is ln 4.
    assert max(plain) == pytest.approx(math.log(4), abs=0.01)
    assert max(lifted) == pytest.approx(GUESS, abs=0.05)


def test_under_masks_the_model_is_the_one_made_in_the_clear(tmp_path: Path) -> None:
    made = {}
    for summed in ("on", "off"):
        chosen = ["privacy=none", "rounds=3", "seed=1", "strategy=afl", f"secure_aggregation={summed}"]
        config = sim_config(*chosen)
        outcome = simulate(plan(config, Names("heart", "logistic", "afl")), Folder(tmp_path / summed), Quiet())
        pooled = outcome.reports[-1].metrics
        assert pooled is not None
        made[summed] = pooled.loss
    assert made["on"] == pytest.approx(made["off"], abs=2e-3)
