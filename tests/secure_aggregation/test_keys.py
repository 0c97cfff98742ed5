"""Every primitive answers as its standard says, and every key is bound to its purpose."""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lepton_fl.secure_aggregation import keys
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.secure_aggregation.shamir import P


def fixed(byte: int) -> Callable[[int], bytes]:
    return lambda count: bytes([byte]) * count


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, written from its text."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    block, out = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]


@pytest.mark.parametrize(
    "secret, public, message, signature",
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_identities_sign_as_in_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    identity = Identity.from_bytes(bytes.fromhex(secret))
    assert identity.public.hex() == public
    assert identity.key.sign(bytes.fromhex(message)).hex() == signature


def test_an_exchange_agrees_as_in_rfc_7748_section_5_2() -> None:
    private = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    public = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    shared = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert keys.agreed(X25519PrivateKey.from_private_bytes(private), public).hex() == shared


def test_two_institutions_agree_as_in_rfc_7748_section_6_1() -> None:
    alice = X25519PrivateKey.from_private_bytes(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert keys.public_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert keys.agreed(alice, bob).hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_both_ends_agree() -> None:
    one, other = keys.channel_key(os.urandom), keys.channel_key(os.urandom)
    assert keys.agreed(one, keys.public_of(other)) == keys.agreed(other, keys.public_of(one))


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),  # order 4
        bytes([1, *bytes(31)]),  # order 1
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),  # order 8
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),  # order 8
        (P - 1).to_bytes(32, "little"),  # order 2
        P.to_bytes(32, "little"),
        (P + 1).to_bytes(32, "little"),
    ],
)
def test_a_point_that_would_fix_the_result_is_refused(point: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        keys.agreed(keys.channel_key(os.urandom), point)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_public_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        keys.agreed(keys.channel_key(os.urandom), bytes(length))


@pytest.mark.parametrize(
    "secret, salt, info, length, out",
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_the_oracle_for_derived_keys_answers_as_in_rfc_5869(
    secret: str, salt: str, info: str, length: int, out: str
) -> None:
    assert hkdf(bytes.fromhex(secret), bytes.fromhex(salt), bytes.fromhex(info), length).hex() == out


def test_a_derived_key_is_the_one_of_rfc_5869_over_prefixed_parts() -> None:
    info = b"\0\0\0\5label" + b"\0\0\0\3one" + b"\0\0\0\0"
    assert keys.derive(b"secret", "label", b"one", b"") == hkdf(b"secret", b"", info, 32)


def test_no_two_lists_of_contexts_derive_the_same_key() -> None:
    lists = [(), (b"",), (b"", b""), (b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"c", b"ab")]
    assert len({keys.derive(bytes(32), "label", *contexts) for contexts in lists}) == len(lists)


def test_a_label_derives_keys_of_its_own() -> None:
    assert keys.derive(bytes(32), "one", b"x") != keys.derive(bytes(32), "other", b"x")


def test_the_mask_key_of_an_element_is_frozen() -> None:
    """A change would part institutions whose versions differ."""
    label = b"lepton-fl/secure-aggregation/1/mask key"
    expected = hkdf((5).to_bytes(32, "little"), b"", len(label).to_bytes(4, "big") + label, 32)
    assert keys.mask_key(5).private_bytes_raw() == expected


def test_a_commitment_is_frozen_and_binds_its_element() -> None:
    label = b"lepton-fl/secure-aggregation/1/commitment\0"
    assert keys.commitment(5) == hashlib.sha256(label + bytes([5]) + bytes(31)).digest()
    assert keys.commitment(5) != keys.commitment(6)


def test_a_signature_holds_for_its_statement_label_and_signer_alone() -> None:
    identity, other = Identity.generate(fixed(1)), Identity.generate(fixed(2))
    signature = identity.sign("roster", b"statement")
    assert keys.is_signed(identity.public, "roster", b"statement", signature)
    assert not keys.is_signed(identity.public, "roster", b"statement.", signature)
    assert not keys.is_signed(identity.public, "echo", b"statement", signature)
    assert not keys.is_signed(other.public, "roster", b"statement", signature)
    assert not keys.is_signed(identity.public, "roster", b"statement", bytes([signature[0] ^ 1]) + signature[1:])


@pytest.mark.parametrize("public, signature", [(b"", bytes(64)), (bytes(33), bytes(64)), (bytes(32), b"")])
def test_malformed_keys_and_signatures_sign_nothing(public: bytes, signature: bytes) -> None:
    assert not keys.is_signed(public, "label", b"statement", signature)
    assert not keys.is_signed(Identity.generate(fixed(1)).public, "label", b"statement", b"\xff" * 65)


def test_a_statement_cannot_continue_a_label() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        Identity.generate(fixed(1)).sign("label\0", b"statement")


def test_an_identity_survives_its_bytes() -> None:
    identity = Identity.generate(os.urandom)
    assert Identity.from_bytes(identity.secret_bytes()).public == identity.public
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_bytes(bytes(31))


def test_an_identity_is_neither_printed_nor_pickled() -> None:
    identity = Identity.generate(fixed(7))
    assert repr(identity) == f"{identity}" == "Identity(key withheld)"
    with pytest.raises(TypeError):
        pickle.dumps(identity)


def test_a_fingerprint_can_be_read_aloud() -> None:
    groups = keys.fingerprint(b"abc").split(" ")
    assert groups[:3] == ["ba78", "16bf", "8f01"]  # SHA-256 of abc, FIPS 180-4
    assert [len(group) for group in groups] == [4] * 16


@pytest.mark.parametrize(
    "plaintext, sealed",
    [
        ("", "530f8afbc74536b9a963b4f1c4cb738b"),
        ("00" * 16, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
    ],
)
def test_sealing_answers_as_in_the_gcm_specification(plaintext: str, sealed: str) -> None:
    """Test cases 13 and 14 of McGrew and Viega: key and nonce zero, as here."""
    assert keys.seal(bytes(32), bytes.fromhex(plaintext), b"").hex() == sealed
    assert keys.opened(bytes(32), bytes.fromhex(sealed), b"") == bytes.fromhex(plaintext)


def test_what_was_sealed_opens_under_the_same_key_and_binding_alone() -> None:
    sealed = keys.seal(b"k" * 32, b"a share", b"roster")
    assert len(sealed) == len(b"a share") + keys.TAG_BYTES
    assert keys.opened(b"k" * 32, sealed, b"roster") == b"a share"
    assert keys.opened(b"j" * 32, sealed, b"roster") is None
    assert keys.opened(b"k" * 32, sealed, b"another roster") is None
    assert keys.opened(b"k" * 32, sealed[:-1], b"roster") is None
    assert keys.opened(b"k" * 32, b"", b"roster") is None


@pytest.mark.parametrize("place", [0, 6, 7, 22])
def test_no_byte_of_what_was_sealed_can_be_altered(place: int) -> None:
    sealed = bytearray(keys.seal(b"k" * 32, b"a share", b"roster"))
    sealed[place] ^= 1
    assert keys.opened(b"k" * 32, bytes(sealed), b"roster") is None


@pytest.mark.parametrize("length", [16, 24, 0, 33])
def test_only_keys_of_32_bytes_seal(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        keys.seal(bytes(length), b"", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        keys.opened(bytes(length), bytes(16), b"")
