"""An executor's clipped sum as any engine's, so that the self-test of a run looks at what will clip in it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.portions import MOST
from lepton_fl.training.cohort.chunks import Gathering
from lepton_fl.training.cohort.executor import flat_state
from lepton_fl.training.cohort.together import Gradients
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples

_CPU = torch.device("cpu")


class StackedClippedSum:
    """See `clipped_sum.ClippedSum`; a cohort of one."""

    most_in_float32 = 0

    def __init__(self, gradients: Callable[[nn.Module], Gradients]) -> None:
        self._of = gradients
        self._gradients: Gradients | None = None
        self._values = torch.empty(0)

    def attach(self, model: nn.Module) -> None:
        """See `ClippedSum.attach`."""
        self._gradients, self._values = self._of(model), flat_state(model).to(device_of(model))

    def detach(self) -> None:
        """See `ClippedSum.detach`."""
        self._gradients = None

    @torch.no_grad()
    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        """See `ClippedSum.add`; records have no owners here."""
        if self._gradients is None or owners is not None:
            raise UnsupportedModel("a stacked sum is over records of an attached model; this is a bug")
        clipped, gathering = torch.empty(len(out), device=out.device), Gathering([batch.to(_CPU)], out.device)
        for index in torch.arange(len(batch)).split(MOST):
            for _ in self._gradients.clipped(self._values, gathering.batch([index]), clipping_norm, [clipped]):
                out += clipped
