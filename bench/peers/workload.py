"""Workload W2, the same for every system: 100 institutions of 60 records, a cohort of 10, one epoch of three batches.

An MLP 784-200-200-10 with ReLU, SGD at 0.1, cross-entropy, the unweighted mean. Every system learns from the same
records in the same order from the same beginning, so that after the same rounds it must have the same weights.

A system is a process that makes a round whenever a line comes on its standard input, and says on its standard output,
as one JSON object a line, what the round took. It runs in an environment of its own: numpy and torch are all it has in
common with the others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor, nn

INSTITUTIONS, RECORDS, COHORT, BATCH, LEARNING_RATE = 100, 60, 10, 20, 0.1
MEGABYTE = 1e6
_TICKS = os.sysconf("SC_CLK_TCK")


def limit_threads() -> None:
    """One thread for each process, whatever the machine has."""
    torch.set_num_threads(1)


def institutions() -> list[tuple[Tensor, Tensor]]:
    """Features float32 [60, 1, 28, 28] and labels int64 [60] of each, in the order in which it learns from them."""
    numbers = np.random.default_rng(0)
    features = numbers.standard_normal((INSTITUTIONS, RECORDS, 1, 28, 28), dtype=np.float32)
    labels = numbers.integers(0, 10, (INSTITUTIONS, RECORDS))
    made = []
    for one in range(INSTITUTIONS):
        order = np.random.default_rng(5000 + one).permutation(RECORDS)
        made.append((torch.from_numpy(features[one][order]), torch.from_numpy(labels[one][order])))
    return made


def cohort(round: int) -> list[int]:
    """Whose turn it is in this round, from 1."""
    return [int(one) for one in np.random.default_rng(1000 + round).choice(INSTITUTIONS, COHORT, replace=False)]


def model() -> nn.Sequential:
    """199,210 parameters, always the same ones."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


def train(net: nn.Module, features: Tensor, labels: Tensor) -> None:
    """One epoch, in place."""
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    for start in range(0, RECORDS, BATCH):
        optimizer.zero_grad()
        chosen = slice(start, start + BATCH)
        nn.functional.cross_entropy(net(features[chosen]), labels[chosen]).backward()
        optimizer.step()


@dataclass(frozen=True)
class Reading:
    """Of this process and all that it started."""

    cpu_s: float  # user and system, of whoever is alive
    wall_s: float


def before() -> Reading:
    """Now; looking at other processes is over when this one's clock is read."""
    others = sum(map(_cpu_s, _family(os.getpid()) - {os.getpid()}))
    return Reading(others + time.process_time(), time.monotonic())


def after() -> Reading:
    """Now; other processes are looked at when this one's clock was read."""
    own, wall_s = time.process_time(), time.monotonic()
    return Reading(own + sum(map(_cpu_s, _family(os.getpid()) - {os.getpid()})), wall_s)


def megabytes() -> float:
    """Memory that nobody else shares, of this process and all that it started."""
    return sum(map(_unshared, _family(os.getpid()))) / MEGABYTE


class Turns:
    """Rounds by request: each line that comes in is one, and what it took goes out."""

    def __init__(self, system: str, began: Reading) -> None:
        self._system = system
        self._out = _only_json()
        self._began = began
        self._round = 0

    def ready(self) -> None:
        """Everything that comes before the first round is over."""
        now = after()
        self._say({"start_s": now.wall_s - self._began.wall_s, "start_cpu_s": now.cpu_s - self._began.cpu_s})

    def __iter__(self) -> Iterator[int]:
        """The rounds, from 1, for as long as lines come."""
        for _ in sys.stdin:
            self._round += 1
            self._began = before()
            yield self._round

    def done(self, parameters: list[Tensor]) -> None:
        """The round is over, and this is its model, in the order of its layers."""
        now, began = after(), self._began
        norm = float(torch.cat([one.detach().flatten().double() for one in parameters]).norm())
        took = {"cpu_s": now.cpu_s - began.cpu_s, "wall_s": now.wall_s - began.wall_s}
        self._say({"round": self._round, **took, "megabytes": megabytes(), "norm": norm})

    def _say(self, told: dict[str, object]) -> None:
        self._out.write(json.dumps({"system": self._system, **told}) + "\n")
        self._out.flush()


def _only_json() -> TextIO:
    """Standard output for us alone; what a framework prints goes to standard error."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return ours


def _family(root: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {root}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _cpu_s(process: int) -> float:
    try:
        cells = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(cells[11]) + int(cells[12])) / _TICKS


def _unshared(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
