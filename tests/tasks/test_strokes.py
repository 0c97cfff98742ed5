"""Drawn figures are one formula's, and the coordinates by them are centred, whitened in part, and continuous."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lepton_fl.tasks.scattering import scattering
from lepton_fl.tasks.strokes import FIGURES, figures, likeness

SMALL = 8


def normalised(images: torch.Tensor) -> np.ndarray:
    """Written out: each image's groups of three channels, less their mean, over their standard deviation."""
    groups = scattering(images).double().numpy().reshape(len(images), 27, -1)
    centred = groups - groups.mean(axis=2, keepdims=True)
    return (centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + 1e-5)).reshape(len(images), -1)


@pytest.fixture(scope="module")
def drawn_small() -> torch.Tensor:
    return figures(FIGURES, SMALL)


@pytest.fixture(scope="module")
def coordinates(drawn_small: torch.Tensor) -> np.ndarray:
    return likeness(drawn_small).double().numpy()


def test_figures_are_bright_strokes_on_a_dark_ground_and_no_two_are_alike() -> None:
    drawn = figures(50, 28)
    assert drawn.shape == (50, 28, 28)
    assert float(drawn.min()) >= 0
    assert 0.85 < float(drawn.amax(dim=(1, 2)).min()) <= float(drawn.max()) <= 1
    assert 0.05 < float(drawn.mean()) < 0.25
    assert len(drawn.flatten(1).unique(dim=0)) == 50


def test_the_first_figures_are_the_same_however_many_are_drawn() -> None:
    assert torch.equal(figures(3, 28), figures(5, 28)[:3])


def test_a_figures_longer_side_is_eighteen_pixels_and_its_pen_wide() -> None:
    drawn = figures(100, 28) > 0.5
    tall, wide = (drawn.any(dim=side).sum(dim=1) for side in (2, 1))
    longer = torch.maximum(tall, wide)
    assert int(longer.median()) == 20
    assert int(longer.max()) <= 18 + 2 * 1.6 + 1


def test_the_figures_own_coordinates_have_mean_0_and_mean_square_1(coordinates: np.ndarray) -> None:
    assert coordinates.shape == (FIGURES, FIGURES)
    assert coordinates.mean(axis=0) == pytest.approx(0, abs=2e-3)
    assert (coordinates**2).mean() == pytest.approx(1, rel=1e-3)


@pytest.mark.slow
def test_each_direction_is_scaled_by_its_variance_to_the_power_but_for_the_ridge(
    drawn_small: torch.Tensor, coordinates: np.ndarray
) -> None:
    coefficients = normalised(drawn_small)
    centred = (coefficients - coefficients.mean(axis=0)) / math.sqrt(FIGURES)
    variances = np.linalg.svd(centred, compute_uv=False)[:100] ** 2
    expected = variances**2 * (variances + 1e-3 * variances[0]) ** -1.7
    found = np.linalg.svd(coordinates, compute_uv=False)[:100] ** 2
    # Where they are close, a rank may change; sorted, the values are the same.
    assert found / found[0] == pytest.approx(np.sort(expected)[::-1] / expected.max(), rel=1e-2)


def test_images_are_seen_one_by_one_and_a_small_change_stays_small(
    drawn_small: torch.Tensor, coordinates: np.ndarray
) -> None:
    assert likeness(drawn_small[3:4])[0].numpy() == pytest.approx(coordinates[3], abs=1e-2)
    nearby = likeness((drawn_small[:5] + 1e-5).clamp(max=1)).double().numpy()
    assert np.linalg.norm(nearby - coordinates[:5]) / np.linalg.norm(coordinates[:5]) < 0.01
