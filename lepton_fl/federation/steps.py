"""The messages of a masked round as they ride in Flower's: a step's name, its bytes, and with the upload the vector.

Source: the steps R0 to R4 of `docs/secure-aggregation.md`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lepton_fl.federation.codec import BadMessage, read_header
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from lepton_fl.training.weights import WEIGHTS_KEY

RECORD = "secure-aggregation"
PARAMS, ROSTER, INBOX, SURVIVORS, ECHOES = STEPS = ("params", "roster", "inbox", "survivors", "echoes")
_VECTOR, _PACKED = "vector", "packed"


@dataclass(frozen=True)
class Step:
    """What one message of a masked round says."""

    name: str  # of STEPS: what the operator sent, or what is answered
    body: bytes


def record_of(step: Step) -> ConfigRecord:
    """As it rides in a message."""
    return ConfigRecord({"step": step.name, "body": step.body})


def step_of(content: RecordDict) -> Step | None:
    """What a message says of a masked round; None if it is part of none.

    Raises:
        BadMessage: what stands there is no step.
    """
    if RECORD not in content.config_records:
        return None
    record = content.config_records[RECORD]
    name, body = record.get("step"), record.get("body")
    if set(record) != {"step", "body"} or name not in STEPS or not isinstance(body, bytes):
        raise BadMessage("what should be a step of secure aggregation is none")
    return Step(str(name), body)


def told_sha256(model: bytes, content: RecordDict) -> bytes:
    """What everybody in a sum was told: the digest of the model, and of the groups' weights where there are any.

    An operator that tells one institution other weights is left without it, as with another model.

    Args:
        model: digest of the model that the instruction holds.
    """
    weights = content.config_records["config"].get(WEIGHTS_KEY)
    return model if weights is None else hashlib.sha256(model + json.dumps(weights).encode()).digest()


def begins(content: RecordDict) -> bool:
    """Whether a message opens a masked round: it alone holds a model and settings."""
    step = step_of(content)
    return step is not None and step.name == PARAMS


def answer(message: Message, step: Step, packed: npt.NDArray[np.uint8] | None = None) -> Message:
    """The answer to a step; with the vector, where the step is its upload."""
    content = RecordDict({RECORD: record_of(step)})
    if packed is not None:
        content[_VECTOR] = ArrayRecord({_PACKED: Array(packed)})
    return Message(content, reply_to=message)


def answered(reply: Message, name: str, packed_bytes: int) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """What an institution answered to a step: its bytes, and the vector where one is due.

    Args:
        packed_bytes: length of the vector that is due; 0: none.

    Raises:
        BadMessage: it is no answer to this step, or holds anything else.
    """
    content = reply.content
    step = step_of(content)
    if step is None or step.name != name or set(content) != {RECORD, *([_VECTOR] if packed_bytes else [])}:
        raise BadMessage(f"it is no answer to the step {name}")
    if not packed_bytes:
        return step.body, np.empty(0, np.uint8)
    arrays = content.array_records[_VECTOR]
    if list(arrays) != [_PACKED]:
        raise BadMessage("its upload holds other arrays than the vector")
    data = arrays[_PACKED].data
    form = read_header(data)
    if form.dtype != np.dtype("u1") or form.shape != (packed_bytes,) or len(data) - form.start != packed_bytes:
        raise BadMessage("its vector has another length than was agreed to")
    return step.body, np.frombuffer(data, np.uint8, offset=form.start)
