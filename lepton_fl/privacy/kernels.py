"""The two loops over single numbers that private training spends its time in, in C where that could be built.

`kernels.c` and numpy do the same operations in the same order, each of which IEEE 754 rounds alike everywhere, so both
give the same bits, which tests compare: what is missing without a C compiler is speed.

The decision: docs/decisions/032-compiled-noise.md.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_fl.compiled import library_of

_log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_suffix(".c")
_TYPES = {torch.float32: "float32", torch.float64: "float64"}

_LOG_2 = math.log(2)
_EIGHTH_TURN = math.pi / 4 * 2.0**-53
_ROOT_OF_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1/2) as a float64

_Words = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scales:
    """The numbers of `OnGrid`."""

    per_step: float
    stddev: float  # in steps of the grid
    gain: float
    share: float = 0.0


@dataclass(frozen=True)
class Library:
    """The compiled loops; addresses and counts go in, as `kernels.c` has them."""

    box_muller: Callable[[int, int, int], None]
    on_grid: Mapping[tuple[torch.dtype, torch.dtype], Callable[[int, int, int | None, int, int, int], None]]


@lru_cache(maxsize=1)
def library() -> Library | None:
    """What `kernels.c` was made into; None where it was not, or another source was, which is said in the log."""
    found = library_of(SOURCE)
    if found is None:
        _log.warning(
            "noise is drawn by numpy: the same numbers, at a tenth of the speed; "
            "installing again where there is a C compiler (cc) builds %s",
            SOURCE.name,
        )
        return None
    address, count = ctypes.c_void_p, ctypes.c_size_t
    box_muller = found.lepton_box_muller
    box_muller.argtypes, box_muller.restype = [address, address, count], None
    on_grid = {}
    for (of, name_of), (to, name_to) in product(_TYPES.items(), repeat=2):
        function = getattr(found, f"lepton_on_grid_{name_of}_{name_to}")
        function.argtypes, function.restype = [address, address, address, address, count, address], None
        on_grid[of, to] = function
    return Library(box_muller, on_grid)


def box_muller(words: Tensor, out: Tensor) -> None:
    """out = independent standard normal numbers, float64 [n], n even, of independent uniform words, int64 [n or more].

    The first n / 2 words are radii, the next ones angles; of a pair, one number goes to each half of `out`.
    """
    compiled, count = library(), out.shape[0]
    is_fit = out.dtype is torch.float64 and words.dtype is torch.int64 and count % 2 == 0 and words.shape[0] >= count
    if not is_fit or not (_is_in_a_row(out) and _is_in_a_row(words)):
        raise ValueError("a kernel was given what are not pairs of numbers in a row; this is a bug")
    if compiled is not None:
        compiled.box_muller(words.data_ptr(), out.data_ptr(), count // 2)
        return
    bits, numbers, pairs = words.numpy().view(np.uint64), out.numpy(), count // 2
    radius, (along, across) = _radii(bits[:pairs]), _directions(bits[pairs:count])
    np.multiply(radius, along, out=numbers[:pairs])
    np.multiply(radius, across, out=numbers[pairs:])


def _is_in_a_row(tensor: Tensor) -> bool:
    """Whether a kernel may read it by its address."""
    return tensor.is_cpu and tensor.is_contiguous()


def _radii(words: _Words) -> _Floats:
    # u = (word + 1) / 2^64 is uniform in (0, 1], and u = m * 2^e with m between sqrt(1/2) and sqrt(2).
    bits = (words.astype(np.float64) + 1.0).view(np.int64)
    exponent = (bits - _ROOT_OF_HALF) >> 52
    m = (bits - (exponent << 52)).view(np.float64)
    # ln m = 2 artanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...), |s| < 0.172
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 2 / 17 + z * (2 / 19)
    p = 2 / 11 + z * (2 / 13 + z * (2 / 15 + z * p))
    p = 2.0 + z * (2 / 3 + z * (2 / 5 + z * (2 / 7 + z * (2 / 9 + z * p))))
    radii: _Floats = np.sqrt(-2.0 * ((exponent - 64.0) * _LOG_2 + s * p))
    return radii


def _directions(words: _Words) -> tuple[_Floats, _Floats]:
    """An angle within an eighth of a turn of the axis that two bits choose, as coordinates."""
    a = (words.view(np.int64) >> 10) * _EIGHTH_TURN
    z = a * a
    p = 1 / 362880 + z * (-1 / 39916800 + z * (1 / 6227020800 + z * (-1 / 1307674368000)))
    across = a * (1.0 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * p))))
    p = 1 / 40320 + z * (-1 / 3628800 + z * (1 / 479001600 + z * (-1 / 87178291200)))
    along = 1.0 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * p)))
    along = np.where(words & 2, -along, along)
    is_turned = (words & 1).astype(np.bool_)
    return np.where(is_turned, across, along), np.where(is_turned, along, across)


class OnGrid:
    """out = share * values + gain * round(round(total * per_step) + stddev * noise), in float64, then rounded."""

    def __init__(self, total: Tensor, out: Tensor, values: Tensor | None, scales: Scales) -> None:
        """
        Args:
            total: float32 or float64 [d] on the CPU, as the next ones; each number lies beside the next.
            out: may be `total`, or `values`.
            values: of the type of `out`; None: not added.
        """
        tensors = [total, out] if values is None else [total, out, values]
        if any(one.shape != (len(total),) or not _is_in_a_row(one) or one.dtype not in _TYPES for one in tensors):
            raise ValueError("a kernel was given what is not d numbers in a row; this is a bug")
        if values is not None and values.dtype is not out.dtype:
            raise ValueError("a kernel adds to values of another type; this is a bug")
        self._tensors, self._scales, self._count = (total, out, values), scales, len(total)
        self._numbers = (ctypes.c_double * 4)(scales.per_step, scales.stddev, scales.gain, scales.share)

    def part(self, start: int, noise: Tensor) -> None:
        """What begins at `start`, for so much noise, float64."""
        (total, out, values), count, compiled = self._tensors, noise.shape[0], library()
        if start < 0 or start + count > self._count:
            raise ValueError("a kernel was asked for a part beyond the end; this is a bug")
        if noise.dtype is not torch.float64 or not _is_in_a_row(noise):
            raise ValueError("a kernel was given noise that is no float64 in a row; this is a bug")
        if compiled is None:
            self._by_numpy(slice(start, start + count), noise.numpy())
            return
        added = None if values is None else values.data_ptr() + start * values.itemsize
        compiled.on_grid[total.dtype, out.dtype](
            noise.data_ptr(),
            total.data_ptr() + start * total.itemsize,
            added,
            out.data_ptr() + start * out.itemsize,
            count,
            ctypes.addressof(self._numbers),
        )

    def _by_numpy(self, place: slice, noise: _Floats) -> None:
        (total, out, values), scales = self._tensors, self._scales
        made = total[place].numpy().astype(np.float64) * scales.per_step
        made = scales.gain * np.rint(np.rint(made) + scales.stddev * noise)
        if values is not None:
            made += scales.share * values[place].numpy().astype(np.float64)
        out.numpy()[place] = made
