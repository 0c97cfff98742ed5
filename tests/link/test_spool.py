"""Replies on disk: found as they were kept, or not at all; nobody else can read them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from lepton_fl.link.frames import Parts
from lepton_fl.link.spool import Spool

SMALL = some.binary(max_size=40)
REPLIES = some.builds(Parts, SMALL, some.lists(SMALL, max_size=5).map(tuple)).filter(lambda parts: parts.size() > 0)
ONE, OTHER = "0" * 63 + "1", "f" * 64  # ids, as the digest of an instruction makes them
# Every example overwrites the same file, on purpose.
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the reply to ONE lies."""
    return tmp_path / "spool" / ONE


@SHARED
@given(REPLIES)
def test_what_was_kept_is_found(spool: Spool, reply: Parts) -> None:
    spool.keep(ONE, reply)
    assert spool.find(ONE) == reply


@SHARED
@given(REPLIES, REPLIES)
def test_a_later_reply_replaces_an_earlier_one(spool: Spool, first: Parts, second: Parts) -> None:
    spool.keep(ONE, first)
    spool.keep(ONE, second)
    assert spool.find(ONE) == second
    assert spool.holds() == [ONE]


@SHARED
@given(REPLIES, some.data())
def test_a_file_with_one_bit_turned_is_the_reply_or_nothing(
    spool: Spool, file: Path, reply: Parts, data: some.DataObject
) -> None:
    spool.keep(ONE, reply)
    content = bytearray(file.read_bytes())
    place = data.draw(some.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(some.integers(0, 7))
    file.write_bytes(content)
    assert spool.find(ONE) is None


@SHARED
@given(REPLIES, some.data())
def test_a_file_that_was_cut_off_or_grew_is_no_reply(
    spool: Spool, file: Path, reply: Parts, data: some.DataObject
) -> None:
    spool.keep(ONE, reply)
    content = file.read_bytes()
    kept, more = data.draw(some.integers(0, len(content))), data.draw(SMALL)
    file.write_bytes(content[:kept] + more)
    assert spool.find(ONE) in ((reply, None) if content[:kept] + more == content else (None,))


@SHARED
@given(some.binary(max_size=300))
def test_a_file_of_anything_is_no_reply(spool: Spool, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert spool.find(ONE) is None


def test_a_file_under_another_instructions_name_is_no_reply_to_it(spool: Spool, file: Path) -> None:
    spool.keep(ONE, Parts(b"reply", ()))
    file.rename(file.with_name(OTHER))
    assert spool.find(OTHER) is None


def test_an_id_whose_digits_are_anothers_does_not_find_its_reply(spool: Spool) -> None:
    spool.keep("abc", Parts(b"reply", ()))
    assert spool.find("../a/b/c") is None


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "..", ".", "", "x" * 64, "a" * 64 + "/b"])
def test_no_id_leads_out_of_the_folder(spool: Spool, tmp_path: Path, name: str) -> None:
    spool.keep(name, Parts(b"reply", ()))
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "spool"]


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_nobody_else_can_read_a_reply_or_see_which_there_are(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        spool = Spool(tmp_path / "spool")
        spool.keep(ONE, Parts(b"reply", ()))
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").iterdir()] == [0o600]


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda spool: spool.forget(ONE), [OTHER]),
        (lambda spool: spool.forget_others(ONE), [ONE]),
        (lambda spool: spool.forget("abc"), [ONE, OTHER]),
    ],
)
def test_what_is_forgotten_is_gone_and_nothing_else_is(
    spool: Spool, act: Callable[[Spool], None], left: list[str]
) -> None:
    for name in (ONE, OTHER):
        spool.keep(name, Parts(name.encode(), ()))
    act(spool)
    assert spool.holds() == left
    assert [found.envelope.decode() for name in left if (found := spool.find(name)) is not None] == left


def test_what_a_crash_left_half_written_is_not_held(spool: Spool, file: Path) -> None:
    file.with_name(f".{file.name}.partial").write_bytes(b"half")
    assert spool.holds() == []
    assert spool.find(ONE) is None


def test_what_was_kept_is_found_by_the_next_process(spool: Spool, tmp_path: Path) -> None:
    spool.keep(ONE, Parts(b"reply", (b"array", b"")))
    assert Spool(tmp_path / "spool").find(ONE) == Parts(b"reply", (b"array", b""))
