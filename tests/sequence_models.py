"""Small models of sequences, and what two oracles say of them: autograd on one record, and Opacus."""

from __future__ import annotations

from collections.abc import Callable

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from torch import Tensor, nn

from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.examples import Examples, per_record_loss

STEPS, WIDTH, CLASSES = 6, 4, 3


def sequences(records: int) -> Examples:
    """float32 [records, STEPS, WIDTH], of three classes."""
    draw = torch.Generator().manual_seed(2)
    features = torch.randn(records, STEPS, WIDTH, generator=draw)
    return Examples(features, torch.randint(0, CLASSES, (records,), generator=draw))


class OnSequences(nn.Module):
    """A layer under a linear one, which sees a sum over all outputs and states of the layer that no term drops out of.

    Args:
        layer: of sequences [n, steps, WIDTH], or [steps, n, WIDTH] where its `batch_first` is false.
        call: how the layer is called, to a tuple of [n, ...] tensors; None: with the sequence alone.
    """

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], tuple[Tensor, ...]], size: int) -> None:
        super().__init__()
        self.layer, self._call = layer, call
        self.last = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cat([each.flatten(1) for each in self._call(self.layer, x)], dim=1)
        logits: Tensor = self.last(found + found.square())
        return logits


def of_records(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """A recurrent layer's outputs and last states, each with its records in the first dimension."""
    y, last = layer(x if layer.batch_first else x.transpose(0, 1))
    states = last if isinstance(last, tuple) else (last,)
    return (y if layer.batch_first else y.transpose(0, 1), *(state.transpose(0, 1) for state in states))


def gradients_alone(model: nn.Module, batch: Examples) -> Tensor:
    """Each record's gradient from a batch of one, float64 [n, d]."""
    return torch.stack([gradient_of_all(model, batch.at(torch.tensor([row]))) for row in range(len(batch))])


def gradient_of_all(model: nn.Module, batch: Examples) -> Tensor:
    """The sum of the records' gradients by torch's own layers, float64 [d]."""
    model.zero_grad()
    torch.backends.mkldnn.enabled = False  # without it, torch's recurrent layers start at once
    try:
        per_record_loss(model(batch.features), batch.labels).sum().backward()
    finally:
        torch.backends.mkldnn.enabled = True
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).double()
    model.zero_grad()
    return found


def clipped(gradients: Tensor, clipping_norm: float) -> Tensor:
    """Each row scaled to at most that norm, and all added up."""
    factors = clipping_norm / gradients.norm(dim=1).clamp(min=clipping_norm)
    return factors @ gradients


def clipped_by(
    engine: ClippedSum, model: nn.Module, batch: Examples, clipping_norm: float, owners: Tensor | None = None
) -> Tensor:
    """What an engine adds up, float64 [d]."""
    out = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad), dtype=torch.float64)
    engine.attach(model)
    try:
        engine.add(batch, clipping_norm, out, owners)
    finally:
        engine.detach()
    return out


def gradients_by_opacus(model: nn.Module, names: list[str], batch: Examples) -> Tensor:
    """Each record's gradient by Opacus' hooks, the parameters in the order of their names, float64 [n, d]."""
    hooks = GradSampleHooks(model, batch_first=True, loss_reduction="sum")
    try:
        per_record_loss(model(batch.features), batch.labels).sum().backward()
        found = {name: p.grad_sample.flatten(1) for name, p in model.named_parameters()}
    finally:
        hooks.cleanup()
    return torch.cat([found[name] for name in names], dim=1).double()


def means_of_owners(gradients: Tensor, owners: Tensor) -> Tensor:
    """Each owner's mean of the rows, float64 [owners, d]."""
    return torch.stack([gradients[owners == owner].mean(dim=0) for owner in range(int(owners.max()) + 1)])
