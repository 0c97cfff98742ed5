"""All steps of a chunk through a dense network, in C where that could be built: see `factored`, `products.c`.

Members are walked one after another, each of them all its steps, so that its records and what is made of them stay in a
core's cache; no call of torch's is between two layers, where a call costs as much as the product of 20 records.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lepton_fl.compiled import library_of
from lepton_fl.training.cohort import products
from lepton_fl.training.cohort.chunks import Descent, Records

SOURCE = Path(__file__).with_suffix(".c")


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """What the source was made into; None where it was not, or is no faster: torch computes the same then."""
    found = library_of(SOURCE)
    if found is None or not found.lepton_is_wide():
        return None
    found.lepton_walk.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return found


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("inputs", "outputs", "bend")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "seen", "slopes")),
        *((name, ctypes.c_size_t) for name in ("seen_member", "slopes_member")),
        *((name, ctypes.c_void_p) for name in ("own", "own_bias")),
    ]


class _Walk(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("members", "records", "steps", "layers")),
        *((name, ctypes.c_void_p) for name in ("ends", "of_start", "taken")),
        *((name, ctypes.c_float) for name in ("rate", "keep", "back")),
        *((name, ctypes.c_void_p) for name in ("labels", "shares", "first", "made", "likeness", "squares")),
    ]


@dataclass(frozen=True)
class Memory:
    """What is held of a dense layer, float32."""

    weight: Tensor  # of the start, [out, in]
    bias: Tensor | None  # [out]
    seen: Tensor | None  # the inputs of all steps, [members, records, in]; None: nobody needs them afterwards
    slopes: Tensor | None  # its outputs' scaled gradients, [members, records, out]
    own: Tensor | None  # each member's weight, [members, out, in]; None: it is not written down
    own_bias: Tensor | None


class Walker:
    """The walk of chunks that are alike, in memory that is used again."""

    def __init__(self, bends: Sequence[int], widths: Sequence[tuple[int, int]], sizes: Sequence[int]) -> None:
        """
        Args:
            bends: of `layers.bends_of`.
            widths: inputs and outputs of each layer.
            sizes: records of each step.
        """
        self._bends, self._sizes, records = bends, sizes, sum(sizes)
        ends = torch.tensor([0, *sizes]).cumsum(0)
        most = max(map(max, widths))
        self._rooms = [torch.empty(records, one) for one in (widths[0][1], most, records)]
        self._spare = [(torch.empty(records, one), torch.empty(records, other)) for one, other in widths]
        self._ends, self._layers = ends, (_Layer * len(bends))()
        self._walk = _Walk(records=records, steps=len(sizes), layers=len(bends), ends=ends.data_ptr())
        self._squares = torch.zeros(len(bends), 2, dtype=torch.float64)
        self._walk.squares = self._squares.data_ptr()
        self._walk.first, self._walk.made, self._walk.likeness = (one.data_ptr() for one in self._rooms)

    def can_take(self, layers: Sequence[Memory], records: Records) -> bool:
        """Whether members with this memory can be walked, and nobody is faster."""
        weights = [one.weight for one in layers]
        is_whole = all(one.is_contiguous() for one in [*weights, records.features, records.labels, records.shares])
        is_whole &= math.prod(records.features.shape[2:]) == weights[0].shape[1]
        return is_whole and library() is not None and products.are_faster(*weights, records.shares)

    def take(self, layers: Sequence[Memory], records: Records, descent: Descent) -> list[list[float]]:
        """Every member's steps, told by what `layers` hold after it; of each layer the squares of that, added up.

        They are two numbers for a layer: of its inputs, and of its outputs' scaled gradients.

        Raises:
            IndexError: a label is none of the outputs.
        """
        of_start, taken = _stands(descent, tuple(self._sizes))
        whole = self._walk
        whole.members, whole.of_start, whole.taken = len(records.labels), of_start.data_ptr(), taken.data_ptr()
        whole.rate, whole.keep, whole.back = descent.rate, descent.keep, descent.back
        whole.labels, whole.shares = records.labels.data_ptr(), records.shares.data_ptr()
        self._squares.zero_()
        for place, bend, held, spare in zip(self._layers, self._bends, layers, self._spare, strict=True):
            _tell(place, bend, held, spare)
        compiled = library()
        assert compiled is not None  # noqa: S101 - see `can_take`
        if not compiled.lepton_walk(ctypes.byref(whole), self._layers):
            raise IndexError("a label is none of the model's outputs")
        squares: list[list[float]] = self._squares.tolist()
        return squares


@lru_cache(maxsize=64)
def _stands(descent: Descent, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """How much of the start is in the values before each step, and of each earlier record's gradient is off them."""
    taken = torch.zeros(len(sizes), sum(sizes))
    for step in range(len(sizes)):
        each = descent.of_steps(step)
        taken[step, : sum(sizes[:step])] = torch.tensor(
            [one for one, size in zip(each, sizes, strict=False) for _ in range(size)]
        )
    return torch.tensor([descent.of_start(step) for step in range(len(sizes))]), taken


def _tell(place: _Layer, bend: int, held: Memory, spare: tuple[Tensor, Tensor]) -> None:
    """Where a layer's memory is."""
    outputs, inputs = held.weight.shape
    place.inputs, place.outputs, place.bend = inputs, outputs, bend
    place.weight, place.bias = held.weight.data_ptr(), _address(held.bias)
    seen, slopes = (one if own is None else own for own, one in zip((held.seen, held.slopes), spare, strict=True))
    place.seen, place.seen_member = seen.data_ptr(), 0 if held.seen is None else seen.stride(0)
    place.slopes, place.slopes_member = slopes.data_ptr(), 0 if held.slopes is None else slopes.stride(0)
    place.own, place.own_bias = _address(held.own), _address(held.own_bias)


def _address(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()
