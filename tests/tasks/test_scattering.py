"""The scattering transform is what its definition says, by direct convolution, and what Kymatio computes."""

from __future__ import annotations

import cmath
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lepton_fl.tasks.scattering import CHANNELS, scattering

Plane = npt.NDArray[np.complex128]
SIZE = 16  # of an image of 8 x 8 pixels, padded by 4 on each side


def smooth() -> torch.Tensor:
    """A spot and a slanted line, float32 [1, 28, 28]."""
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    spot = torch.exp(-((rows - 9) ** 2 + (columns - 15) ** 2) / 40)
    return ((spot + torch.exp(-(((rows - 2 * columns + 14) / 4) ** 2))) / 2)[None]


def noise(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, size, size, generator=torch.Generator().manual_seed(7))


def gabor(octave: int, angle: float, frequency: float) -> Plane:
    """exp(i frequency u) under a Gaussian, u along the angle, summed over the periods of a torus of 16 x 16."""
    found = np.zeros((SIZE, SIZE), dtype=complex)
    stddev = 0.8 * 2**octave
    for row in range(-3 * SIZE, 3 * SIZE):
        for column in range(-3 * SIZE, 3 * SIZE):
            u = row * math.cos(angle) + column * math.sin(angle)
            v = column * math.cos(angle) - row * math.sin(angle)
            envelope = math.exp(-(u**2 + v**2 / 4) / (2 * stddev**2)) / (4 * math.pi * stddev**2)
            found[row % SIZE, column % SIZE] += envelope * cmath.exp(1j * frequency * u)
    return found


def wavelet(octave: int, direction: int) -> Plane:
    angle = (3 - direction) * math.pi / 8
    wave, envelope = (gabor(octave, angle, frequency) for frequency in (0.75 * math.pi / 2**octave, 0.0))
    return wave - wave.sum() / envelope.sum() * envelope


def convolved(plane: Plane, response: Plane) -> Plane:
    """By the sum itself, on the torus."""
    found = np.zeros((SIZE, SIZE), dtype=complex)
    for row in range(SIZE):
        for column in range(SIZE):
            found += plane[row, column] * np.roll(response, (row, column), axis=(0, 1))
    return found


def blurred(plane: npt.NDArray[np.float64], row: int, column: int) -> float:
    weights = [
        [math.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * 1.6**2)) / (2 * math.pi * 1.6**2) for c in range(SIZE)]
        for r in range(SIZE)
    ]
    return float((np.array(weights) * plane).sum())


@pytest.mark.parametrize(("finer", "coarser"), [(0, 0), (3, 5), (6, 2)])
def test_coefficients_are_those_of_the_definition_by_direct_convolution(finer: int, coarser: int) -> None:
    image = noise(1, 8)
    found = scattering(image)[0]
    padded = np.pad(image[0].double().numpy(), 4, mode="reflect")
    once = np.abs(convolved(padded.astype(complex), wavelet(0, finer)))
    coarse = np.abs(convolved(padded.astype(complex), wavelet(1, coarser)))
    twice = np.abs(convolved(once.astype(complex), wavelet(1, coarser)))
    expected = {0: padded, 1 + finer: once, 9 + coarser: coarse, 17 + 8 * finer + coarser: twice}
    for channel, plane in expected.items():
        assert float(found[channel, 1, 0]) == pytest.approx(blurred(plane, 8, 4), rel=1e-4)


def test_coefficients_agree_with_kymatio() -> None:
    # Scattering2D(J=2, shape=(28, 28), L=8) of Kymatio 0.3.0, which drops every other pixel on the way.
    expected = [0.1506, 0.01378, 0.00806, 0.02709, 0.04147, 0.00096, 0.00124, 0.00396, 0.00327]
    found = scattering(smooth())[0]
    assert found[[0, 1, 4, 9, 14, 17, 30, 55, 80], 3, 2].tolist() == pytest.approx(expected, abs=1e-5)
    orders = [float(part.sum()) for part in found.split([1, 8, 8, 64])]
    assert orders == pytest.approx([7.0756674, 3.5591817, 6.7003746, 3.3716683], rel=2e-3)


def test_wavelets_do_not_see_a_constant() -> None:
    found = scattering(torch.full((1, 8, 12), 0.7))[0]
    assert found.shape == (CHANNELS, 2, 3) == (81, 2, 3)
    assert found[0].numpy() == pytest.approx(0.7, abs=0.02)  # a blur whose sides reach beyond the padding
    assert float(found[1:].abs().max()) < 1e-6


def test_what_is_twice_as_bright_has_twice_the_coefficients() -> None:
    image = noise(1, 16)
    assert scattering(3 * image).numpy() == pytest.approx(3 * scattering(image).numpy(), rel=1e-4, abs=1e-6)


def test_the_transform_brings_no_two_images_further_apart() -> None:
    first, second = noise(2, 28)
    padded = torch.nn.functional.pad((first - second)[None, None], (4, 4, 4, 4), mode="reflect")
    apart = scattering(first[None]) - scattering(second[None])
    # Each kept place stands for 16 pixels.
    assert 16 * float(apart.pow(2).sum()) <= float(padded.pow(2).sum())


def test_a_shift_by_a_pixel_changes_the_coefficients_less_than_the_image() -> None:
    image = torch.nn.functional.pad(noise(1, 20), (4, 4, 4, 4))
    shifted = image.roll(1, dims=2)
    far, near = (float((a - b).norm() / a.norm()) for a, b in ((image, shifted), _coefficients(image, shifted)))
    assert near < far / 2


def _coefficients(*images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (scattering(image) for image in images)
    return first, second


def test_a_transposed_image_has_mirrored_directions() -> None:
    image = noise(1, 16)
    found, mirrored = (scattering(one)[0] for one in (image, image.transpose(1, 2)))
    for direction in range(8):
        expected = found[1 + direction].T
        assert mirrored[1 + (2 - direction) % 8].numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_an_image_is_transformed_by_itself() -> None:
    images = noise(70, 8)
    assert scattering(images)[65:66].numpy() == pytest.approx(scattering(images[65:66]).numpy(), abs=1e-6)
    assert scattering(images[:0]).shape == (0, CHANNELS, 2, 2)


@pytest.mark.parametrize("shape", [(1, 10, 12), (1, 12, 10), (1, 4, 8)])
def test_images_of_other_sides_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="whole multiples of 4"):
        scattering(torch.zeros(shape))
