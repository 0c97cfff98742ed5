"""A batch in portions that float32 adds up well.

The clipped sum of a portion is one of float32. n terms that are much alike round it by up to n^2 2^-24 clipping norms,
and how they round depends on who is in the batch; so a portion is small, and portions are added up in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lepton_fl.training.examples import Examples

MOST = 512  # records


def portions(batch: Examples, owners: Tensor | None) -> Iterator[tuple[Examples, Tensor | None]]:
    """Parts of at most 512 records, but for an owner who has more: no owner is split.

    Args:
        owners: int64 [n], 0..owners-1, in any order; in each part they are numbered anew.
    """
    if len(batch) <= MOST:
        yield batch, owners
    elif owners is None:
        for start in range(0, len(batch), MOST):
            yield _at(batch, slice(start, start + MOST)), None
    else:
        order = torch.argsort(owners, stable=True)
        ends = torch.bincount(owners).cumsum(0).tolist()
        start = 0
        for number, end in enumerate(ends):
            following = ends[min(number + 1, len(ends) - 1)]
            if following - start > MOST or number == len(ends) - 1:
                yield taken(batch, owners, order[start:end])
                start = end


def taken(batch: Examples, owners: Tensor | None, index: Tensor) -> tuple[Examples, Tensor | None]:
    """The records at these positions, int64 [m], their owners numbered anew."""
    if owners is not None:
        owners = torch.unique(owners[index], return_inverse=True)[1]
    return _at(batch, index), owners


def _at(batch: Examples, index: Tensor | slice) -> Examples:
    weights = None if batch.weights is None else batch.weights.to(batch.features.device)[index]
    return Examples(batch.features[index], batch.labels[index], weights=weights)
