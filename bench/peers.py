"""A simulated round beside other systems': `.venv/bin/python bench/peers.py [--rounds 30] [--environments DIR]`.

Each system is a process of its own, in an environment of its own (`make bench-peers` builds them), and makes a round of
workload W2 when it is its turn: bench/peers/workload.py. One that is not installed is left out, and why is stored. What
is compared is CPU seconds, user and system, of a process and all that it started, within its own turns; a system that
works between its turns is not charged for it. The first round is kept apart, like what comes before it. Those that
follow the workload's own order of records must have made the same model after each round; the product draws an order
of its own, and bench/simulation.py shows that it makes the same model as a plain loop. Writes bench/results/peers.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from machine import store

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".venv-peers"
OURS, PLAIN, PFL, FLOWER = "lepton-sim", "plain torch loop", "pfl-research", "Flower on Ray"
TARGETS = {PFL: 2.0, FLOWER: 20.0}  # their CPU seconds of a round over ours
EQUAL = 1e-6  # relative, of the model's norm


@dataclass(frozen=True)
class System:
    """Where a system is, and what it needs."""

    script: str
    environment: str | None  # of .venv-peers; None: this one
    packages: tuple[str, ...]  # whose versions are told
    follows: bool = True  # the workload's own order of records


SYSTEMS = {
    OURS: System("lepton.py", None, ("lepton-fl", "torch"), follows=False),
    PLAIN: System("plain.py", None, ("torch",)),
    PFL: System("pfl_research.py", "pfl", ("pfl", "torch")),
    FLOWER: System("flower_ray.py", "ray", ("flwr", "ray", "torch")),
}


class Process:
    """A system that waits for its turns."""

    def __init__(self, name: str, interpreter: Path, stack: ExitStack) -> None:
        script = HERE / "peers" / SYSTEMS[name].script
        self._process = subprocess.Popen(  # noqa: S603 - the scripts beside this file
            [str(interpreter), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        stack.callback(self._end)
        self._name = name
        self.start = self._told()
        self.rounds: list[dict[str, float]] = []

    def turn(self) -> None:
        """One round."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.rounds.append(self._told())

    def _told(self) -> dict[str, float]:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        if not line:
            sys.exit(
                f"error: {self._name} ended before its turn; nothing was stored; run {self._process.args!r} by hand"
            )
        told: dict[str, float] = json.loads(line)
        return told

    def _end(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


def interpreters(environments: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The Python of each system, and why some have none."""
    found, missing = {}, {}
    for name, system in SYSTEMS.items():
        python = Path(sys.executable)
        if system.environment is not None:
            python = environments / system.environment / "bin" / "python"
        if python.exists():
            found[name] = python
        else:
            missing[name] = f"not installed: no environment {system.environment}; make bench-peers builds it"
    return found, missing


def in_turns(found: Mapping[str, Path], rounds: int) -> dict[str, Process]:
    """Every system after the same number of rounds, taken in turn, and ended."""
    with ExitStack() as stack:
        processes = {name: Process(name, python, stack) for name, python in found.items()}
        for _ in range(rounds + 1):
            for process in processes.values():
                process.turn()
    return processes


def refuse_unequal(processes: Mapping[str, Process]) -> float:
    """The largest relative difference of norms after a round; ends the program where it shows other work."""
    norms = [[one["norm"] for one in made.rounds] for name, made in processes.items() if SYSTEMS[name].follows]
    apart: float = max(max(each) / min(each) - 1 for each in zip(*norms, strict=True))
    if not apart <= EQUAL:
        sys.exit(f"error: the systems made different models ({apart:.1e} of their norm); nothing was stored")
    return apart


def compared(own: Process, others: Mapping[str, Process]) -> dict[str, object]:
    """A system's figures, and each round's over the others' in the same turn."""
    times = [one["cpu_s"] for one in own.rounds[1:]]
    over: dict[str, object] = {}
    for name, other in others.items():
        ratios = sorted(mine / one["cpu_s"] for mine, one in zip(times, other.rounds[1:], strict=True))
        over[f"over {name}"] = median(ratios)
        over[f"over {name}, quartiles"] = [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]
    return {
        "cpu_ms": 1e3 * median(times),
        "least_cpu_ms": 1e3 * min(times),
        "wall_ms": 1e3 * median(one["wall_s"] for one in own.rounds[1:]),
        "megabytes": max(one["megabytes"] for one in own.rounds),
        "start_s": own.start["start_s"],
        "start_cpu_s": own.start["start_cpu_s"],
        "first_round_cpu_s": own.rounds[0]["cpu_s"],
        **over,
    }


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Of an environment's packages, and of its Python."""
    code = (
        "import json, platform, sys; from importlib.metadata import version;"
        "print(json.dumps({'python': platform.python_version(), **{one: version(one) for one in sys.argv[1:]}}))"
    )
    told = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)  # noqa: S603
    found: dict[str, str] = json.loads(told.stdout)
    return found


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description="CPU seconds of a simulated round, beside other systems'.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--no-store", action="store_true", help="print alone")
    given = parser.parse_args()
    found, missing = interpreters(given.environments)
    processes = in_turns(found, given.rounds)
    apart = refuse_unequal(processes)
    yardsticks = {name: processes[name] for name in (OURS, PLAIN) if name in processes}
    figures: dict[str, Any] = {name: compared(made, yardsticks) for name, made in processes.items()}
    for name, each in figures.items():
        ratio = each.get(f"over {OURS}", math.nan)
        print(  # noqa: T201
            f"{name:<18}{each['cpu_ms']:9.1f} ms CPU a round  {ratio:6.2f}x ours  {each['wall_ms']:8.1f} ms wall  "
            f"{each['megabytes']:7.0f} MB  first round {each['first_round_cpu_s']:5.1f} s CPU, start "
            f"{each['start_s']:5.1f} s"
        )
    for name, reason in missing.items():
        print(f"{name:<18}skipped: {reason}")  # noqa: T201
    if not given.no_store:
        stored = {
            "workload": "W2",
            "rounds": given.rounds,
            "threads": 1,
            "largest_difference_of_norms": apart,
            "systems": figures,
            "skipped": missing,
            "targets": TARGETS,
            "environments": {name: versions(python, SYSTEMS[name].packages) for name, python in found.items()},
        }
        store("peers", stored, ("lepton-fl", "torch"))


if __name__ == "__main__":
    main()
