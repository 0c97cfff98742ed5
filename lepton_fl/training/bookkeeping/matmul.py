"""Products of matrices by oneDNN where that is worth it, at twice the speed of torch's own on some processors.

torch hands float32 products on a CPU to MKL, which does not use all of an AMD processor: on EPYC (Zen 5) about 90
GFLOP/s a core, where oneDNN, a part of torch too, does 200. Its kernel has no public door in torch, so it is taken
only in the form known here; on other devices, in other types and in a torch without it, torch's own product is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

_SCHEMA = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y",
    "mkldnn::_linear_pointwise.binary(Tensor X, Tensor other, Tensor W, Tensor? B, str attr) -> Tensor Y",
)
# Numbers of a weight from which its products are worth it. The size of the batch has no say: a record's gradient must
# not round otherwise because one neighbour more makes the batch large enough for another kernel.
WORTH_IT = 1 << 14
_PART = 1 << 17  # numbers of a product that there are at once


def _kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]] | None:
    """oneDNN's product, and the one that adds to a matrix; None where this torch has neither, or others."""
    packet = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if packet is None or not {"default", "binary"} <= set(packet.overloads()):
        return None
    if (str(packet.default._schema), str(packet.binary._schema)) != _SCHEMA:
        return None
    return packet.default, packet.binary


_KERNELS = _kernels() if torch.backends.mkldnn.is_available() else None


def times_transposed(x: Tensor, w: Tensor, bias: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    """x @ w.T, plus `bias` in every row, plus `added`; nothing of it is for autograd to go through.

    Args:
        x: [..., k]; it is copied where its rows do not follow one another.
        w: [n, k], in whatever order it lies.
        bias: [n].
        added: [..., n], left as it is.
    """
    if _KERNELS is not None and _fits(w.numel(), w, x):
        plain, adding = _KERNELS
        return plain(x, w, bias, "none", [], "") if added is None else adding(x, added, w, bias, "add")
    product = F.linear(x, w, bias)
    return product if added is None else product.add_(added)


def product(g: Tensor, a: Tensor) -> Tensor:
    """g.T @ a, of a weight's shape [p, d].

    Args:
        g: [n, p].
        a: [n, d].
    """
    if _KERNELS is None or not _fits(g.shape[1] * a.shape[1], g, a):
        return torch.mm(g.t(), a)
    # The first factor is copied: let it be the smaller one.
    if g.shape[1] <= a.shape[1]:
        return _KERNELS[0](g.t(), a.t(), None, "none", [], "")
    return _KERNELS[0](a.t(), g.t(), None, "none", [], "").t()


def add_product(out: Tensor, g: Tensor, a: Tensor, factors: Tensor) -> None:
    """Add g.T @ diag(factors) @ a to `out`, [p, d].

    Args:
        factors: [n].
        g, a: of `product`.
    """
    is_wide = a.shape[1] > g.shape[1]
    if _KERNELS is None or not _fits(out.numel(), g, a):
        scale = factors[:, None]
        out.addmm_((g * scale).t(), a) if is_wide else out.addmm_(g.t(), a * scale)
        return
    first, second, into = (g, a, out) if is_wide else (a, g, out.t())
    # Laid out as the kernel wants it, which would make a copy of its own; and part by part: a product is as large as
    # the weight itself.
    scaled, other = first.new_empty(first.shape[1], len(first)), second.t()
    torch.mul(first.t(), factors, out=scaled)
    rows = max(1, _PART // len(other))
    for left, part in zip(scaled.split(rows), into.split(rows), strict=True):
        part.add_(_KERNELS[0](left, other, None, "none", [], ""))


def _fits(weight: int, *factors: Tensor) -> bool:
    return (
        weight >= WORTH_IT
        and all(each.dtype is torch.float32 and each.device.type == "cpu" for each in factors)
        and bool(torch.backends.mkldnn.enabled)
    )
