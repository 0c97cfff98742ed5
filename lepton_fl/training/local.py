"""What one round of local training is told, and the pull that keeps it near the round's model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from lepton_fl.privacy.randomness import Randomness


@dataclass(frozen=True)
class LocalTask:
    """What varies from round to round and institution to institution."""

    round: int  # from 1
    proximal_mu: float  # pull towards the round's model; 0 for none
    randomness: Randomness  # of this institution and round
    weights: npt.NDArray[np.float64] | None = None  # [cells, labels], of a record by group and label; None: all equal


class ProximalPull:
    """FedProx's term mu / 2 * ||w - start||^2, added as a gradient: it depends on no record.

    Source: Li et al. 2020, "Federated Optimization in Heterogeneous Networks", algorithm 2.
    """

    def __init__(self, model: nn.Module, proximal_mu: float) -> None:
        self._mu = proximal_mu
        self._pairs = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad and proximal_mu > 0]

    def add_gradient(self) -> None:
        """Add mu * (w - start) to the gradients at hand."""
        for parameter, start in self._pairs:
            assert parameter.grad is not None  # noqa: S101 - for the type checker
            parameter.grad.add_(parameter.detach() - start, alpha=self._mu)
