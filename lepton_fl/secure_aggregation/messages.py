"""The protocol's messages, each with one binary form; a signed one is its statement, then 64 bytes of signature.

    operator -> institution     institution -> operator
    R0  RoundParams             Advert
    R1  Roster                  Shares
    R2  Inbox                   UploadHeader and the masked vector
    R3  Survivors               Echo
    R4  Echoes                  Unmask

A message's form is its label, then its fields in the order in which they are declared, one kind for each in `FORM`.
`from_bytes` raises `encoding.Malformed`, a ValueError, and nothing else, whatever the bytes are. It checks form alone:
what a message may say is for `member` and `aggregator`.

Source: Bonawitz et al. 2017, figure 4, the version against a malicious server.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from lepton_fl.secure_aggregation import encoding
from lepton_fl.secure_aggregation.encoding import NAME, NAMES, NUMBER, Kind, Reader
from lepton_fl.secure_aggregation.keys import Identity, is_signed

ELEMENT_BYTES = 32
SHARES_BYTES = 2 * ELEMENT_BYTES  # of b, then of r
BOX_BYTES = SHARES_BYTES + 16  # the tag of AES-GCM
UNSIGNED = bytes(64)
_DOMAIN = "lepton-fl/secure-aggregation/1/"
_HASH = _PUBLIC = _NONCE = encoding.fixed_kind(32)
_SIGNATURE = encoding.fixed_kind(64)
_BOXES = encoding.named_kind(BOX_BYTES)
_ELEMENTS = encoding.named_kind(ELEMENT_BYTES)


class Message:
    """A value with one binary form."""

    LABEL: ClassVar[str]
    FORM: ClassVar[tuple[Kind[Any], ...]]

    def _parts(self) -> list[bytes]:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return [NAME.write(self.LABEL), *(kind.write(value) for kind, value in zip(self.FORM, values, strict=True))]

    def to_bytes(self) -> bytes:
        """Its form; raises `Malformed` if the value has none."""
        return b"".join(self._parts())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The value with these bytes; raises `Malformed` if there is none."""
        reader = Reader(data, cls.LABEL)
        message = cls(*(kind.read(reader) for kind in cls.FORM))
        reader.end()
        return message

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.to_bytes()).digest()


class SignedMessage(Message):
    """A message whose last field is the signature over all that comes before it."""

    signature: bytes

    def statement(self) -> bytes:
        """What is signed: the form without the signature."""
        return b"".join(self._parts()[:-1])

    def is_by(self, public: bytes) -> bool:
        """Whether the holder of this identity key signed it."""
        return is_signed(public, self.LABEL, self.statement(), self.signature)


@dataclass(frozen=True)
class RoundParams(Message):
    """What the operator proposes for one attempt of one round; each institution compares it with what it agreed to."""

    LABEL = _DOMAIN + "round-params"
    FORM = (NUMBER, _HASH, NAME, NUMBER, NUMBER, _HASH, _HASH, NUMBER, NUMBER, NAMES, _NONCE)

    run_id: int
    contract: bytes  # SHA-256 of the signed contract
    purpose: str  # what the vector is: training, evaluation
    round: int
    attempt: int  # with the nonce, all that is the operator's to choose
    model_sha256: bytes
    schema_sha256: bytes
    length: int  # words
    wire_bits: int
    cohort: tuple[str, ...]  # the announced institutions, ascending
    nonce: bytes


@dataclass(frozen=True)
class Advert(SignedMessage):
    """An institution's keys for one attempt, and the parameters they are for."""

    LABEL = _DOMAIN + "advert"
    FORM = (NAME, _HASH, _PUBLIC, _PUBLIC, _HASH, _NONCE, _SIGNATURE)

    institution: str
    params_sha256: bytes
    mask_public: bytes  # X25519; its private key comes of the shared element r
    channel_public: bytes  # X25519
    commitment: bytes  # to the shared element b, which the self mask comes of
    nonce: bytes
    signature: bytes


@dataclass(frozen=True)
class Roster(Message):
    """The adverts of whoever takes part. Its hash goes into every key, box and signature that follows."""

    LABEL = _DOMAIN + "roster"
    FORM = (encoding.list_kind(Advert),)

    adverts: tuple[Advert, ...]  # each institution once, ascending; not a matter of form, so that a refusal can name it

    @property
    def points(self) -> dict[str, int]:
        """Where each institution's shares lie on the polynomials: 1 for the first."""
        return {advert.institution: place for place, advert in enumerate(self.adverts, start=1)}


@dataclass(frozen=True)
class Shares(SignedMessage):
    """One institution's shares of b and r for each of the others, each box under a key of its own."""

    LABEL = _DOMAIN + "shares"
    FORM = (_HASH, NAME, _BOXES, _SIGNATURE)

    roster_sha256: bytes
    institution: str
    boxes: tuple[tuple[str, bytes], ...]  # (receiver, sealed), ascending
    signature: bytes


@dataclass(frozen=True)
class Inbox(Message):
    """The boxes for one institution. Unsigned: each opens only under the key of its sender and this roster."""

    LABEL = _DOMAIN + "inbox"
    FORM = (_HASH, _BOXES)

    roster_sha256: bytes
    boxes: tuple[tuple[str, bytes], ...]  # (sender, sealed), ascending


@dataclass(frozen=True)
class UploadHeader(SignedMessage):
    """Which masks a vector carries, and which vector it is."""

    LABEL = _DOMAIN + "upload"
    FORM = (_HASH, NAMES, _HASH, _SIGNATURE)

    roster_sha256: bytes
    u1: tuple[str, ...]  # whose shares this institution holds, its own among them: its masks are with these
    vector_sha256: bytes
    signature: bytes


@dataclass(frozen=True, eq=False)
class Upload:
    """A masked vector as it travels."""

    header: bytes  # an `UploadHeader`
    packed: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Survivors(Message):
    """Whose vectors are in the sum (U2)."""

    LABEL = _DOMAIN + "survivors"
    FORM = (_HASH, NAMES)

    roster_sha256: bytes
    survivors: tuple[str, ...]


@dataclass(frozen=True)
class Echo(SignedMessage):
    """An institution's word that it saw this survivor list and will see no other."""

    LABEL = _DOMAIN + "echo"
    FORM = (_HASH, _HASH, NAME, _SIGNATURE)

    roster_sha256: bytes
    survivors_sha256: bytes
    institution: str
    signature: bytes


@dataclass(frozen=True)
class Echoes(Message):
    """The echoes of at least the threshold of the survivors."""

    LABEL = _DOMAIN + "echoes"
    FORM = (encoding.list_kind(Echo),)

    echoes: tuple[Echo, ...]  # each institution once, ascending; not a matter of form, so that a refusal can name it


@dataclass(frozen=True)
class Unmask(SignedMessage):
    """One institution's shares of one secret of each of U1: b of a survivor, r of who dropped out, never both."""

    LABEL = _DOMAIN + "unmask"
    FORM = (_HASH, NAME, _ELEMENTS, _ELEMENTS, _SIGNATURE)

    roster_sha256: bytes
    institution: str
    self_shares: tuple[tuple[str, bytes], ...]  # (owner, share of b), ascending
    key_shares: tuple[tuple[str, bytes], ...]  # (owner, share of r), ascending
    signature: bytes


_S = TypeVar("_S", Advert, Shares, UploadHeader, Echo, Unmask)


def signed(message: _S, identity: Identity) -> _S:
    """The message with this identity's signature in place of the one it has."""
    return replace(message, signature=identity.sign(message.LABEL, message.statement()))
