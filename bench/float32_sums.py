"""How far rounding lets one record move a batch's clipped sum beyond the clipping norm.

Usage: .venv/bin/python bench/float32_sums.py [TRIES]     (default 20)

A neighbour is the same batch without one record. Gradients are float32, and the others' may round otherwise when one
record is missing; so may their sum where it is in float32. Several kinds of batches and sizes are tried, through the
reference's sum alone, through both engines and through a cohort's loops, on vectors, images and sequences, and the
worst found is printed beside the margin that `noise.clip_target` sets aside and beside a float32 sum of the same
batches. Writes bench/results/float32_sums.json. A measurement, no proof.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from lepton_fl.privacy.noise import FLOAT32_MARGIN
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum, add_clipped_rows
from lepton_fl.training.cohort.lowered import Lowered
from lepton_fl.training.cohort.stacked_sum import StackedClippedSum
from lepton_fl.training.examples import Examples

RESULTS = Path(__file__).parent / "results" / "float32_sums.json"
RECORDS = (64, 512, 4096)  # the last is the most that training.physical_batch allows
Sum = Callable[[Tensor], Tensor]
"""Records [n, columns] to their clipped sum, float64 [d], at clipping norm 1."""


def batches(tries: int, shape: tuple[int, ...], number: int) -> Iterator[Tensor]:
    """Records that could make rounding bad: independent, the same, almost alike, of very unlike sizes."""
    for seed in range(tries):
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randn(number, *shape, generator=draw)
        one = torch.randn(1, *shape, generator=draw)
        yield noise
        yield one.expand(number, *shape)
        yield one + 1e-3 * noise
        yield noise * 10 ** (6 * torch.rand(number, *(1,) * len(shape), generator=draw) - 3)


def summed(gradients: Tensor) -> Tensor:
    """The product's sum of gradients that are given."""
    out = torch.zeros(gradients.shape[1], dtype=torch.float64)
    add_clipped_rows([gradients.clone()], 1.0, out)
    return out


def summed_in_float32(gradients: Tensor) -> Tensor:
    """What the product does not do."""
    factors = 1.0 / gradients.double().norm(dim=1).clamp(min=1.0)
    total: Tensor = factors.float() @ gradients
    return total.double()


class LastStep(nn.Module):
    """A recurrent layer over sequences, the last step of which is told."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(features)[0][:, -1])
        return out


class Mean(nn.Module):
    """An encoder over sequences, whose mean is told."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(features).mean(dim=1))
        return out


def models() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Name to model and shape of a record."""
    torch.manual_seed(0)
    convolution = (nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8))
    return {
        "logistic": (nn.Sequential(nn.Linear(20, 1)), (20,)),
        "mlp": (nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1)), (20,)),
        "wide": (nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)), (256,)),
        "convolution": (nn.Sequential(*convolution, nn.Flatten(), nn.Linear(32, 3)), (1, 8, 8)),
        "lstm": (LastStep(), (7, 6)),
        "encoder": (Mean(), (6, 8)),
    }


def through(model: nn.Module, engine_of: Callable[[], ClippedSum]) -> Sum:
    """The whole engine: forward, backward, clipping, sum."""

    def engine_sum(features: Tensor) -> Tensor:
        engine = engine_of()
        engine.attach(model)
        out = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
        engine.add(Examples(features, torch.ones(len(features), dtype=torch.int64)), 1e-3, out)
        engine.detach()
        return out / 1e-3

    return engine_sum


def beyond(sum_of: Sum, tries: int, shape: tuple[int, ...]) -> float:
    """The worst L2 distance of two neighbours' sums, less the clipping norm of 1."""
    worst = -1.0
    for number in RECORDS:
        for records in batches(tries, shape, number):
            whole = sum_of(records)
            for left_out in (0, number // 2, number - 1):
                without = torch.cat([records[:left_out], records[left_out + 1 :]])
                worst = max(worst, float((whole - sum_of(without)).norm()) - 1.0)
    return worst


def main() -> None:
    """Try, print, store."""
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    found = {"sum alone": beyond(summed, tries, (40,))}
    for name, (model, shape) in models().items():
        found[f"{name}, book-keeping"] = beyond(through(model, BookKeeping), max(1, tries // 4), shape)
        if name in ("logistic", "mlp", "wide"):
            of_cohort = through(model, lambda: StackedClippedSum(Lowered))
            found[f"{name}, in a cohort"] = beyond(of_cohort, max(1, tries // 4), shape)
        if name in ("logistic", "mlp"):
            found[f"{name}, Opacus"] = beyond(through(model, OpacusClippedSum), max(1, tries // 10), shape)
    found["sum in float32"] = beyond(summed_in_float32, tries, (40,))
    for kind, worst in found.items():
        print(f"{kind:<27} 1 + {worst:.1e} times the clipping norm")  # noqa: T201
    print(f"set aside                       {FLOAT32_MARGIN:.1e}")  # noqa: T201
    versions = {name: version(name) for name in ("lepton-fl", "torch", "opacus", "numpy")}
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    stored = {"beyond": found, "records": RECORDS, "margin": FLOAT32_MARGIN, "machine": machine, "versions": versions}
    RESULTS.write_text(json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
