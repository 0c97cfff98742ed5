"""Products of each member's own matrices: in C where that could be built, else torch's.

torch hands a batch of small products to MKL, which reaches 60 to 80 GFLOP/s a core on EPYC (Zen 5) where a member has
20 records; the loops of `products.c` reach 110 to 200. They are taken on processors with AVX-512, whose registers they
fit.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lepton_fl.compiled import library_of

SOURCE = Path(__file__).with_suffix(".c")
_ADDRESS, _COUNT, _NUMBER = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float
_ARGUMENTS = {
    "times_transposed": [
        *[_COUNT] * 4,
        *[_ADDRESS, _COUNT, _COUNT] * 2,
        *[_ADDRESS, _COUNT, _NUMBER],
        *[_ADDRESS, _COUNT, _COUNT, _COUNT],
    ],
    "add_product": [
        *[_COUNT] * 4,
        *[_ADDRESS, _COUNT, _COUNT, _COUNT],
        *[_ADDRESS, _COUNT, _COUNT] * 3,
        *[_NUMBER, _NUMBER],
    ],
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """What the source was made into; None where it was not, or is no faster: torch computes the same then."""
    found = library_of(SOURCE)
    if found is None or not found.lepton_is_wide():
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, f"lepton_{name}")
        function.argtypes, function.restype = arguments, None
    return found


def times_transposed(
    x: Tensor, w: Tensor, bias: Tensor | None = None, more: float = 0.0, out: Tensor | None = None
) -> Tensor:
    """x @ w.T of each member, and its `bias` in every row, and `more` everywhere; float32.

    Args:
        x: [members, n, k].
        w: [members, m, k].
        bias: [members, m].
        out: where it is to be, [members, n, m] in whatever order it lies.
    """
    if out is None:
        out = torch.empty(x.shape[0], x.shape[1], w.shape[1], device=x.device)
    compiled = _fitting(x, w, *(() if bias is None else (bias,)))
    if compiled is None or out.dtype is not torch.float32:
        torch.bmm(x, w.mT, out=out) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, w.mT, out=out)
        return out.add_(more) if more else out
    start = (None, 0) if bias is None else (bias.data_ptr(), bias.stride(0))
    compiled.lepton_times_transposed(
        *out.shape, x.shape[2], *_rows(x), *_rows(w), *start, more, out.data_ptr(), *out.stride()
    )
    return out


def times(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of each member: see `add_product`."""
    return add_product(torch.empty(*a.shape[:2], b.shape[2], device=a.device), a, b, keep=0.0)


def add_product(
    out: Tensor, a: Tensor, b: Tensor, keep: float = 1.0, scale: float = 1.0, before: Tensor | None = None
) -> Tensor:
    """out = keep * before + scale * a @ b of each member; float32.

    Args:
        out: [members, n, m].
        a: [members, n, k], in whatever order it lies.
        b: [members, k, m].
        keep: 0: nothing of `before` is read.
        before: `out`'s shape; None: `out` itself.
    """
    first = out if before is None else before
    compiled = _fitting(b, out, first)
    if compiled is None or a.dtype is not torch.float32:
        return torch.baddbmm(first, a, b, beta=keep, alpha=scale, out=out)
    compiled.lepton_add_product(
        *out.shape, a.shape[2], a.data_ptr(), *a.stride(), *_rows(b), *_rows(first), *_rows(out), keep, scale
    )
    return out


def are_faster(*matrices: Tensor) -> bool:
    """Whether products of these are in C, and so the fastest there are."""
    return _fitting(*matrices) is not None


def _fitting(*matrices: Tensor) -> ctypes.CDLL | None:
    """The library, where it can read these."""
    for one in matrices:
        if one.dtype is not torch.float32 or one.device.type != "cpu" or (one.stride(-1) != 1 and one.shape[-1] != 1):
            return None
    return library()


def _rows(matrix: Tensor) -> tuple[int, int, int]:
    """Where it lies, and how far apart members and rows are."""
    members, rows, _ = matrix.stride()
    return matrix.data_ptr(), members, rows
