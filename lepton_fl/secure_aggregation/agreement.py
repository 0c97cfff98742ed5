"""Keys that two institutions hold in common, each for one use: a mask, or a box of shares.

Every key is bound to the roster's hash, thereby to the round, the attempt, the parameters and everybody's keys: what is
made for one roster opens and cancels nothing under another.

Source: Bonawitz et al. 2017, figure 4; RFC 5869.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lepton_fl.secure_aggregation import shamir
from lepton_fl.secure_aggregation.keys import agreed, channel_key, derive, opened, seal
from lepton_fl.secure_aggregation.masks import Stream

_SELF = "lepton-fl/secure-aggregation/1/self mask"
_PAIR = "lepton-fl/secure-aggregation/1/pair mask"
_ELEMENT_BYTES = 32
_CHANNEL = "lepton-fl/secure-aggregation/1/channel"


def self_stream(element: int, roster_sha256: bytes, sign: int) -> Stream:
    """The mask of one institution alone, which is taken away only if its vector is in the sum."""
    return Stream(derive(shamir.to_bytes(element), _SELF, roster_sha256), sign)


def pair_stream(private: X25519PrivateKey, public: bytes, roster_sha256: bytes, pair: tuple[str, str]) -> Stream:
    """The mask that the first of a pair adds towards the second; the second's towards the first is its negative.

    Args:
        private: the mask key of either.
        public: the mask key of the other.
        roster_sha256: what it is bound to.
        pair: whose vector it is in, and the other.

    Raises:
        ValueError: if the public key gives no secret.
    """
    low, high = sorted(pair)
    key = derive(agreed(private, public), _PAIR, roster_sha256, low.encode(), high.encode())
    return Stream(key, 1 if pair[0] == low else -1)


def box_keys(
    private: X25519PrivateKey, public: bytes, roster_sha256: bytes, way: tuple[str, str]
) -> tuple[bytes, bytes]:
    """The keys of the one box from the first institution of `way` to the second, and of the one back.

    Raises:
        ValueError: if the public key gives no secret.
    """
    common, (here, there) = agreed(private, public), way
    first, second = (
        derive(common, _CHANNEL, roster_sha256, sender.encode(), receiver.encode())
        for sender, receiver in ((here, there), (there, here))
    )
    return first, second


def sealed_pair(key: bytes, pair: tuple[int, int], roster_sha256: bytes) -> bytes:
    """A box of 80 bytes: a share of b, then of r."""
    return seal(key, b"".join(map(shamir.to_bytes, pair)), roster_sha256)


def opened_pair(key: bytes, box: bytes, roster_sha256: bytes) -> tuple[int, int] | None:
    """The shares of b and r in a box, or None if it does not open or holds no two field elements."""
    text = opened(key, box, roster_sha256)
    if text is None:
        return None
    try:
        return shamir.from_bytes(text[:_ELEMENT_BYTES]), shamir.from_bytes(text[_ELEMENT_BYTES:])
    except ValueError:
        return None


def gives_a_secret(public: bytes) -> bool:
    """Whether a public key is no point of small order, with which every exchange would give the same."""
    try:
        agreed(_ANY, public)
    except ValueError:
        return False
    return True


# Whether an exchange comes out as zero does not depend on the private key, so a public one serves.
_ANY = channel_key(bytes)
