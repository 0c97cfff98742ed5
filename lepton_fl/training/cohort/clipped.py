"""The clipped sum of each member's records through a dense network, in C where that could be built: see `clipped.c`.

One member after another, from its records to its sum: what is made of them, and the member's own values, stay in a
core's cache, and the noise that is added next finds the sum there.

Source: as `lowered`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lepton_fl.compiled import library_of
from lepton_fl.training.clipped_sum import LARGEST_NORM
from lepton_fl.training.cohort import products
from lepton_fl.training.cohort.chunks import Batch, Room
from lepton_fl.training.cohort.layers import Dense, Layer, bends_of

SOURCE = Path(__file__).with_suffix(".c")
_NOWHERE = ctypes.c_size_t(-1).value


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """What the source was made into; None where it was not, or is no faster: torch computes the same then."""
    found = library_of(SOURCE)
    if found is None or not found.lepton_is_wide():
        return None
    found.lepton_clipped.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_void_p] * 4]
    return found


class _Dense(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("inputs", "outputs", "bend", "weight", "bias")),
        *((name, ctypes.c_void_p) for name in ("seen", "slopes")),
    ]


class _Clipping(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("layers", "nowhere")),
        *((name, ctypes.c_double) for name in ("norm", "most")),
        *((name, ctypes.c_void_p) for name in ("made", "squares")),
    ]


class ClippedSums:
    """See the module; in memory that is used again."""

    def __init__(self, layers: Sequence[Layer], bends: Sequence[int]) -> None:
        """
        Args:
            layers: of `lowered.lower`.
            bends: of `layers.bends_of` for them.
        """
        self._layers = (_Dense * len(bends))()
        self._room = Room(torch.float32)
        self._squares = Room(torch.float64)
        self._clipping = _Clipping(layers=len(bends), nowhere=_NOWHERE)
        self._records = -1
        dense = (one for one in layers if isinstance(one, Dense))
        for place, one, bend in zip(self._layers, dense, bends, strict=True):
            place.outputs, place.inputs = one.weight.shape
            place.bend, place.weight = bend, one.weight.start
            place.bias = _NOWHERE if one.bias is None else one.bias.start

    def can_take(self, values: Tensor, batch: Batch) -> bool:
        """Whether these are where the loops in C can read them, and nobody is faster."""
        features, labels, weights = batch.features, batch.labels, batch.weights
        if library() is None or math.prod(features.shape[2:]) != self._layers[0].inputs:
            return False
        in_order = [values, features, labels, *([] if weights is None else [weights])]
        return products.are_faster(values, features) and all(one.is_contiguous() for one in in_order)

    def clipped(self, values: Tensor, batch: Batch, target: float, rows: Sequence[Tensor]) -> Iterator[int]:
        """See `together.Gradients.clipped`.

        Raises:
            IndexError: a label is none of the outputs.
        """
        self._fit(batch.labels.shape[1])
        whole, compiled = self._clipping, library()
        assert compiled is not None  # noqa: S101 - see `can_take`
        whole.norm, whole.most = target, LARGEST_NORM * target
        of_member = values.stride(0) if values.dim() == 2 else 0
        first = self._layers[0]
        features, labels, weights = batch.features, batch.labels, batch.weights
        for member, count in enumerate(batch.counts.tolist()):
            if not count:  # where nobody drew anybody there is no memory to tell of
                rows[member].zero_()
                yield member
                continue
            first.seen = features.data_ptr() + 4 * member * features.stride(0)
            if not compiled.lepton_clipped(
                ctypes.byref(whole),
                self._layers,
                int(count),
                values.data_ptr() + 4 * member * of_member,
                labels.data_ptr() + 8 * member * labels.stride(0),
                None if weights is None else weights.data_ptr() + 8 * member * weights.stride(0),
                rows[member].data_ptr(),
            ):
                raise IndexError("a label is none of the model's outputs")
            yield member

    def _fit(self, records: int) -> None:
        """There is room for so many records of one member."""
        if records <= self._records:
            return
        here, layers = torch.device("cpu"), self._layers
        inputs, outputs = [one.inputs for one in layers], [one.outputs for one in layers]
        sizes = [records * width for width in (max(inputs + outputs), *inputs[1:], *outputs)]
        made, *rest = (part.data_ptr() for part in self._room.of((sum(sizes),), here).split(sizes))
        self._clipping.made, self._clipping.squares = made, self._squares.of((records,), here).data_ptr()
        # The first layer's inputs lie where they were gathered.
        for place, seen, slopes in zip(layers, [0, *rest[: len(inputs) - 1]], rest[len(inputs) - 1 :], strict=True):
            place.seen, place.slopes = seen, slopes
        self._records = records


def clipped_sums(layers: Sequence[Layer]) -> ClippedSums | None:
    """Of such a network; None where its bends are not known in C."""
    bends = bends_of(layers)
    return None if bends is None else ClippedSums(layers, bends)
