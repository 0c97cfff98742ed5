"""How an answer leaves: from which byte on, in how many; and what may leave whatever the policy says."""

from __future__ import annotations

from functools import lru_cache

from lepton_fl.link import frames
from lepton_fl.link.frames import Parts
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame, Held

FAILURE = "failure"
FAILURE_RULE = "always: that a round was not answered, and the type of the error"
DECLINED = "declined"
DECLINED_RULE = "always: that a kind of message may not leave"
MASKING = "masking"
MASKING_RULE = "always: keys, shares, signatures and masked zeros, which hold nothing of the data"
UNMASKING = "unmasking"
UNMASKING_RULE = "always: shares that unmask the sum of a cohort above the threshold, once in a round"
ENERGY = "energy"  # of a round, to two significant digits; of `policy.may_leave`, no run can ask for it
CERTIFICATE_REQUEST = "certificate-request"
CERTIFICATE_RULE = "always: this institution's public key, for a newer certificate"


def announced(message_id: str, parts: Parts, held: Held) -> Begin:
    """The announcement of an answer, from where the server has it."""
    made = frames.begin(parts, "", message_id)
    if held.message_id == message_id and held.sha256 == made.sha256:
        made.offset = min(held.bytes, parts.size())
    return made


def bytes_of(begin: Begin, parts: Parts) -> int:
    """Bytes of all the frames that this announcement and what follows it take."""
    size = ClientFrame(begin=begin).ByteSize()
    return size + sum(_frame_bytes(data_bytes) for data_bytes in frames.chunk_sizes(parts, begin.offset))


@lru_cache(maxsize=64)
def _frame_bytes(data_bytes: int) -> int:
    """Of a frame with so many bytes of data; most chunks of a message are equally long."""
    return ClientFrame(chunk=Chunk(data=bytes(data_bytes))).ByteSize()
