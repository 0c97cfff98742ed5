"""Shamir's secret sharing over the field of 2^255 - 19, with decoding around false shares.

A secret is a uniform field element, never a key itself: keys are derived from it (`keys`). Any `threshold` shares give
it back; any fewer are independent of it. Python's integers do not take constant time; nobody but the holder of a
secret times their use.

Source: Shamir 1979, "How to share a secret"; Gao 2003, "A new algorithm for decoding Reed-Solomon codes".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from lepton_fl.secure_aggregation.source import Source

P = 2**255 - 19
_BYTES = 32

_Polynomial = list[int]  # coefficients from the constant up, the last one not zero; [] is zero


@dataclass(frozen=True)
class Decoded:
    """What shares say about a secret once the false ones among them are known."""

    secret: int = field(repr=False)
    false: frozenset[int]  # points whose shares lie off the polynomial


@dataclass(frozen=True)
class _Points:
    """What depends on the points alone, so that many secrets shared on the same points cost it once."""

    at: tuple[int, ...]
    vanishing: tuple[int, ...]  # the monic polynomial that is zero at all of them
    weights: tuple[int, ...]  # barycentric: 1 / product of (x_i - x_j) over j != i
    at_zero: tuple[int, ...]  # Lagrange: the secret is their scalar product with the shares


def element(source: Source) -> int:
    """A uniform field element."""
    while True:
        value = int.from_bytes(source(_BYTES), "little") & (2**255 - 1)
        if value < P:  # all but 19 of 2^255
            return value


def to_bytes(element: int) -> bytes:
    """32 bytes, little-endian; raises ValueError if it is no field element."""
    if not 0 <= element < P:
        raise ValueError("not an element of the field")
    return element.to_bytes(_BYTES, "little")


def from_bytes(encoded: bytes) -> int:
    """The element of exactly these 32 bytes; raises ValueError for any other length, or for P and above."""
    if len(encoded) != _BYTES:
        raise ValueError(f"a field element has {_BYTES} bytes, not {len(encoded)}")
    value = int.from_bytes(encoded, "little")
    if value >= P:
        raise ValueError("not an element of the field")
    return value


def split(secret: int, threshold: int, points: Sequence[int], source: Source) -> dict[int, int]:
    """A share for each point, of which any `threshold` give the secret back and fewer say nothing of it.

    Args:
        secret: a field element.
        threshold: from 1 to the number of points.
        points: distinct and not 0 modulo P, since the share at 0 would be the secret.
        source: of the polynomial's other coefficients.

    Raises:
        ValueError: if a condition above is not met.
    """
    _refuse_unfit(points)
    if not 1 <= threshold <= len(points):
        raise ValueError(f"a threshold of {threshold} does not fit {len(points)} points")
    if not 0 <= secret < P:
        raise ValueError("not an element of the field")
    polynomial = [secret, *(element(source) for _ in range(threshold - 1))]
    return {point: _value(polynomial, point) for point in points}


def combine(shares: Mapping[int, int]) -> int:
    """The value at 0 of the polynomial through exactly these shares, each of which must be true."""
    points = _prepared(tuple(sorted(shares)))
    return sum(weight * shares[point] for weight, point in zip(points.at_zero, points.at, strict=True)) % P


def decode(shares: Mapping[int, int], threshold: int) -> Decoded | None:
    """The secret and the points of the false shares, where at most (shares - threshold) // 2 of them are false.

    Up to that number the answer is the only polynomial of degree below `threshold` so close to the shares; beyond it
    there may be none, and then nothing is returned. More false shares than that, chosen together, can imitate
    another secret: check the answer against its commitment.

    Raises:
        ValueError: if the threshold is below 1 or a point is 0 or doubled modulo P.
    """
    if threshold < 1:
        raise ValueError(f"a threshold of {threshold} hides nothing")
    if len(shares) < threshold:
        return None
    points = _prepared(tuple(sorted(shares)))
    values = [shares[point] % P for point in points.at]
    if _all_on_one_polynomial(points, values, threshold):
        return Decoded(combine(shares), frozenset())
    return _around_false(points, values, threshold)


def _refuse_unfit(points: Sequence[int]) -> None:
    reduced = {point % P for point in points}
    if not points or 0 in reduced or len(reduced) != len(points):
        raise ValueError("the points of shares must be distinct and not zero")


@lru_cache(maxsize=64)  # points are public; no share is ever kept here
def _prepared(at: tuple[int, ...]) -> _Points:
    _refuse_unfit(at)
    vanishing = [1]
    for point in at:
        vanishing = _times_root(vanishing, point)
    slope = [power * factor for power, factor in enumerate(vanishing)][1:]
    weights = _inverses([_value(slope, point) for point in at])
    # L_i(0) = M(0) / (0 - x_i) * w_i, with M the vanishing polynomial.
    over = _inverses([-point for point in at])
    at_zero = [vanishing[0] * part * weight % P for part, weight in zip(over, weights, strict=True)]
    return _Points(at, tuple(vanishing), tuple(weights), tuple(at_zero))


def _all_on_one_polynomial(points: _Points, values: Iterable[int], threshold: int) -> bool:
    """Whether a polynomial of degree below `threshold` goes through all shares: every parity check is zero."""
    terms = [weight * value % P for weight, value in zip(points.weights, values, strict=True)]
    for _ in range(len(points.at) - threshold):
        if sum(terms) % P:
            return False
        terms = [term * point % P for term, point in zip(terms, points.at, strict=True)]
    return True


def _around_false(points: _Points, values: list[int], threshold: int) -> Decoded | None:
    """Gao's decoder: a partial Euclid on the vanishing polynomial and the interpolant, then a division.

    Whatever the division gives counts only if it is close enough to the shares, and only one polynomial can be.
    """
    count = len(values)
    high, low = list(points.vanishing), _interpolant(points, values)
    before: _Polynomial = []
    locator: _Polynomial = [1]
    while 2 * (len(low) - 1) >= count + threshold:
        quotient, rest = _divided(high, low)
        high, low = low, rest
        before, locator = locator, _minus_product(before, quotient, locator)
    polynomial, _ = _divided(low, locator)
    if len(polynomial) > threshold:
        return None
    false = frozenset(
        point for point, value in zip(points.at, values, strict=True) if _value(polynomial, point) != value
    )
    if 2 * len(false) > count - threshold:
        return None
    return Decoded(_value(polynomial, 0), false)


def _interpolant(points: _Points, values: list[int]) -> _Polynomial:
    """The polynomial of least degree through all shares."""
    total = [0] * len(values)
    for point, weight, value in zip(points.at, points.weights, values, strict=True):
        factor, carried = weight * value % P, 0
        for power in reversed(range(len(total))):  # M / (x - x_i) by Horner's scheme
            carried = (points.vanishing[power + 1] + carried * point) % P
            total[power] = (total[power] + factor * carried) % P
    return _trimmed(total)


def _value(polynomial: Sequence[int], at: int) -> int:
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * at + coefficient) % P
    return total


def _times_root(polynomial: _Polynomial, root: int) -> _Polynomial:
    return [(low - root * high) % P for low, high in zip([0, *polynomial], [*polynomial, 0], strict=True)]


def _trimmed(polynomial: _Polynomial) -> _Polynomial:
    while polynomial and not polynomial[-1]:
        polynomial.pop()
    return polynomial


def _divided(high: _Polynomial, low: _Polynomial) -> tuple[_Polynomial, _Polynomial]:
    """Quotient and remainder; `low` is not zero."""
    rest, leading = list(high), pow(low[-1], -1, P)
    quotient = [0] * max(len(high) - len(low) + 1, 0)
    for shift in reversed(range(len(quotient))):
        factor = rest[shift + len(low) - 1] * leading % P
        quotient[shift] = factor
        for power, coefficient in enumerate(low):
            rest[shift + power] = (rest[shift + power] - factor * coefficient) % P
    return _trimmed(quotient), _trimmed(rest)


def _minus_product(first: _Polynomial, second: _Polynomial, third: _Polynomial) -> _Polynomial:
    """first - second * third."""
    total = first + [0] * max(len(second) + len(third) - 1 - len(first), 0)
    for shift, factor in enumerate(second):
        for power, coefficient in enumerate(third):
            total[shift + power] = (total[shift + power] - factor * coefficient) % P
    return _trimmed(total)


def _inverses(values: Sequence[int]) -> list[int]:
    """The inverse of each, for the price of one inversion (Montgomery's trick); none may be zero."""
    products = [1]
    for value in values:
        products.append(products[-1] * value % P)
    inverse, inverses = pow(products[-1], -1, P), [0] * len(values)
    for place in reversed(range(len(values))):
        inverses[place] = inverse * products[place] % P
        inverse = inverse * values[place] % P
    return inverses
