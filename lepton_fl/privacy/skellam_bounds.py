"""What one person's vector can do to a rounded integer sum, and how much Skellam noise hides that.

Three steps lead from a clipped sum to a noise multiplier that a Renyi accountant of the Gaussian can use.

1. *Rounding.* With the same dither u, round(x + v) - round(x) is, over u, a stochastic rounding of v, whatever x is:
   floor(x + v + u) - floor(x + u), and the fraction of x + u is uniform. So its norm is bounded by the norm of v alone,
   but for a chance of 2^-52, which is charged to delta.
2. *Noise.* At every whole order a, a shift by whole numbers of norm D under Skellam noise of variance mu diverges by
   at most a D^2 / (2 mu) * (1 + 2.5 / mu): as under Gaussian noise of the multiplier sqrt(mu / (1 + 2.5 / mu)) / D.
3. *Sampling.* Skellam noise is symmetric, so y -> w - y exchanges the noise and the noise shifted by w. Among such
   pairs, and at a sampling rate q, the divergence of (1 - q) Q + q P from Q is the larger of the two, and at a whole
   order a it is the binomial sum over the moments 0..a of P / Q, which step 2 bounds one by one. The result is the
   formula of the sampled Gaussian, at whole orders; `docs/decisions/021-shared-noise.md` has the proof.

Source: Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism", theorem 1 (rounding); Agarwal,
Kairouz and Liu 2021, "The Skellam Mechanism", theorem 3.5 (noise); Mironov, Talwar and Zhang 2019, "Renyi Differential
Privacy of the Sampled Gaussian Mechanism", theorem 5 (which of the two divergences is the larger).
"""

from __future__ import annotations

import math

ROUNDING_FAILURE = 2.0**-52  # chance that a rounded contribution is longer than `rounded_norm` says
_SPREAD = math.sqrt(-2 * math.log(ROUNDING_FAILURE))
# (2 a - 1) D^2 / 4 mu^2 + 6 D_1 / 4 mu^2 with D_1 <= D^2 and a >= 2, over a D^2 / 2 mu.
_EXCESS = 2.5


def rounded_norm(norm: float, parameters: int) -> float:
    """At most the L2 norm of a stochastic rounding of a vector of this norm, but for a chance of 2^-52.

    Args:
        norm: L2, in units of the grid, >= 0.
        parameters: d, coordinates of the vector.

    The square of a rounded coordinate has two values, at most 2 |x| + 1 apart, and adds at most 1 / 4 to its mean:
    Hoeffding's inequality. The second bound holds always.
    """
    root = math.sqrt(parameters)
    return math.sqrt(min(norm**2 + parameters / 4 + _SPREAD * (norm + root / 2), (norm + root) ** 2))


def multiplier(variance: float, sensitivity: float) -> float:
    """The Gaussian noise multiplier whose divergence, at every whole order, is no less than this Skellam noise's.

    Args:
        variance: of the noise in the sum, in squared units of the grid, > 0.
        sensitivity: L2, of a shift by whole numbers, in units of the grid, > 0.
    """
    return math.sqrt(variance / (1 + _EXCESS / variance)) / sensitivity


def variance_for(noise_multiplier: float, sensitivity: float) -> float:
    """The variance at which `multiplier` is at least this one, and hardly more."""
    return (noise_multiplier * sensitivity) ** 2 + _EXCESS


def divergence(variance: float, sensitivity: float, order: int) -> float:
    """At most the Renyi divergence of a whole order >= 2 between Skellam noise and the same, shifted by whole numbers.

    Args:
        variance: of the noise, in squared units of the grid.
        sensitivity: L2 norm of the shift; the L1 norm of a vector of whole numbers is at most its square.
    """
    square = sensitivity**2
    further = ((2 * order - 1) * square + 6 * square) / (4 * variance**2)
    return order * square / (2 * variance) + min(further, 3 * square / (2 * variance))
