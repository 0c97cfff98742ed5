"""Any model whose operations torch can batch: the gradients of many institutions by one call, see `torch.func`.

Under privacy the records of one member are batched, not the members: their gradients side by side would not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lepton_fl.training.clipped_sum import add_clipped_rows
from lepton_fl.training.cohort.chunks import Batch
from lepton_fl.training.cohort.slots import slots_of
from lepton_fl.training.examples import per_record_loss

_Named = dict[str, Tensor]


class Vmapped:
    """See `together.Gradients`."""

    def __init__(self, model: nn.Module) -> None:
        self._slots = slots_of(model)
        self._model = copy.deepcopy(model).train()

    def plain(self, values: Tensor, batch: Batch, shares: Tensor, out: Tensor) -> Tensor:
        """See `together.Gradients.plain`."""
        shared = 0 if values.dim() > 1 else None
        of_all = torch.func.vmap(torch.func.grad(self._loss, has_aux=True), in_dims=(shared, 0, 0, 0))
        gradients, losses = of_all(self._named(values), batch.features, batch.labels, shares)
        for name, slot in self._slots.items():
            slot.of(out).copy_(gradients[name])
        return losses.detach()  # type: ignore[no-any-return]

    def clipped(self, values: Tensor, batch: Batch, target: float, rows: Sequence[Tensor]) -> Iterator[int]:
        """See `together.Gradients.clipped`."""
        of_each = torch.func.vmap(torch.func.grad(self._loss_of_one), in_dims=(None, 0, 0))
        for member, (out, records) in enumerate(zip(rows, batch.counts.to(torch.int64).tolist(), strict=True)):
            total = torch.zeros(len(out), dtype=torch.float64, device=out.device)
            if records:
                own = values if values.dim() == 1 else values[member]
                gradients = of_each(self._named(own), batch.features[member, :records], batch.labels[member, :records])
                weights = None if batch.weights is None else batch.weights[member, :records]
                add_clipped_rows([gradients[name].flatten(1) for name in self._slots], target, total, weights)
            out.copy_(total)
            yield member

    def _named(self, values: Tensor) -> _Named:
        return {name: slot.of(values) for name, slot in self._slots.items()}

    def _loss(self, named: _Named, features: Tensor, labels: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        losses = per_record_loss(torch.func.functional_call(self._model, named, (features,)), labels)
        return (losses * shares).sum(), losses

    def _loss_of_one(self, named: _Named, features: Tensor, label: Tensor) -> Tensor:
        outputs = torch.func.functional_call(self._model, named, (features.unsqueeze(0),))
        return per_record_loss(outputs, label.unsqueeze(0)).sum()
