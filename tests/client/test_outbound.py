"""What an answer is said to take on the wire is what its frames have, from whatever byte on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lepton_client.outbound import announced, bytes_of

from lepton_fl.link import frames
from lepton_fl.link.frames import CHUNK_BYTES, Parts
from lepton_fl.v1.federation_pb2 import Chunk, ClientFrame, Held

SIZES = st.lists(st.sampled_from([0, 1, 127, 128, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]), max_size=3)


@given(SIZES, st.integers(0, 4 * CHUNK_BYTES))
def test_the_bytes_announced_are_the_bytes_of_the_frames(sizes: list[int], came: int) -> None:
    parts = Parts(b"envelope", tuple(bytes(size) for size in sizes))
    held = Held(message_id="a", sha256=parts.sha256, bytes=came)
    begin = announced("a", parts, held)
    assert begin.offset == min(came, parts.size())
    data = list(frames.chunks(parts, begin.offset))
    assert b"".join(data) == b"".join(parts.all())[begin.offset :]
    sent = [ClientFrame(begin=begin), *(ClientFrame(chunk=Chunk(data=piece)) for piece in data)]
    assert bytes_of(begin, parts) == sum(frame.ByteSize() for frame in sent)


def test_what_the_server_has_of_another_answer_is_not_taken_for_this_one() -> None:
    parts = Parts(b"envelope", ())
    assert announced("a", parts, Held(message_id="a", sha256=b"x" * 32, bytes=3)).offset == 0
    assert announced("a", parts, Held(message_id="b", sha256=parts.sha256, bytes=3)).offset == 0
