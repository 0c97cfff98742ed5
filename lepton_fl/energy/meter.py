"""A meter: readings of clocks and counters, and the energy between two of them by phase.

Where a counter moved, joules are measured. Where there is none, or it stands still, they are modelled: the seconds the
processor was busy, never more than passed, times the power that somebody declared for this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lepton_fl.energy.counters import Domain, nvml, rapl
from lepton_fl.energy.spent import IDLE, MEASURED, MODELLED, NOTHING, Joules, Spent


@dataclass(frozen=True)
class Reading:
    """Every clock and counter at one moment."""

    wall_s: float
    cpu_s: float
    packages: Mapping[str, Domain] | None = None  # None: no counter
    gpu: Domain | None = None


@dataclass(frozen=True)
class Machine:
    """What is known of a machine without looking at a counter."""

    power_w: float  # that it draws while it computes, declared
    has_gpu: bool = False  # it computes on one


def between(before: Reading, after: Reading, machine: Machine) -> Spent:
    """What passed from one reading to the next; each component measured where its counter moved, else modelled."""
    wall_s, cpu_s = max(0.0, after.wall_s - before.wall_s), max(0.0, after.cpu_s - before.cpu_s)
    # A machine never draws more than its declared power, however many of its cores are busy.
    joules = {"cpu": _of(_packages(before, after, wall_s), min(cpu_s, wall_s) * machine.power_w)}
    if machine.has_gpu:
        counted = None
        if before.gpu is not None and after.gpu is not None:
            counted = before.gpu.joules_until(after.gpu, wall_s)
        joules["gpu"] = _of(counted, wall_s * machine.power_w)
    return Spent(wall_s, cpu_s, joules)


def _packages(before: Reading, after: Reading, seconds: float) -> float | None:
    """Joules of all packages; None where one of them is not known, since the others alone would be too little."""
    if before.packages is None or after.packages is None or before.packages.keys() != after.packages.keys():
        return None
    moved = [before.packages[name].joules_until(after.packages[name], seconds) for name in before.packages]
    known = [joules for joules in moved if joules is not None]
    return sum(known) if known and len(known) == len(moved) else None


def _of(counted: float | None, modelled: float) -> Joules:
    return Joules(modelled, MODELLED) if counted is None else Joules(counted, MEASURED)


class Meter:
    """Every moment since it began belongs to one phase, so that the phases add up to the whole."""

    def __init__(self, read: Callable[[], Reading], machine: Machine, phase: str = IDLE) -> None:
        self._read, self._machine = read, machine
        self._last = read()
        self._phase = phase
        self._spent: dict[str, Spent] = {}

    def enter(self, phase: str) -> None:
        """From now on it is this phase."""
        self._mark()
        self._phase = phase

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """This phase inside, and the one of before afterwards."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def moved(self, phase: str, up: int, down: int) -> None:
        """So many bytes more went to the operator, and came from there."""
        spent = self._spent.get(phase, NOTHING)
        self._spent[phase] = replace(spent, bytes_up=spent.bytes_up + up, bytes_down=spent.bytes_down + down)

    def take(self) -> dict[str, Spent]:
        """What each phase took since the last time; exact, and therefore for this machine alone."""
        self._mark()
        taken, self._spent = self._spent, {}
        return taken

    def _mark(self) -> None:
        now = self._read()
        self._spent[self._phase] = self._spent.get(self._phase, NOTHING) + between(self._last, now, self._machine)
        self._last = now


def of_this_machine(power_w: float, gpu_uuid: str | None = None, phase: str = IDLE) -> Meter:
    """A meter of this process on this machine.

    Args:
        gpu_uuid: of the GPU it computes on; None: on none.
        phase: that it begins in.
    """
    gpu = None if gpu_uuid is None else nvml(gpu_uuid)

    def read() -> Reading:
        return Reading(time.monotonic(), time.process_time(), rapl(), None if gpu is None else gpu.read())

    return Meter(read, Machine(power_w, gpu_uuid is not None), phase)
