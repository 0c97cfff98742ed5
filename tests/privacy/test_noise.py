"""The Gaussian mechanism on a grid."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.noise import add_noise, clip_target, grid_step
from lepton_fl.privacy.randomness import Stream


def stream() -> Stream:
    return Stream(hashlib.sha256(b"noise").digest())


def test_the_noise_has_the_stated_standard_deviation() -> None:
    release = torch.zeros(100_000, dtype=torch.float64)
    add_noise(release, 3.0, stream())
    # Chi-square with n degrees of freedom: both tails at 0.1 %.
    total = float((release / 3.0).square().sum())
    assert 0.001 < stats.chi2.cdf(total, 100_000) < 0.999


def test_noise_is_added_to_the_sum_not_put_in_its_place() -> None:
    release = torch.full((100_000,), 50.0, dtype=torch.float64)
    add_noise(release, 3.0, stream())
    assert float(release.mean()) == pytest.approx(50.0, abs=5 * 3 / math.sqrt(100_000))


@given(st.floats(1e-6, 1e6), st.integers(0, 2**32))
def test_every_release_lies_on_the_grid(stddev: float, seed: int) -> None:
    release = torch.from_numpy(np.random.default_rng(seed).normal(size=8))
    add_noise(release, stddev, stream())
    multiples = release / grid_step(stddev)
    assert torch.equal(multiples, multiples.round())


@given(st.floats(1e-9, 1e9))
def test_the_grid_is_a_power_of_two_fine_enough_to_change_nothing(stddev: float) -> None:
    step = grid_step(stddev)
    assert math.frexp(step)[0] == 0.5
    assert stddev * 2.0**-21 < step <= stddev * 2.0**-20


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_two_neighbouring_sums_differ_by_at_most_the_clipping_norm_on_the_grid(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stddev, clipping_norm = 20.0, 1.0
    target = clip_target(clipping_norm, stddev, size)
    without = rng.normal(size=size)
    record = rng.normal(size=size)
    record *= target / np.linalg.norm(record)
    step = grid_step(stddev)
    moved = np.round((without + record) / step) * step - np.round(without / step) * step
    assert np.linalg.norm(moved) <= clipping_norm


def test_a_model_too_large_for_its_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no room"):
        clip_target(1.0, 10_000.0, 10**8)
