"""What this institution tells of its energy: only by its policy, and in the ledger before it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from lepton_client.clauses import rule_for
from lepton_client.outbound import ENERGY
from lepton_client.policy import Policy
from lepton_fl.energy.meter import Meter
from lepton_fl.energy.spent import EVALUATE, IDLE, TRAIN
from lepton_fl.federation.steps import PARAMS, ROSTER, Step
from lepton_fl.link.energy_frame import Told, to_wire
from lepton_fl.privacy.books import Left
from lepton_fl.v1.federation_pb2 import ClientFrame


@dataclass(frozen=True)
class Telling:
    """A frame, and its entry for the ledger."""

    left: Left
    frame: ClientFrame


@contextmanager
def computing(meter: Meter, step: Step | None, *, is_training: bool) -> Iterator[None]:
    """What follows is the round's; so is what comes after, while a masked round trains beside the exchange of keys."""
    meter.enter(TRAIN if is_training else EVALUATE)
    try:
        yield
    finally:
        if step is None or step.name not in (PARAMS, ROSTER):
            meter.enter(IDLE)


def telling(meter: Meter, policy: Policy, run_id: int, round: int) -> Telling | None:
    """What passed since it was last told; None, and forgotten, where the policy does not let it leave."""
    phases = meter.take()
    if ENERGY not in policy.may_leave:
        return None
    frame = ClientFrame(energy=to_wire(Told(run_id, round, phases)))
    content = frame.SerializeToString()
    rule = rule_for(policy, ENERGY)
    left = Left(str(run_id), round, "", ENERGY, len(content), sha256(content).hexdigest(), None, rule)
    return Telling(left, frame)
