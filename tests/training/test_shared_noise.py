"""Shared noise: what is handed over, what one record can change in it, and the step that the server takes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.accounting import Schedule
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.skellam import table
from lepton_fl.privacy.skellam_bounds import rounded_norm
from lepton_fl.privacy.units import RecordPrivacy
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.private import Mechanism, train_privately
from lepton_fl.training.settings import Training
from lepton_fl.training.shared_noise import (
    Cohort,
    SharedDraws,
    SharedMechanism,
    apply,
    calibrate_shared,
    epsilons,
    noisy,
    on_grid,
    refuse_several_steps,
    release,
)

TRAINING = Training(
    local_steps=1,
    sampling_rate=1.0,
    learning_rate=0.1,
    learning_rate_decay=0.9,
    momentum=0.5,
    weight_decay=0.1,
    physical_batch=4,
    optimizer="sgd",
)
PRIVACY = RecordPrivacy(epsilon=1.0, delta=1e-4, clipping_norm=0.5)
COHORT = Cohort(institutions=4, honest=2, expected_batch=40.0)
PARAMETERS = 29


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))


def data(records: int, seed: int = 0) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(records, 5, generator=draw), torch.randint(0, 2, (records,), generator=draw))


def mechanism(cohort: Cohort = COHORT, parameters: int = PARAMETERS, rate: float = 1.0) -> SharedMechanism:
    return calibrate_shared(PRIVACY, Schedule(rate, 30), cohort, parameters, None)


def draws(name: str, seed: int | None = 0) -> SharedDraws:
    source = Randomness(seed).within(name, 1)
    return SharedDraws(*(source.stream(purpose) for purpose in ("sampling", "rounding", "noise")))


def released(examples: Examples, claimed: SharedMechanism, name: str = "elm") -> npt.NDArray[np.int64]:
    return release(model(), examples, claimed, BookKeeping(), draws(name), 4)


def clipped(examples: Examples, norm: float) -> npt.NDArray[np.float64]:
    engine, net = BookKeeping(), model()
    out = torch.zeros(PARAMETERS, dtype=torch.float64)
    engine.attach(net)
    engine.add(examples, norm, out)
    engine.detach()
    return out.numpy()


def test_the_shares_of_the_honest_carry_the_noise_of_one_curator() -> None:
    made = mechanism()
    assert made.honest * made.variance >= (made.noise_multiplier * made.sensitivity) ** 2
    # A power of two of a grid, and hardly more noise than the multiplier asks: rounding costs two percent at most.
    assert math.log2(made.grid).is_integer()
    asked = made.noise_multiplier * made.clipping_norm
    assert asked <= math.sqrt(made.honest) * made.stddev <= 1.021 * asked
    assert made.own_multiplier == pytest.approx(made.noise_multiplier / math.sqrt(2), rel=1e-6)


def test_both_epsilons_are_told_and_the_one_of_a_share_is_larger() -> None:
    made = mechanism()
    both = epsilons(made, PRIVACY.delta, 30)
    assert 0.99 < both.of_the_sum <= 1.0
    assert 1.4 < both.of_a_share < 1.6
    assert epsilons(made, PRIVACY.delta, 0) == type(both)(0.0, 0.0)


def test_a_mechanism_whose_shares_are_too_quiet_cannot_be_made() -> None:
    made = mechanism()
    with pytest.raises(ValueError, match="does not add up"):
        replace(made, variance=made.variance - 10)
    with pytest.raises(ValueError, match="does not add up"):
        replace(made, honest=1)
    with pytest.raises(ValueError, match="does not add up"):
        replace(made, clipping_norm=0.51)


def test_what_an_institution_hands_over_is_its_clipped_sum_and_its_noise() -> None:
    made = mechanism()
    share = released(data(10), made)
    noise = table(made.variance).sample(PARAMETERS, draws("elm").noise)
    rest = share - noise - clipped(data(10), made.target) / made.grid
    assert np.abs(rest).max() < 1
    assert (share == released(data(10), made)).all()
    assert (share != released(data(10), made, "oak")).any()
    assert np.abs(share).max() <= made.most


def test_an_empty_institution_hands_over_noise_alone() -> None:
    made = mechanism()
    noise = table(made.variance).sample(PARAMETERS, draws("elm").noise)
    assert (released(data(0), made) == noise).all()


def test_unseeded_releases_differ_in_every_way() -> None:
    made = mechanism(parameters=1000)
    first, second = (noisy(np.zeros(1000), made, draws("elm", None)) for _ in range(2))
    assert (first != second).mean() > 0.99


def test_a_model_of_another_size_is_refused_before_a_record_is_read() -> None:
    with pytest.raises(ValueError, match="made for 30 parameters, the model has 29"):
        release(model(), data(3), mechanism(parameters=30), BookKeeping(), draws("elm"), 4)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(-30, 30), min_size=40, max_size=40),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_one_contribution_changes_the_whole_numbers_by_a_rounding_of_itself(
    others: list[float], own: list[float], seed: int
) -> None:
    """With the same dither, cut off or not: never further than the contribution rounded away from zero."""
    x = np.array(others)
    v = np.array(own[: len(x)])
    for bound in (1 << 29, 1000):
        moved = on_grid(x + v, bound, Randomness(seed).stream("r")) - on_grid(x, bound, Randomness(seed).stream("r"))
        # x + v itself is rounded in float64, to within 2^-32 here.
        assert (moved * np.sign(v) >= -1).all()
        assert (np.abs(moved) <= np.ceil(np.abs(v) + 2.0**-31)).all()


def test_the_change_is_a_stochastic_rounding_whatever_else_is_in_the_sum() -> None:
    """Mean v and chance frac(v), also where x has a fraction of its own: floor(x + u) and v are tied by one dither."""
    count, v = 200_000, 2.3
    for x in (0.0, 0.77, -12345.31):
        apart = [on_grid(np.full(count, each), 1 << 20, Randomness(1).stream("r")) for each in (x + v, x)]
        moved = apart[0] - apart[1]
        assert set(moved.tolist()) == {2, 3}
        assert moved.mean() == pytest.approx(v, abs=6 * 0.46 / math.sqrt(count))


def test_no_record_moves_the_whole_numbers_by_more_than_the_sensitivity() -> None:
    made = mechanism()
    for row in range(12):
        examples = data(12)
        examples.features[row] *= 1e4
        without = Examples(
            torch.cat([examples.features[:row], examples.features[row + 1 :]]),
            torch.cat([examples.labels[:row], examples.labels[row + 1 :]]),
        )
        moved = released(examples, made) - released(without, made)
        assert np.linalg.norm(moved) <= made.sensitivity
        assert 0.9 * made.clipping_norm / made.grid < np.linalg.norm(moved)


@pytest.mark.parametrize("bound", [1, 7, 1 << 20])
def test_a_sum_beyond_the_bound_is_cut_off(bound: int) -> None:
    assert on_grid(np.array([1e12, -1e12, 0.0]), bound, Randomness(0).stream("r")).tolist() == [bound, -bound, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_sum_that_is_not_finite_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        on_grid(np.array([0.0, wrong]), 100, Randomness(0).stream("r"))
    with pytest.raises(ValueError, match="bound lies between"):
        on_grid(np.array([0.0]), 1 << 30, Randomness(0).stream("r"))


def test_rounding_and_noise_read_streams_of_their_own() -> None:
    made = mechanism()
    sources = draws("elm")
    noisy(np.zeros(PARAMETERS), made, sources)
    fresh = draws("elm")
    fresh.rounding.words((PARAMETERS + 1) // 2)
    assert sources.rounding.words(4).tolist() == fresh.rounding.words(4).tolist()
    assert sources.sampling.words(4).tolist() == fresh.sampling.words(4).tolist()


# -- the sum over the cohort


@pytest.mark.parametrize(
    ("cohort", "wire_bits"),
    [(COHORT, 24), (Cohort(10, 4, 12000.0), 32), (Cohort(3, 2, 1e5), 32), (Cohort(60, 22, 600.0), 24)],
)
def test_the_sum_over_the_cohort_fits_the_wire(cohort: Cohort, wire_bits: int) -> None:
    made = mechanism(cohort)
    assert made.wire_bits == wire_bits
    assert cohort.institutions * made.most < 2 ** (wire_bits - 1)
    # An even share of the records, all pulling at one coordinate, is not cut off.
    assert made.bound * made.grid > made.clipping_norm * cohort.expected_batch / cohort.institutions


def test_a_cohort_whose_sums_fit_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit 32 bits"):
        mechanism(Cohort(4, 2, 1e8))
    with pytest.raises(ConfigError, match="models of up to 16777216 parameters"):
        mechanism(parameters=(1 << 24) + 1)


def test_a_large_model_gets_a_finer_grid_and_never_too_little_noise() -> None:
    large = mechanism(parameters=1 << 20)
    assert large.grid < mechanism().grid
    norm = large.clipping_norm / large.grid
    assert large.sensitivity == pytest.approx(rounded_norm(norm, 1 << 20), rel=1e-6)


def test_the_server_takes_the_step_that_every_institution_would_have_taken() -> None:
    """Against DP-SGD with next to no noise over the pooled records: momentum, decay and weight decay too."""
    made = mechanism()
    parts = [data(10, seed) for seed in range(4)]
    total = sum(
        on_grid(clipped(part, made.target) / made.grid, made.bound, draws(str(number)).rounding)
        for number, part in enumerate(parts)
    )
    shared, pooled = model(), model()
    apply(shared, np.asarray(total), made, TRAINING, 3)
    whole = Examples(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))
    quiet = Mechanism(1e-6, made.clipping_norm, 1.0, made.expected_batch)
    train_privately(pooled, whole, TRAINING, quiet, BookKeeping(), LocalTask(3, 0.7, Randomness(0)))
    start = dict(model().named_parameters())
    for name, parameter in pooled.named_parameters():
        other = dict(shared.named_parameters())[name]
        assert torch.allclose(other, parameter, atol=1e-5)
        assert not torch.allclose(other, start[name], atol=1e-4, rtol=0)


def test_the_step_leaves_no_gradient_behind_and_a_wrong_sum_is_refused() -> None:
    made, net = mechanism(), model()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="has 29 coordinates"):
        apply(net, np.zeros(28, dtype=np.int64), made, TRAINING, 1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    apply(net, np.zeros(29, dtype=np.int64), made, TRAINING, 1)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_optimizer_that_keeps_signs_alone_is_refused_with_the_reason() -> None:
    adam = replace(TRAINING, momentum=0.0, optimizer="adam")
    with pytest.raises(ConfigError, match=r"keeps the signs alone; nothing was trained; set training\.optimizer=sgd"):
        refuse_several_steps(adam)


def test_several_local_steps_are_refused_with_the_reason() -> None:
    refuse_several_steps(TRAINING)
    with pytest.raises(ConfigError, match="train on with its own share of the noise alone"):
        refuse_several_steps(replace(TRAINING, local_steps=2))
    with pytest.raises(ConfigError, match="one local step"):
        apply(model(), np.zeros(29, dtype=np.int64), mechanism(), replace(TRAINING, local_steps=2), 1)
