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
from lepton_fl.privacy.gaussian import CHUNK
from lepton_fl.privacy.noise import Onto, add_noise, clip_target, grid_step, release
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 777, CHUNK, 2 * CHUNK + 5])
def test_a_release_is_the_sum_and_the_noise_each_rounded_to_the_grid_times_the_gain(
    count: int, dtype: torch.dtype
) -> None:
    rng, stddev = np.random.default_rng(count), 0.7
    total = torch.from_numpy(rng.normal(size=count) * 100).to(dtype)
    noise, step = torch.empty(count, dtype=torch.float64), grid_step(stddev)
    stream().standard_normal(noise)
    expected = ((total.double() / step).round() + noise * (stddev / step)).round() * (0.3 * step)
    out = torch.empty(count, dtype=dtype)
    release(total, stddev, stream(), 0.3, out)
    assert torch.equal(out, expected.to(dtype))
    release(total, stddev, stream(), 0.3, total)
    assert torch.equal(total, out)


@pytest.mark.parametrize("count", [3, 2 * CHUNK + 5])
def test_a_release_is_added_to_a_share_of_other_values_in_one_pass(count: int) -> None:
    total, values = (torch.arange(count, dtype=torch.float64) * scale for scale in (0.01, -0.3))
    alone, onto = (torch.empty(count, dtype=torch.float64) for _ in range(2))
    release(total, 2.0, stream(), -0.1, alone)
    release(total, 2.0, stream(), -0.1, onto, Onto(values, 0.75))
    assert torch.allclose(onto, 0.75 * values + alone, rtol=1e-15, atol=1e-12)
    release(total, 2.0, stream(), -0.1, values, Onto(values, 0.75))
    assert torch.equal(values, onto)


def test_a_sum_that_is_not_a_number_stays_none() -> None:
    total = torch.tensor([math.nan, math.inf, 1e300, 0.0], dtype=torch.float64)
    add_noise(total, 1.0, stream())
    assert total[:3].isfinite().tolist() == [False, False, True]
    assert float(total[2]) == 1e300


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
