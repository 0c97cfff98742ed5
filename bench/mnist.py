"""MNIST at ten institutions that share the noise: test accuracy of whole runs of the product at epsilon 3.

Usage: .venv/bin/python bench/mnist.py [DIR [RUNS]]     (DIR: the four IDX files; default: LEPTON_MNIST_DIR, 1 run)

Every run is the command `lepton-sim experiment=mnist` in a process of its own, and nothing is seeded, so the accuracy
differs a little each time. Seconds, wall and CPU, are of the whole command, data and features included. Writes
bench/results/mnist.json, but not where a run was not private or spent more than its budget.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import store

COMMAND = Path(sys.executable).with_name("lepton-sim")
EXPERIMENT = "experiment=mnist"
KEPT = (
    "unit",
    "neighbouring_relation",
    "epsilon",
    "delta",
    "noise",
    "honest",
    "noise_multiplier",
    "rounds",
    "parameters",
)


@dataclass(frozen=True)
class Run:
    """One command."""

    result: dict[str, Any]  # result.json
    wall_s: float
    cpu_s: float


def one_run(data: str) -> Run:
    """The command, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), _cpu_s()
        arguments = [str(COMMAND), EXPERIMENT, f"data.dir={data}", f"output={folder}"]
        subprocess.run(arguments, check=True, capture_output=True)  # noqa: S603
        result = json.loads((Path(folder) / "result.json").read_text())
    return Run(result, round(time.perf_counter() - began, 1), round(_cpu_s() - before, 1))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run, print one line a run, store."""
    data = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LEPTON_MNIST_DIR")
    if data is None:
        print("left out: it needs the folder of MNIST's IDX files, say in LEPTON_MNIST_DIR")  # noqa: T201
        return
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    done: list[Run] = []
    for _ in range(runs):
        run = one_run(data)
        if not run.result["private"] or run.result["epsilon"] > run.result["epsilon_budget"]:
            sys.exit("the run was not private, or spent more than its budget; nothing was stored")
        done.append(run)
        accuracy, epsilon = run.result["metrics"]["accuracy"], run.result["epsilon"]
        print(f"accuracy {accuracy:.4f}  epsilon {epsilon:.2f}  {run.wall_s:.0f} s, {run.cpu_s:.0f} s of a core")  # noqa: T201
    accuracies, first = [run.result["metrics"]["accuracy"] for run in done], done[0].result
    figures = {
        "command": f"lepton-sim {EXPERIMENT} data.dir=DIR",
        "accuracy": statistics.mean(accuracies),
        "accuracies": accuracies,
        "test_records": first["metrics"]["records"],
        "institutions": len(first["institutions"]),
        **{name: first[name] for name in KEPT},
        "seconds": [run.wall_s for run in done],
        "cpu_seconds": [run.cpu_s for run in done],
    }
    store("mnist", figures, ("lepton-fl", "torch", "opacus", "flwr", "dp-accounting"))


if __name__ == "__main__":
    main()
