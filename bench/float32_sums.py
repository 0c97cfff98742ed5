"""How far rounding lets one record move a batch's clipped sum beyond the clipping norm.

Usage: .venv/bin/python bench/float32_sums.py [TRIES]     (default 20)

A neighbour is the same batch without one record. Gradients are float32, and the others' may round otherwise when one
record is missing; so may their sum, were it in float32 too. Several kinds of batches are tried, through the sum alone
and through the whole engine, and the worst found is printed beside the margin that `noise.clip_target` sets aside and
beside a float32 sum of the same batches. Writes bench/results/float32_sums.json. A measurement, no proof.
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
from lepton_fl.training.clipped_sum import OpacusClippedSum, _add_clipped
from lepton_fl.training.examples import Examples

RESULTS = Path(__file__).parent / "results" / "float32_sums.json"
RECORDS = 4096  # the most that training.physical_batch allows
Sum = Callable[[Tensor], Tensor]
"""Records [n, columns] to their clipped sum, float64 [d], at clipping norm 1."""


def batches(tries: int, columns: int) -> Iterator[Tensor]:
    """Records that could make rounding bad: independent, almost alike, of very unlike sizes."""
    for seed in range(tries):
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randn(RECORDS, columns, generator=draw)
        yield noise
        yield torch.randn(1, columns, generator=draw) + 1e-3 * noise
        yield noise * 10 ** (6 * torch.rand(RECORDS, 1, generator=draw) - 3)


def summed(gradients: Tensor) -> Tensor:
    """The product's sum of gradients that are given."""
    out = torch.zeros(gradients.shape[1], dtype=torch.float64)
    _add_clipped([gradients.clone()], 1.0, out)
    return out


def summed_in_float32(gradients: Tensor) -> Tensor:
    """What the product does not do."""
    factors = 1.0 / gradients.double().norm(dim=1).clamp(min=1.0)
    return (factors.float() @ gradients).double()


def through(model: nn.Module) -> Sum:
    """The whole engine: forward, backward, per-record gradients, clipping, sum."""

    def engine_sum(features: Tensor) -> Tensor:
        engine = OpacusClippedSum()
        engine.attach(model)
        out = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
        engine.add(Examples(features, torch.ones(len(features), dtype=torch.int64)), 1.0, out)
        engine.detach()
        return out

    return engine_sum


def beyond(sum_of: Sum, tries: int, columns: int) -> float:
    """The worst L2 distance of two neighbours' sums, less the clipping norm of 1."""
    worst = 0.0
    for records in batches(tries, columns):
        whole = sum_of(records)
        for left_out in (0, RECORDS // 2, RECORDS - 1):
            without = torch.cat([records[:left_out], records[left_out + 1 :]])
            worst = max(worst, float((whole - sum_of(without)).norm()) - 1.0)
    return worst


def main() -> None:
    """Try, print, store."""
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.manual_seed(0)
    layers = (nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 1))
    found = {
        "sum alone": beyond(summed, tries, 40),
        "logistic": beyond(through(nn.Sequential(nn.Linear(20, 1))), tries, 20),
        "mlp": beyond(through(nn.Sequential(*layers)), max(1, tries // 4), 20),
        "sum in float32": beyond(summed_in_float32, tries, 40),
    }
    for kind, worst in found.items():
        print(f"{kind:<15} 1 + {worst:.1e} times the clipping norm at {RECORDS} records")  # noqa: T201
    print(f"set aside           {FLOAT32_MARGIN:.1e}")  # noqa: T201
    versions = {name: version(name) for name in ("lepton-fl", "torch", "opacus", "numpy")}
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    stored = {"beyond": found, "records": RECORDS, "margin": FLOAT32_MARGIN, "machine": machine, "versions": versions}
    RESULTS.write_text(json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
