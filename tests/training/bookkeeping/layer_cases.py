"""One small model for each layer and option, and what its records' gradients are by definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.training.examples import Examples, per_record_loss

CLASSES = 3


@dataclass(frozen=True)
class Case:
    """A layer, and the shape of what it is given."""

    layer: Callable[[], nn.Module]
    shape: tuple[int, ...]
    looks_up: bool = False  # it is given row numbers below 7 instead of numbers


CASES = {
    "linear": Case(lambda: nn.Linear(5, 4), (5,)),
    "linear without bias": Case(lambda: nn.Linear(5, 4, bias=False), (5,)),
    "linear at a few positions": Case(lambda: nn.Linear(8, 9), (3, 8)),
    "linear at many positions": Case(lambda: nn.Linear(3, 2), (5, 4, 3)),
    "linear at one position": Case(lambda: nn.Linear(5, 4), (1, 5)),
    "embedding": Case(lambda: nn.Embedding(7, 4), (6,), looks_up=True),
    "embedding in two dimensions": Case(lambda: nn.Embedding(7, 4), (2, 3), looks_up=True),
    "embedding with padding": Case(lambda: nn.Embedding(7, 4, padding_idx=2), (6,), looks_up=True),
    "conv1d": Case(lambda: nn.Conv1d(2, 3, 3), (2, 9)),
    "conv1d, strided and dilated": Case(lambda: nn.Conv1d(2, 4, 3, stride=2, dilation=2, padding=1), (2, 11)),
    "conv1d, circular": Case(lambda: nn.Conv1d(2, 3, 3, padding=2, padding_mode="circular"), (2, 7)),
    "conv2d": Case(lambda: nn.Conv2d(2, 3, 3), (2, 6, 5)),
    "conv2d without bias": Case(lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 6, 5)),
    "conv2d, strided": Case(lambda: nn.Conv2d(1, 3, 4, stride=(2, 3), padding=(3, 1)), (1, 8, 9)),
    "conv2d, dilated": Case(lambda: nn.Conv2d(2, 2, (2, 3), dilation=(2, 1), padding=1), (2, 6, 5)),
    "conv2d, in groups": Case(lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 5)),
    "conv2d, each channel for itself": Case(lambda: nn.Conv2d(3, 6, 2, groups=3, bias=False), (3, 4, 4)),
    "conv2d, as wide as long": Case(lambda: nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), (2, 6, 6)),
    "conv2d, valid": Case(lambda: nn.Conv2d(2, 3, 3, padding="valid"), (2, 5, 5)),
    "conv2d, reflected": Case(lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"), (2, 5, 6)),
    "conv2d, replicated": Case(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), (2, 5, 5)),
    "conv2d, few pixels": Case(lambda: nn.Conv2d(16, 18, 3), (16, 3, 4)),
    "conv2d, few pixels in groups": Case(lambda: nn.Conv2d(32, 36, 3, groups=2), (32, 3, 4)),
    "conv2d, norms alone": Case(lambda: nn.Conv2d(16, 16, 5), (16, 8, 8)),
    "conv3d": Case(lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=(1, 0, 1)), (2, 3, 4, 3)),
    "conv3d, few voxels": Case(lambda: nn.Conv3d(16, 18, 2), (16, 2, 3, 2)),
    "layer norm": Case(lambda: nn.LayerNorm(6), (6,)),
    "layer norm at positions": Case(lambda: nn.LayerNorm(6), (4, 6)),
    "layer norm over two dimensions": Case(lambda: nn.LayerNorm((4, 6)), (2, 4, 6)),
    "layer norm without bias": Case(lambda: nn.LayerNorm(6, bias=False), (4, 6)),
    "layer norm without parameters": Case(
        lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6, elementwise_affine=False)), (6,)
    ),
    "group norm": Case(lambda: nn.GroupNorm(2, 6), (6, 3, 4)),
    "group norm without pixels": Case(lambda: nn.GroupNorm(2, 6), (6,)),
    "group norm without parameters": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 6, 1), nn.GroupNorm(2, 6, affine=False)), (2, 5)
    ),
    "rms norm": Case(lambda: nn.RMSNorm(6), (4, 6)),
    "rms norm over two dimensions": Case(lambda: nn.RMSNorm((4, 6), eps=1e-3), (4, 6)),
}


class Headed(nn.Module):
    """A layer, a bend and a fixed projection on the logits; the layer's are the only parameters."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = case.layer()
        for parameter in self.layer.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.looks_up = case.looks_up
        with torch.no_grad():
            sample = torch.zeros(1, *case.shape)
            width = self.layer(sample.long() if case.looks_up else sample).numel()
        self.head = [torch.randn(width, CLASSES) / width**0.5]

    def forward(self, features: Tensor) -> Tensor:
        given = features.long() if self.looks_up else features
        return torch.tanh(self.layer(given)).flatten(1) @ self.head[0]


def data(case: Case, records: int, seed: int = 0) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    shape = (records, *case.shape)
    features = torch.randint(7, shape, generator=draw).float() if case.looks_up else torch.randn(shape, generator=draw)
    return Examples(features, torch.randint(CLASSES, (records,), generator=draw))


def gradients(model: nn.Module, batch: Examples) -> Tensor:
    """Each record's gradient by autograd alone, in batches of one, float64 [n, d]."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for row in range(len(batch)):
        record = batch.at(torch.tensor([row]))
        loss = per_record_loss(model(record.features), record.labels).sum()
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)]).double())
    return torch.stack(rows)


def clipped(rows: Tensor, clipping_norm: float, weights: Tensor | None = None) -> Tensor:
    """The definition, float64 [d]."""
    factors = clipping_norm / rows.norm(dim=1).clamp(min=clipping_norm)
    return (factors if weights is None else factors * weights) @ rows
