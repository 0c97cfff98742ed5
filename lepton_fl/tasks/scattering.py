"""The wavelet scattering transform of second order, over two octaves and eight directions: features without training.

S0 = phi * x, S1 = phi * |psi_a * x|, S2 = phi * ||psi_a * x| * psi_b| with b an octave coarser than a; psi are Morlet
wavelets, phi is a Gaussian, and what phi has blurred is kept at every fourth pixel. Everything is computed from the
image and public constants, so an institution computes it at home, and it costs no privacy.

Source: Bruna and Mallat 2013, "Invariant Scattering Convolution Networks"; the wavelets' widths and frequencies are
those of Andreux et al. 2020, "Kymatio: Scattering Transforms in Python". Private training on them: Tramer and Boneh
2021, "Differentially Private Learning Needs Better Features (or Much More Data)".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

OCTAVES, DIRECTIONS = 2, 8
STRIDE = 1 << OCTAVES  # pixels from one kept place to the next
CHANNELS = 1 + OCTAVES * DIRECTIONS + DIRECTIONS**2 * OCTAVES * (OCTAVES - 1) // 2
_WIDTH, _FREQUENCY = 0.8, 3 * math.pi / 4  # in pixels, and radians a pixel, of the finest wavelets
_ELONGATION = 4.0 / DIRECTIONS  # across the direction of the wave the envelope is longer by 1 / so much
_PERIODS = 2  # of the image, to either side, that a filter reaches into
_BLOCK = 64  # images at once: what is transformed stays in the cache


@dataclass(frozen=True)
class _Bank:
    """Filters for images of one padded size, as their Fourier transforms; all of them are real."""

    wavelets: tuple[Tensor, ...]  # by octave: float32 [directions, height, width]
    down: Tensor  # float32 [rows kept, height]: a Gaussian blur along the columns, at every fourth row
    across: Tensor  # float32 [columns kept, width]


def kept(size: int) -> int:
    """Places that are left of so many pixels along one side."""
    return size // STRIDE


def scattering(images: Tensor) -> Tensor:
    """The coefficients of each image, float32 [n, CHANNELS, height / 4, width / 4].

    Channels: S0; S1 by octave from the finest, then direction; S2 by the first wavelet's direction, then the second's.

    Args:
        images: float32 [n, height, width]; both sides whole multiples of 4, of at least 8 pixels.
    """
    height, width = images.shape[1:]
    if height % STRIDE or width % STRIDE or min(height, width) < 2 * STRIDE:
        raise ValueError(f"images have sides of whole multiples of {STRIDE} pixels, got {height} x {width}")
    if len(images) == 0:  # which the FFT refuses
        return torch.empty(0, CHANNELS, kept(height), kept(width))
    bank = _bank(height, width)
    return torch.cat([_of_block(block, bank) for block in images.split(_BLOCK)])


def _of_block(images: Tensor, bank: _Bank) -> Tensor:
    padded = torch.nn.functional.pad(images[:, None], (STRIDE,) * 4, mode="reflect")[:, 0]
    orders = [_blurred(padded[:, None], bank)]
    first = [_moduli(torch.fft.fft2(padded)[:, None], wavelets) for wavelets in bank.wavelets]
    orders += [_blurred(moduli, bank) for moduli in first]
    for finer in range(OCTAVES):
        spectra = torch.fft.fft2(first[finer])
        for wavelets in bank.wavelets[finer + 1 :]:
            orders += [_blurred(_moduli(spectra[:, one, None], wavelets), bank) for one in range(DIRECTIONS)]
    return torch.cat(orders, dim=1)


def _moduli(spectra: Tensor, wavelets: Tensor) -> Tensor:
    """|psi * x| for all directions, float32 [n, directions, height, width]."""
    moduli: Tensor = torch.fft.ifft2(spectra * wavelets).abs()
    return moduli


def _blurred(planes: Tensor, bank: _Bank) -> Tensor:
    """phi * x at the kept places, float32 [n, channels, kept, kept]."""
    return bank.down @ planes @ bank.across.T


@lru_cache(maxsize=8)
def _bank(height: int, width: int) -> _Bank:
    """The filters for images of this size, padded by one stride on each side."""
    tall, wide = height + 2 * STRIDE, width + 2 * STRIDE
    wavelets = tuple(
        torch.stack([_spectrum(_morlet(tall, wide, octave, one)) for one in range(DIRECTIONS)])
        for octave in range(OCTAVES)
    )
    return _Bank(wavelets, _blur(tall), _blur(wide))


def _spectrum(response: Tensor) -> Tensor:
    """Of a filter whose response to a point at the origin is hermitian, so that its transform is real."""
    spectrum: Tensor = torch.fft.fft2(response).real.float()
    return spectrum


def _morlet(height: int, width: int, octave: int, direction: int) -> Tensor:
    """A wave under a Gaussian envelope less as much of the envelope as brings its mean to zero, complex128."""
    wave = _gabor(height, width, octave, direction, _FREQUENCY / 2**octave)
    envelope = _gabor(height, width, octave, direction, 0.0)
    return wave - wave.sum() / envelope.sum() * envelope


def _gabor(height: int, width: int, octave: int, direction: int, frequency: float) -> Tensor:
    """A wave under a Gaussian of sum 1, laid around a torus of the image's size, complex128 [height, width]."""
    angle = (DIRECTIONS // 2 - 1 - direction) * math.pi / DIRECTIONS
    rows, columns = torch.meshgrid(_offsets(height), _offsets(width), indexing="ij")
    along = rows * math.cos(angle) + columns * math.sin(angle)
    beside = columns * math.cos(angle) - rows * math.sin(angle)
    stddev = _WIDTH * 2**octave
    square = (along**2 + (_ELONGATION * beside) ** 2) / (2 * stddev**2)
    values = torch.exp(-square + 1j * frequency * along) * (_ELONGATION / (2 * math.pi * stddev**2))
    periods = 2 * _PERIODS + 1
    laid: Tensor = values.reshape(periods, height, periods, width).sum(dim=(0, 2))
    return laid


def _offsets(size: int) -> Tensor:
    """Pixels from the origin, over all periods, float64."""
    return torch.arange(-_PERIODS * size, (_PERIODS + 1) * size, dtype=torch.float64)


def _blur(size: int) -> Tensor:
    """A Gaussian of the coarsest octave's width around each kept place of a padded side, float32 [kept, size]."""
    places = torch.arange(STRIDE, size - STRIDE, STRIDE, dtype=torch.float64)
    distances = torch.arange(size, dtype=torch.float64) - places[:, None]
    stddev = _WIDTH * 2 ** (OCTAVES - 1)
    weights: Tensor = torch.exp(-(distances**2) / (2 * stddev**2)) / (stddev * math.sqrt(2 * math.pi))
    return weights.float()
