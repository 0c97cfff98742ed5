"""Passes over the records of a small dense network, in C where that could be built: see `dense_kernels.c`.

n records, in tensors on the CPU whose rows follow one another and may be longer than what is used of them.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from lepton_fl.compiled import library_of

SOURCE = Path(__file__).with_suffix(".c")
_ADDRESS, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_double
_ARGUMENTS = {
    "lay": [_ADDRESS] * 4 + [_COUNT] * 3,
    "multiply": [_COUNT, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _ADDRESS, _COUNT, _COUNT],
    "measure": [_COUNT, _ADDRESS, _COUNT, _COUNT, _NUMBER, _ADDRESS],
    "slopes": [_COUNT, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT],
    "clip": [_COUNT, _ADDRESS, _COUNT, _COUNT, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS, _ADDRESS],
    "add_outer": [_COUNT, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _COUNT, _ADDRESS, _COUNT, _COUNT],
    "add_rows": [_COUNT, _ADDRESS, _ADDRESS, _ADDRESS, _COUNT],
    "add_turned": [_ADDRESS, _ADDRESS, _COUNT, _COUNT],
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """What the source was made into; None where it was not, or another source was: torch computes the same then."""
    found = library_of(SOURCE)
    if found is None:
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, f"lepton_{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int if name == "clip" else None
    return found


class Passes:
    """The passes; only where there is a library."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled

    def lay(self, w: Tensor, bias: Tensor | None, turned: Tensor, start: Tensor) -> None:
        """turned[:, :p] = w.T and start[:p] = bias, of a weight [p, d] and a bias [p]; the rest is left alone."""
        given = None if bias is None else bias.data_ptr()
        self._compiled.lepton_lay(w.data_ptr(), given, turned.data_ptr(), start.data_ptr(), *w.shape, turned.shape[1])

    def multiply(self, records: int, x: Tensor, w: Tensor, start: Tensor, out: Tensor) -> None:
        """out = x[:, :k] @ w + start, of w [k, m], start [m] and out [.., m]."""
        pointers = (w.data_ptr(), start.data_ptr(), out.data_ptr())
        self._compiled.lepton_multiply(records, x.data_ptr(), x.shape[1], *pointers, *w.shape)

    def measure(self, records: int, rows: Tensor, width: int, more: float, out: Tensor) -> None:
        """out[i] = the squared length of a row's first `width` numbers, and `more`, float64."""
        self._compiled.lepton_measure(records, rows.data_ptr(), rows.shape[1], width, more, out.data_ptr())

    def slopes(self, records: int, outputs: Tensor, labels: Tensor, out: Tensor) -> None:
        """out = what cross-entropy changes by with each output, [n, classes]: `examples.loss_gradient`."""
        pointers = (labels.data_ptr(), out.data_ptr())
        self._compiled.lepton_slopes(records, outputs.data_ptr(), outputs.shape[1], *pointers, out.shape[1])

    def clip(
        self,
        records: int,
        squared: Tensor,
        bounds: tuple[float, float],
        weights: Tensor | None,
        out: tuple[Tensor, Tensor],
    ) -> bool:
        """What each record's gradient is multiplied by, float32, and its length, float64; whether none is broken.

        Args:
            squared: float64 [layers, 2, n], of each layer's inputs and outputs' gradients: their products add up.
            bounds: the norm to clip to, and the norm from which on a record is broken.
            weights: float64 [n]; None: all count 1.
        """
        given, (factors, norms) = None if weights is None else weights.data_ptr(), out
        shape = (squared.data_ptr(), squared.shape[0], squared.shape[2])
        return bool(self._compiled.lepton_clip(records, *shape, *bounds, given, factors.data_ptr(), norms.data_ptr()))

    def add_outer(self, records: int, factors: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
        """out += the sum over records of factor * x_i y_i^T, [rows, columns]."""
        pairs = (x.data_ptr(), x.shape[1], y.data_ptr(), y.shape[1])
        self._compiled.lepton_add_outer(records, factors.data_ptr(), *pairs, out.data_ptr(), *out.shape)

    def add_rows(self, records: int, factors: Tensor, y: Tensor, out: Tensor) -> None:
        """out += the sum over records of factor * y_i, [columns]."""
        self._compiled.lepton_add_rows(records, factors.data_ptr(), y.data_ptr(), out.data_ptr(), len(out))

    def add_turned(self, turned: Tensor, out: Tensor) -> None:
        """out += turned.T"""
        self._compiled.lepton_add_turned(turned.data_ptr(), out.data_ptr(), *out.shape)
