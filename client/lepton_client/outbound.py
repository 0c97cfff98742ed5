"""What an answer is when it leaves: its kind, the rule that lets it, and how many bytes its frames have."""

from __future__ import annotations

from lepton_fl.federation.contract import EXACT_COUNTS, PLAIN_UPDATE, RECORD_COUNT, Contract
from lepton_fl.link import frames
from lepton_fl.link.frames import Parts
from lepton_fl.v1.federation_pb2 import Begin, Chunk, ClientFrame, Held

FAILURE = "failure"  # the name of an error's type, or that something is declined; no value
FAILURE_RULE = "always: that a round was not answered, and the type of the error"


def announced(message_id: str, parts: Parts, held: Held) -> Begin:
    """The announcement of an answer, from where the server has it."""
    made = frames.begin(parts, "", message_id)
    if held.message_id == message_id and held.sha256 == made.sha256:
        made.offset = min(held.bytes, parts.size())
    return made


def bytes_of(begin: Begin, parts: Parts) -> int:
    """Bytes of all the frames that this announcement and what follows it take."""
    size = ClientFrame(begin=begin).ByteSize()
    return size + sum(ClientFrame(chunk=Chunk(data=data)).ByteSize() for data in frames.chunks(parts, begin.offset))


def kinds_of_training(contract: Contract) -> tuple[str, ...]:
    """What a trained round's answer holds."""
    return contract.must_leave


def journal_kind(kinds: tuple[str, ...]) -> str:
    """One word for the journal."""
    return "+".join(kinds)


def is_covered(kinds: tuple[str, ...]) -> bool:
    """Whether an epsilon covers all of this."""
    return not {PLAIN_UPDATE, RECORD_COUNT, EXACT_COUNTS} & {*kinds}
