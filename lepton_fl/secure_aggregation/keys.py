"""The keys of secure aggregation: identities that outlive the operator's CA, and keys that live for one round.

An identity is born at its institution and pinned in the contract that every institution signs, since whoever keeps the
CA could certify keys of its own. All other keys are for one attempt of one round.

Source: RFC 8032 (Ed25519), RFC 7748 (X25519), RFC 5869 (HKDF), NIST SP 800-38D (GCM).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lepton_fl.secure_aggregation import shamir
from lepton_fl.secure_aggregation.source import Source

KEY_BYTES = 32  # of every key, public or private
SIGNATURE_BYTES = 64
TAG_BYTES = 16  # by which a sealed text is longer than what it holds

_MASK_KEY = "lepton-fl/secure-aggregation/1/mask key"
_COMMITMENT = "lepton-fl/secure-aggregation/1/commitment"
_NONCE = bytes(12)


@dataclass(frozen=True, eq=False)
class Identity:
    """An institution's Ed25519 key; lives where it signs."""

    key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return "Identity(key withheld)"

    @classmethod
    def generate(cls, source: Source) -> Identity:
        """A new one."""
        return cls.from_bytes(source(KEY_BYTES))

    @classmethod
    def from_bytes(cls, secret: bytes) -> Identity:
        """The one of exactly these 32 bytes; raises ValueError for any other length."""
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    @property
    def public(self) -> bytes:
        """32 bytes, as the contract pins them."""
        return self.key.public_key().public_bytes_raw()

    def secret_bytes(self) -> bytes:
        """32 bytes, for the institution's own disk and nowhere else."""
        return self.key.private_bytes_raw()

    def sign(self, label: str, statement: bytes) -> bytes:
        """64 bytes: this statement, signed for this purpose and no other."""
        return self.key.sign(_message(label, statement))


def is_signed(public: bytes, label: str, statement: bytes, signature: bytes) -> bool:
    """Whether the holder of this identity signed this statement for this purpose; malformed means no."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _message(label, statement))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key in hexadecimal groups of four, to be compared over the telephone."""
    digest = hashlib.sha256(public).hexdigest()
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


def derive(secret: bytes, label: str, *context: bytes) -> bytes:
    """A 32-byte key for one purpose: HKDF-SHA256 without salt.

    Label and contexts are each prefixed by their length in `info`, so that no two lists of them give the same.
    """
    info = b"".join(len(part).to_bytes(4, "big") + part for part in (label.encode("ascii"), *context))
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def mask_key(element: int) -> X25519PrivateKey:
    """The key that pairwise masks are agreed with: derived from the element whose shares the others hold."""
    return X25519PrivateKey.from_private_bytes(derive(shamir.to_bytes(element), _MASK_KEY))


def channel_key(source: Source) -> X25519PrivateKey:
    """A new key that shares travel under; nobody else ever holds a part of it."""
    return X25519PrivateKey.from_private_bytes(source(KEY_BYTES))


def public_of(private: X25519PrivateKey) -> bytes:
    """32 bytes."""
    return private.public_key().public_bytes_raw()


def agreed(private: X25519PrivateKey, public: bytes) -> bytes:
    """The 32 bytes that both ends of an X25519 exchange hold; derive keys from it.

    Raises:
        ValueError: if the other's key is not 32 bytes, or a point of small order, which would fix the result.
    """
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def commitment(element: int) -> bytes:
    """32 bytes that bind whoever publishes them to a uniform field element without showing it."""
    return hashlib.sha256(_message(_COMMITMENT, shamir.to_bytes(element))).digest()


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """AES-256-GCM of the text, bound to `associated`; the key must never seal a second time.

    The nonce is zero because the key is for one message: two under the same key would show both texts' difference
    and let others forge.
    """
    return AESGCM(_key(key)).encrypt(_NONCE, plaintext, associated)


def opened(key: bytes, sealed: bytes, associated: bytes) -> bytes | None:
    """What was sealed, or None if the key, the text or what it is bound to is another."""
    try:
        return AESGCM(_key(key)).decrypt(_NONCE, sealed, associated)
    except InvalidTag:
        return None


def _key(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:  # AES-GCM would take a shorter one
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return key


def _message(label: str, statement: bytes) -> bytes:
    encoded = label.encode("ascii")
    if b"\0" in encoded:  # else a statement could continue a label
        raise ValueError("a label has no zero byte")
    return encoded + b"\0" + statement
