"""What a private step costs: `.venv/bin/python bench/step.py [--models mlp,cnn] [--batches 64,256] [--turns 11]`.

Six models, in CPU seconds of one thread beside plain torch's: the product's step (draw, clipped sum, noise, optimizer,
as an institution runs it) and Opacus in its own modes. The systems take turns in one process; what is printed and
stored are medians, and medians of each turn's ratio to plain torch. Memory is measured in a process for each:
`allocated` is the most that tensors took at once, the model's parameters and gradients with them, and `resident` what
the process grew by since torch was loaded. Last a whole local epoch with the loader. Writes bench/results/step.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from epoch import epochs
from machine import store
from models import MODELS
from systems import OURS, PLAIN, SYSTEMS, Unsupported, noise_by, system

BATCHES = (64, 256, 1024)
TURN_S = 0.1  # of CPU that a system takes in one turn, about
MOST_S = 3.0  # of CPU for one step, beyond which a system is not timed any more
TARGETS = {"mlp": 1.5, "tabular": 1.5, "cnn": 1.5, "lstm": 1.6, "transformer": 1.3}  # at batch 256


def cpu_s(run: Callable[[], object]) -> float:
    """CPU seconds (user and system, all threads), or on a GPU those of the wall."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    run()
    return time.process_time() - began


def in_turns(systems: Mapping[str, Callable[[int], None]], turns: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of a step, and its ratio to the first system's in the same turn."""
    counts = {}
    for name, steps in systems.items():
        steps(2)
        counts[name] = max(1, math.ceil(TURN_S / max(1e-6, cpu_s(lambda steps=steps: steps(1)))))  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(turns):
        for name, steps in systems.items():
            taken[name].append(cpu_s(lambda n=name, s=steps: s(counts[n])) / counts[name])  # type: ignore[misc]
    return compared({name: times[1:] for name, times in taken.items()})


def compared(taken: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Medians, minima, and the spread of ratios to the first system's, turn by turn."""
    first = next(iter(taken.values()))
    figures = {}
    for name, times in taken.items():
        ratios = sorted(own / plain for own, plain in zip(times, first, strict=True))
        figures[name] = {
            "ms": 1e3 * median(times),
            "least_ms": 1e3 * min(times),
            "ratio": median(ratios),
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        }
    return figures


def steps_of(name: str, batch: int, device: str) -> tuple[dict[str, Callable[[int], None]], dict[str, str]]:
    """The systems that can take steps of this model, and why the others cannot."""
    can, cannot = {}, {}
    for each in SYSTEMS:
        try:
            steps = system(each, MODELS[name], MODELS[name].records(batch), device)
            if each != PLAIN and cpu_s(lambda steps=steps: steps(1)) > MOST_S:  # type: ignore[misc]
                cannot[each] = f"a step takes more than {MOST_S:g} s"
                continue
            can[each] = steps
        except Unsupported as refused:
            cannot[each] = refused.reason
    return can, cannot


def memory(name: str, batch: int, each: str) -> dict[str, float]:
    """Megabytes of three steps, in this process, which has done nothing else."""
    loaded = _resident("VmRSS")
    system(each, MODELS[name], MODELS[name].records(batch))(3)
    grown = _resident("VmHWM") - loaded
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        system(each, MODELS[name], MODELS[name].records(batch))(3)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return {"allocated": most / 1e6, "resident": grown}


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1e3
    return math.nan


def memory_elsewhere(name: str, batch: int, each: str) -> dict[str, float]:
    """`memory`, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", each, "--models", name, "--batches", str(batch)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this very file
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def table(name: str, batch: int, turns: int, device: str) -> dict[str, object]:
    """Everything about one model and batch, printed as it is found."""
    systems, cannot = steps_of(name, batch, device)
    figures: dict[str, dict[str, object]] = {each: dict(found) for each, found in in_turns(systems, turns).items()}
    print(f"{MODELS[name].title}, batch {batch}, {device}")  # noqa: T201
    for each, found in figures.items():
        if device == "cpu":
            found["megabytes"] = memory_elsewhere(name, batch, each)
        line = f"  {each:<14}{found['ms']:9.2f} ms  {found['ratio']:6.2f}x"
        if isinstance(held := found.get("megabytes"), dict):
            plain = figures[PLAIN]["megabytes"]
            for kind in ("allocated", "resident"):
                found[f"{kind}_ratio"] = held[kind] / plain[kind]  # type: ignore[index]
                line += f"  {held[kind]:8.1f} MB {kind}  {found[f'{kind}_ratio']:5.2f}x"
        print(line)  # noqa: T201
    for each, reason in cannot.items():
        print(f"  {each:<14}unsupported: {reason}")  # noqa: T201
    return {"systems": figures, "unsupported": cannot, "target": TARGETS.get(name) if batch == 256 else None}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="CPU seconds and memory of a private training step.")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--memory-of", help="one system, whose memory is measured in this process")
    parser.add_argument("--no-store", action="store_true", help="print alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names, batches = given.models.split(","), [int(batch) for batch in given.batches.split(",")]
    if given.memory_of:
        print(json.dumps(memory(names[0], batches[0], given.memory_of)))  # noqa: T201
        return
    figures: dict[str, object] = {}
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    for device in devices:
        steps = {f"{name}, {batch}": table(name, batch, given.turns, device) for name in names for batch in batches}
        figures[device] = {"steps": steps}
    figures["cpu, whole epochs"] = epochs(given.turns)
    if "cuda" not in devices:
        figures["cuda"] = "not measured"
    if not given.no_store:
        store(
            "step",
            {"threads": 1, "turns": given.turns, "ours": OURS, "noise": noise_by(), **figures},
            ("lepton-fl", "torch", "opacus"),
        )


if __name__ == "__main__":
    main()
