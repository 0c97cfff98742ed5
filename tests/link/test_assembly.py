"""A message comes together from whatever pieces it travels in, and only if it is the one that was announced."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lepton_fl.link import frames
from lepton_fl.link.frames import CHUNK_BYTES, Assembler, BadFrame, Parts
from lepton_fl.link.spool import Spool
from lepton_fl.v1.federation_pb2 import Begin

MESSAGE = Parts(b"envelope", (b"abc", b"", b"defgh"))
WIRE = b"envelopeabcdefgh"


def assembler(announced: Begin, most_bytes: int = 1000) -> Assembler:
    return Assembler(announced, most_bytes)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", range(1, len(WIRE) + 1))
def test_however_a_message_is_cut_it_is_whole_with_its_last_byte_and_not_before(size: int) -> None:
    came = assembler(frames.begin(MESSAGE, "m"))
    *before, last = [came.add(piece) for piece in cut(WIRE, size)]
    assert before == [None] * len(before)
    assert last == MESSAGE


@pytest.mark.parametrize("lengths", list(itertools.product([0, 2], repeat=3)))
def test_parts_without_a_byte_keep_their_place(lengths: tuple[int, ...]) -> None:
    message = Parts(b"e", tuple(b"x" * length for length in lengths))
    last = assembler(frames.begin(message, "m")).add(b"e" + b"x" * sum(lengths))
    assert last == message


def test_a_large_message_comes_together_from_its_own_chunks() -> None:
    message = Parts(b"e" * 10, (bytes(3 * CHUNK_BYTES + 1), b"f" * CHUNK_BYTES))
    pieces = list(frames.chunks(message))
    came = assembler(frames.begin(message, "m"), 10 * CHUNK_BYTES)
    assert [came.add(piece) for piece in pieces][-1] == message
    assert max(map(len, pieces)) == CHUNK_BYTES


@pytest.mark.parametrize("offset", range(len(WIRE)))
def test_chunks_from_an_offset_are_the_rest_of_the_message(offset: int) -> None:
    assert b"".join(frames.chunks(MESSAGE, offset)) == WIRE[offset:]


def test_other_bytes_than_announced_are_refused_with_the_last_of_them() -> None:
    came = assembler(frames.begin(MESSAGE, "m"))
    with pytest.raises(BadFrame, match="digest"):
        came.add(WIRE[:-1] + b"!")


def test_the_same_bytes_cut_into_other_parts_are_another_message() -> None:
    announced = frames.begin(MESSAGE, "m")
    announced.array_bytes[:] = [4, 0, 4]
    with pytest.raises(BadFrame, match="digest"):
        assembler(announced).add(WIRE)


@pytest.mark.parametrize("piece", [b"", WIRE + b"!"])
def test_an_empty_piece_and_one_too_long_are_refused(piece: bytes) -> None:
    with pytest.raises(BadFrame, match="empty or longer"):
        assembler(frames.begin(MESSAGE, "m")).add(piece)


def test_more_than_may_come_is_refused_before_a_byte_came() -> None:
    with pytest.raises(BadFrame, match="16 bytes in 4 parts is announced; 15 may come"):
        assembler(frames.begin(MESSAGE, "m"), 15)


def test_a_message_that_came_is_kept_and_found_as_it_was_sent(tmp_path: Path) -> None:
    came = assembler(frames.begin(MESSAGE, "m")).add(WIRE)
    assert came is not None
    assert came.sha256 == MESSAGE.sha256
    Spool(tmp_path).keep("abc", came)
    assert Spool(tmp_path).find("abc") == MESSAGE
    assert (tmp_path / "abc").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "abc").read_bytes().endswith(WIRE)


def test_a_kept_message_with_one_other_byte_is_not_found(tmp_path: Path) -> None:
    Spool(tmp_path).keep("abc", MESSAGE)
    content = bytearray((tmp_path / "abc").read_bytes())
    content[-1] ^= 1
    (tmp_path / "abc").write_bytes(content)
    assert Spool(tmp_path).find("abc") is None
