"""What an institution knows between the steps of an attempt; each state holds what the later steps need and no more."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lepton_fl.secure_aggregation.messages import Advert, Survivors

# Shares of b and r, by their owner. The owners are U1.
Held = dict[str, tuple[int, int]]


@dataclass(frozen=True, repr=False)
class Start:
    """Nothing yet."""


@dataclass(frozen=True, repr=False)
class Secrets:
    """The two field elements that an institution shares with the others."""

    key: int  # r, which the mask key comes of
    itself: int  # b, which the self mask comes of


@dataclass(frozen=True, repr=False)
class Advertised:
    """Keys are made and sent."""

    secrets: Secrets
    channel: X25519PrivateKey
    advert: Advert


@dataclass(frozen=True, repr=False)
class Shared:
    """The roster is fixed; the channel's private key is gone."""

    secrets: Secrets
    roster_sha256: bytes
    mask_publics: dict[str, bytes]  # of everybody on the roster
    box_keys: dict[str, bytes]  # of the box from each peer
    own_shares: tuple[int, int]


@dataclass(frozen=True, repr=False)
class Received:
    """U1 is fixed."""

    secrets: Secrets
    roster_sha256: bytes
    mask_publics: dict[str, bytes]
    held: Held  # ascending


@dataclass(frozen=True, repr=False)
class Masked:
    """The vector is under its masks; of the secrets only shares are left."""

    roster_sha256: bytes
    held: Held


@dataclass(frozen=True, repr=False)
class Echoed:
    """There is one survivor list, for good."""

    survivors: Survivors
    held: Held


@dataclass(frozen=True, repr=False)
class Done:
    """The answer is made."""


State = Start | Advertised | Shared | Received | Masked | Echoed | Done
