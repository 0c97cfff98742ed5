"""An institution's energy as it travels: two significant digits as it leaves, each number checked as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_fl.energy.spent import COMMUNICATE, COMPONENTS, EVALUATE, IDLE, TRAIN, Joules, Spent
from lepton_fl.link.frames import BadFrame
from lepton_fl.v1.federation_pb2 import Energy

AT_AN_INSTITUTION = (TRAIN, EVALUATE, COMMUNICATE, IDLE)
_LARGEST_S, _LARGEST_J, _LARGEST_BYTES = 1e8, 1e13, 1 << 50  # beyond, somebody is not serious


@dataclass(frozen=True)
class Told:
    """What one frame says."""

    run_id: int
    round: int
    phases: Mapping[str, Spent]


def to_wire(told: Told) -> Energy:
    """The frame, to two significant digits."""
    frame = Energy(run_id=told.run_id, round=told.round)
    for name, exact in told.phases.items():
        spent = exact.coarse()
        phase = frame.phases.add(
            name=name,
            wall_s=spent.wall_s,
            cpu_s=spent.cpu_s,
            bytes_up=spent.bytes_up,
            bytes_down=spent.bytes_down,
        )
        for component, joules in spent.joules.items():
            phase.components.add(name=component, joules=joules.value, tier=joules.tier)
    return frame


def from_wire(frame: Energy) -> Told:
    """What it says; a number is rounded again, so that nothing finer is kept.

    Raises:
        BadFrame: a phase or a component that there is not, or twice; a number that cannot be.
    """
    names = [phase.name for phase in frame.phases]
    if not names or len({*names}) < len(names) or not {*names} <= {*AT_AN_INSTITUTION}:
        raise BadFrame("energy is told of phases that there are not")
    return Told(frame.run_id, frame.round, {phase.name: _spent(phase) for phase in frame.phases})


def _spent(phase: Energy.Phase) -> Spent:
    names = [one.name for one in phase.components]
    if len(names) > len(COMPONENTS) or len({*names}) < len(names):
        raise BadFrame("energy is told of components that there are not")
    joules = {one.name: Joules(one.joules, one.tier) for one in phase.components}
    spent = Spent(phase.wall_s, phase.cpu_s, joules, phase.bytes_up, phase.bytes_down)
    is_small = max(spent.wall_s, spent.cpu_s) <= _LARGEST_S and max(spent.bytes_up, spent.bytes_down) <= _LARGEST_BYTES
    if not spent.is_sound or not is_small or spent.total.value > _LARGEST_J:
        raise BadFrame("energy is told in numbers that cannot be")
    return spent.coarse()
