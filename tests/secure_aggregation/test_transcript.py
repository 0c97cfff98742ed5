"""A whole round is byte for byte the committed one, and the committed one is what the document says it is.

The second half works from the file alone, with hashlib, hmac and single AES blocks: a second implementation of the
parts that two versions must have alike.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import numpy as np
import pytest
from attempts import seeded
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from transcript import FILE, LENGTH, played

P = 2**255 - 19
DOMAIN = b"lepton-fl/secure-aggregation/1/"
FROZEN: dict[str, Any] = json.loads(FILE.read_text())


def test_a_round_with_the_same_coins_has_the_committed_bytes() -> None:
    again = json.loads(json.dumps(played()))
    assert list(again) == list(FROZEN)
    for step, messages in again.items():
        assert messages == FROZEN[step], step


def test_the_sum_is_that_of_the_vectors() -> None:
    assert list(FROZEN["vectors"]) == ["h00", "h01", "h02"]
    columns = zip(*FROZEN["vectors"].values(), strict=True)
    assert FROZEN["sum"] == [sum(column) % 2**24 for column in columns]


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def hkdf(secret: bytes, *info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, one block."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(extracted, prefixed(*info) + b"\x01", "sha256")


def element(stream: Any) -> bytes:
    """A field element from the coins: 32 bytes little-endian, without the highest bit."""
    coins = bytearray(stream(32))
    coins[31] &= 0x7F
    return bytes(coins)


def advert(name: str) -> dict[str, bytes]:
    data = bytes.fromhex(FROZEN["adverts"][name])
    head = prefixed(DOMAIN + b"advert", name.encode())
    assert data.startswith(head)
    fields = ("params", "mask", "channel", "commitment", "nonce")
    return {field: data[len(head) + 32 * place :][:32] for place, field in enumerate(fields)}


def coins_of(name: str) -> tuple[bytes, bytes]:
    """r and b, in the order in which they are drawn."""
    stream = seeded(f"transcript {name} 1")
    return element(stream), element(stream)


def mask_key(r: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(hkdf(r, DOMAIN + b"mask key"))


def key_stream(key: bytes) -> list[int]:
    """Words of AES-256 of 0, 1, 2, ..., one block at a time."""
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 - single blocks are what counter mode is made of
    stream = b"".join(block.update(counter.to_bytes(16, "big")) for counter in range(LENGTH))
    return [int.from_bytes(stream[4 * at : 4 * at + 4], "little") for at in range(LENGTH)]


@pytest.mark.parametrize("name", ["h00", "h01", "h02", "h03"])
def test_an_advert_holds_the_keys_of_its_coins_and_is_signed(name: str) -> None:
    r, b = coins_of(name)
    assert advert(name)["params"] == hashlib.sha256(bytes.fromhex(FROZEN["params"])).digest()
    assert advert(name)["mask"] == mask_key(r).public_key().public_bytes_raw()
    assert advert(name)["commitment"] == hashlib.sha256(DOMAIN + b"commitment\0" + b).digest()
    data = bytes.fromhex(FROZEN["adverts"][name])
    identity = Ed25519PublicKey.from_public_bytes(bytes.fromhex(FROZEN["identities"][name]))
    identity.verify(data[-64:], DOMAIN + b"advert\0" + data[:-64])


@pytest.mark.parametrize("name", ["h00", "h01", "h02"])
def test_an_upload_is_the_vector_its_self_mask_and_three_pair_masks(name: str) -> None:
    r, b = coins_of(name)
    roster_sha256 = hashlib.sha256(bytes.fromhex(FROZEN["roster"])).digest()
    words = np.array(FROZEN["vectors"][name], np.int64)
    words += np.array(key_stream(hkdf(b, DOMAIN + b"self mask", roster_sha256)))
    for peer in ("h00", "h01", "h02", "h03"):
        if peer != name:
            common = mask_key(r).exchange(X25519PublicKey.from_public_bytes(advert(peer)["mask"]))
            low, high = sorted((name.encode(), peer.encode()))
            mask = np.array(key_stream(hkdf(common, DOMAIN + b"pair mask", roster_sha256, low, high)))
            words += mask if name < peer else -mask
    low_halves = b"".join(int(word % 2**16).to_bytes(2, "little") for word in words)
    third_bytes = bytes(int(word % 2**24) >> 16 for word in words)
    assert FROZEN["uploads"][name] == (low_halves + third_bytes).hex()


def test_the_answers_hold_three_shares_of_each_secret_and_no_share_of_a_second() -> None:
    answers = {name: bytes.fromhex(answer) for name, answer in FROZEN["unmasks"].items()}
    shares: dict[str, dict[int, int]] = {}
    for point, (name, answer) in enumerate(answers.items(), start=1):
        head = prefixed(DOMAIN + b"unmask")
        roster_sha256 = hashlib.sha256(bytes.fromhex(FROZEN["roster"])).digest()
        expected = head + roster_sha256 + prefixed(name.encode()) + b"\0\0\0\x03"
        assert answer.startswith(expected)
        at = len(expected)
        for owner in (b"h00", b"h01", b"h02", b"h03"):
            if owner == b"h03":
                assert answer[at : at + 4] == b"\0\0\0\x01"
                at += 4
            assert answer[at : at + 7] == prefixed(owner)
            shares.setdefault(owner.decode(), {})[point] = int.from_bytes(answer[at + 7 : at + 39], "little")
            at += 39
        assert len(answer) == at + 64
    for owner, points in shares.items():
        r, b = coins_of(owner)
        # Through 1, 2 and 3 the value at 0 is 3 f(1) - 3 f(2) + f(3).
        secret = (3 * points[1] - 3 * points[2] + points[3]) % P
        assert secret == int.from_bytes(r if owner == "h03" else b, "little")
