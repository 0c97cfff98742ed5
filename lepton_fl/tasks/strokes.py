"""Drawn strokes, and images by their likeness to them: a public yardstick for handwriting, made without any data.

A linear model learns fast, and so at little cost in privacy, where its features are centred and of like size in every
direction. The mean and the directions that this takes are those of made-up handwriting here: of a thousand figures of
one or two curved strokes, which a formula draws. They are public constants, so that no record pays for them and every
institution computes the same.

Source: Tramer and Boneh 2021, "Differentially Private Learning Needs Better Features (or Much More Data)" (a linear
model on normalised scattering coefficients); Williams and Seeger 2000, "Using the Nystroem Method to Speed Up Kernel
Machines" (coordinates in the span of a few examples).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lepton_fl.tasks.scattering import CHANNELS, scattering

FIGURES = 1024
_GROUP = 3  # channels that are normalised together
_POWER = 0.35  # of the variance in a direction, that its coordinate is divided by; 0.5 would make all variances 1
_RIDGE = 1e-3  # of the largest variance, added to each
_LEAST = 1e-5  # added to the variance of a group, whose coefficients may all be near zero
_BLOCK = 1024  # images whose coefficients are in memory at once

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)
_POINTS = 64  # along a stroke
_SPAN = 18.0 / 28.0  # of the image's side, that a figure's longer side takes
_PEN = (0.8, 1.6)  # half the width of a stroke, in 28ths of the image's side
_EDGE = 2.5  # how sharply it ends, per 28th


@dataclass(frozen=True)
class _Frame:
    """Where the figures lie among all coefficients, and the way into coordinates by them."""

    mean: Tensor  # float32 [coefficients]
    map: Tensor  # float32 [FIGURES, coefficients]


def likeness(images: Tensor) -> Tensor:
    """The coordinates of each image in the span of the drawn figures, float32 [n, FIGURES].

    Scattering coefficients, normalised within each image and group of channels, less the figures' mean, then S^-power
    of them with S the figures' covariance, as coordinates by the figures. Continuous in the image and in the figures:
    what machines round differently stays as small as it is. The figures' own coordinates have a mean square of 1.

    Args:
        images: float32 [n, size, size] in [0, 1], strokes bright; size a whole multiple of 4, at least 8.
    """
    frame = _frame(images.shape[1])
    parts = [(_normalised(block) - frame.mean) @ frame.map.T for block in images.split(_BLOCK)]
    return torch.cat(parts)


def figures(count: int, size: int) -> Tensor:
    """The first so many drawn figures, float32 [count, size, size] in [0, 1].

    One or two cubic Bezier curves with four control points each, scaled to one size and centred by their mass, from
    an additive recurrence in place of chance: coordinate d of figure i is the fraction of i times the root of the d-th
    prime.
    """
    steps = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    chances = (steps * torch.tensor(_PRIMES, dtype=torch.float64).sqrt()).remainder(1.0)
    points = _curves(chances[:, :16].reshape(count, 2, 4, 2))
    is_single = chances[:, 16] < 0.5
    points[is_single, _POINTS:] = points[is_single, :_POINTS]
    pens = _PEN[0] + (_PEN[1] - _PEN[0]) * chances[:, 17]
    drawn = [_drawn(*part, size) for part in zip(_placed(points, size).split(64), pens.split(64), strict=True)]
    return torch.cat(drawn).float()


def _curves(controls: Tensor) -> Tensor:
    """Points along the strokes [n, strokes * _POINTS, 2] of the control points [n, strokes, 4, 2]."""
    along = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    weights = torch.stack([math.comb(3, k) * (1 - along) ** (3 - k) * along**k for k in range(4)], dim=1)
    return (weights @ controls).flatten(1, 2)


def _placed(points: Tensor, size: int) -> Tensor:
    """The figures' points in pixels: of one size, but for very small ones, and their mean in the image's middle."""
    extent = (points.amax(dim=1) - points.amin(dim=1)).amax(dim=1).clamp(min=0.2)
    centred = points - points.mean(dim=1, keepdim=True)
    return centred / extent[:, None, None] * (_SPAN * size) + (size - 1) / 2


def _drawn(points: Tensor, pens: Tensor, size: int) -> Tensor:
    """Brightness of each pixel by its distance to the nearest point of a stroke, float64 [n, size, size]."""
    places = torch.arange(size, dtype=torch.float64)
    down = (places[:, None] - points[:, None, :, 0]) ** 2
    across = (places[:, None] - points[:, None, :, 1]) ** 2
    nearest = (down[:, :, None] + across[:, None]).amin(dim=3).sqrt() * (28 / size)
    return torch.sigmoid(_EDGE * (pens[:, None, None] - nearest))


def _normalised(images: Tensor) -> Tensor:
    """Scattering coefficients of mean 0 and variance 1 in each group of channels, float32 [n, coefficients]."""
    return torch.nn.functional.group_norm(scattering(images), CHANNELS // _GROUP, eps=_LEAST).flatten(1)


@lru_cache(maxsize=2)
def _frame(size: int) -> _Frame:
    """With H the figures' centred coefficients by rows and K = H H^T / n: the map (K + r)^(-1/2 - power) H / n^(1/2).

    Where H = U s V^T, it is U times what divides the coordinate in the direction v by (its variance + r)^power, but
    for r: the coordinates by principal directions, turned by U. A linear model and noise alike in all directions do
    not see the turn, and no direction has a sign or an order that machines could choose differently.
    """
    coefficients = torch.cat([_normalised(block) for block in figures(FIGURES, size).split(_BLOCK)]).double()
    mean = coefficients.mean(dim=0)
    rows = (coefficients - mean) / math.sqrt(FIGURES)
    variances, turns = torch.linalg.eigh(rows @ rows.T)
    powers = (variances.clamp(min=0) + _RIDGE * variances[-1]) ** (-0.5 - _POWER)
    raw = (turns * powers) @ turns.T @ rows
    # The figures' coordinates are sqrt(FIGURES) rows @ raw^T, FIGURES for each of them.
    scale = math.sqrt(FIGURES) / torch.linalg.matrix_norm(rows @ raw.T)
    return _Frame(mean.float(), (raw * scale).float())
