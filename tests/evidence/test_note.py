"""Heads are C2SP's signed notes, byte by byte; what is signed otherwise is no head."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.evidence.note import BadNote, Checkpoint, cosign, name_of, read, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
PUBLIC, OTHERS = KEY.public_key().public_bytes_raw(), OTHER.public_key().public_bytes_raw()
HEAD = Checkpoint("lepton-fl/log/ab", 20852163, hashlib.sha256(b"root").digest())
NAME = name_of("VA Long+Beach")
SIGNED = sign(KEY, HEAD)
BOTH = cosign(OTHER, NAME, SIGNED, 1679315147)


def test_a_signed_head_is_the_text_that_the_specification_asks_for() -> None:
    body = f"lepton-fl/log/ab\n20852163\n{base64.b64encode(HEAD.root).decode()}\n"
    key_id = hashlib.sha256(b"lepton-fl/log/ab\n\x01" + PUBLIC).digest()[:4]
    first = base64.b64encode(key_id + KEY.sign(body.encode())).decode()
    assert SIGNED.to_bytes().decode() == f"{body}\n\N{EM DASH} lepton-fl/log/ab {first}\n"
    key_id = hashlib.sha256(f"{NAME}\n\x04".encode() + OTHERS).digest()[:4]
    seen = OTHER.sign(f"cosignature/v1\ntime 1679315147\n{body}".encode())
    second = base64.b64encode(key_id + (1679315147).to_bytes(8, "big") + seen).decode()
    assert BOTH.to_bytes() == SIGNED.to_bytes() + f"\N{EM DASH} {NAME} {second}\n".encode()
    assert NAME == "lepton-fl/institution/VA%20Long%2BBeach"


def test_each_signature_is_its_owners_alone() -> None:
    found = read(BOTH.to_bytes())
    assert found == BOTH
    assert found.is_signed(PUBLIC)
    assert found.cosigned_at(NAME, OTHERS) == 1679315147
    assert not found.is_signed(OTHERS)
    assert found.cosigned_at(NAME, PUBLIC) is None
    assert found.cosigned_at(name_of("elm"), OTHERS) is None
    assert SIGNED.cosigned_at(NAME, OTHERS) is None
    assert not SIGNED.is_signed(b"short")


def test_a_second_countersignature_takes_the_place_of_the_first() -> None:
    again = cosign(OTHER, NAME, BOTH, 1679315200)
    assert len(again.lines) == 2
    assert again.cosigned_at(NAME, OTHERS) == 1679315200


@given(st.integers(0, len(BOTH.to_bytes()) - 1), st.integers(1, 255))
def test_no_other_bytes_are_the_same_head_with_both_signatures(position: int, change: int) -> None:
    changed = bytearray(BOTH.to_bytes())
    changed[position] ^= change
    try:
        found = read(bytes(changed))
    except BadNote:
        return
    is_whole = found.is_signed(PUBLIC) and found.cosigned_at(NAME, OTHERS) is not None
    assert found.checkpoint != HEAD or not is_whole


def text(**changed: Any) -> bytes:
    parts = {"origin": "a", "size": "1", "root": base64.b64encode(bytes(32)).decode(), "end": "\n"} | changed
    return f"{parts['origin']}\n{parts['size']}\n{parts['root']}\n{parts['end']}".encode()


def test_a_head_without_signatures_can_be_read() -> None:
    assert read(text()).lines == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"x" * (65 << 10),
        text(size="-1"),
        text(size="01"),
        text(size=" 1"),
        text(size="1_0"),
        text(size=str(1 << 53)),
        text(root=base64.b64encode(bytes(31)).decode()),
        text(root="!"),
        text(origin=""),
        text(origin="a b"),
        text(origin="a\nmore"),
        text(end=""),
        text(end="\nno signature\n"),
        text(end="\n\N{EM DASH} a AAAA\n"),
        text(end="\n\N{EM DASH} a b " + "A" * 92 + "\n"),
    ],
)
def test_what_is_no_head_is_refused(content: bytes) -> None:
    with pytest.raises(BadNote):
        read(content)
