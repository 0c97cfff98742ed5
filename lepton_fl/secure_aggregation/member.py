"""An institution's side of one attempt of one round: a state machine that refuses by name and then knows nothing more.

The operator may be malicious, so every figure here is the institution's own: what it agreed to, the threshold from the
announced cohort, its one survivor list. Each step takes the state that the one before left; while it works there is no
state, so whatever is refused leaves the machine burned, its secrets unreferenced.

Source: Bonawitz et al. 2017, figure 4, the version against a malicious server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from lepton_fl.secure_aggregation import cohort, shamir
from lepton_fl.secure_aggregation.agreement import box_keys, opened_pair, pair_stream, sealed_pair, self_stream
from lepton_fl.secure_aggregation.checks import (
    check_cohort,
    check_echoes,
    check_roster,
    check_same_roster,
    check_survivors,
    check_vector,
)
from lepton_fl.secure_aggregation.keys import Identity, channel_key, commitment, mask_key, public_of
from lepton_fl.secure_aggregation.masks import add_masks
from lepton_fl.secure_aggregation.messages import (
    UNSIGNED,
    Advert,
    Echo,
    Echoes,
    Inbox,
    Roster,
    RoundParams,
    Shares,
    Survivors,
    Unmask,
    Upload,
    UploadHeader,
    signed,
)
from lepton_fl.secure_aggregation.packing import WIRE_BITS, pack
from lepton_fl.secure_aggregation.refusals import Aborted
from lepton_fl.secure_aggregation.source import Source
from lepton_fl.secure_aggregation.states import (
    Advertised,
    Done,
    Echoed,
    Masked,
    Received,
    Secrets,
    Shared,
    Start,
    State,
)

NONCE_BYTES = 32
# The fields of `RoundParams` that an institution knows by itself, and the refusal if the operator's differ.
_AGREED = {
    "run_id": "other run",
    "contract": "other contract",
    "purpose": "other purpose",
    "round": "other round",
    "model_sha256": "other model",
    "schema_sha256": "other schema",
    "length": "other length",
    "wire_bits": "other ring",
}


@dataclass(frozen=True)
class Agreed:
    """What an institution itself knows and agreed to; nothing of it comes from the operator's message."""

    run_id: int
    contract: bytes  # SHA-256 of the signed contract
    purpose: str
    round: int
    model_sha256: bytes  # of the model that came with the instruction
    schema_sha256: bytes
    length: int  # words
    wire_bits: int  # 24 or 32
    identities: Mapping[str, bytes]  # every institution of the signed contract, and its Ed25519 public key
    least_cohort: int  # of the institution's own policy: in no sum of fewer; below `cohort.LEAST` it is raised to it


class Answered(Protocol):
    """The institution's durable record of the rounds it unmasked."""

    def mark(self, run_id: int, purpose: str, round: int) -> None:
        """The round is on disk as answered before this returns; raises Aborted("second unmask") if it was before."""


_S = TypeVar("_S", Start, Advertised, Shared, Received, Masked, Echoed)
_M = TypeVar("_M", RoundParams, Roster, Inbox, Survivors, Echoes)


class Member:
    """One institution in one attempt. Steps come in order, each once; any refusal burns it."""

    def __init__(self, name: str, identity: Identity, agreed: Agreed, source: Source) -> None:
        """Raises `Aborted` if the contract does not name this institution with this key."""
        if agreed.identities.get(name) != identity.public:
            raise Aborted("not in the contract", name)
        if agreed.wire_bits not in WIRE_BITS:
            raise Aborted("other ring", f"{agreed.wire_bits} bits were agreed to")
        self._name, self._identity, self._agreed, self._source = name, identity, agreed, source
        self._threshold = cohort.threshold(len(agreed.identities))
        self._least = max(cohort.LEAST, agreed.least_cohort)
        self._state: State | None = Start()

    def __repr__(self) -> str:
        return f"Member({self._name!r}, secrets withheld)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a member of an attempt holds secrets and is never copied or written")

    def forget(self) -> None:
        """The attempt is over for this institution; nothing refers to its secrets any more."""
        self._state = None

    def advertise(self, params: bytes) -> bytes:
        """R0: new keys for exactly the round that was agreed to.

        Args:
            params: a `RoundParams` of the operator.

        Returns:
            An `Advert`.

        Raises:
            Aborted: if a field is not as agreed, by its name, or the cohort is too small or not of separate keys.
        """
        self._take(Start)
        proposed = _read(RoundParams, params)
        for field, refusal in _AGREED.items():
            if getattr(proposed, field) != getattr(self._agreed, field):
                raise Aborted(refusal)
        check_cohort(proposed.cohort, self._agreed.identities, self._least)
        secrets = Secrets(shamir.element(self._source), shamir.element(self._source))
        channel = channel_key(self._source)
        unsigned = Advert(
            self._name,
            proposed.sha256,
            public_of(mask_key(secrets.key)),
            public_of(channel),
            commitment(secrets.itself),
            self._source(NONCE_BYTES),
            UNSIGNED,
        )
        advert = signed(unsigned, self._identity)
        self._state = Advertised(secrets, channel, advert)
        return advert.to_bytes()

    def share(self, roster: bytes) -> bytes:
        """R1: a share of b and of r for everybody on a roster that passes `check_roster`.

        Args:
            roster: a `Roster` of the operator.

        Returns:
            A `Shares`.

        Raises:
            Aborted: as `check_roster`.
        """
        state = self._take(Advertised)
        seen = _read(Roster, roster)
        check_roster(seen, state.advert, self._agreed.identities, self._least)
        sha256 = seen.sha256
        points = seen.points
        of_b, of_r = (
            shamir.split(secret, self._threshold, list(points.values()), self._source)
            for secret in (state.secrets.itself, state.secrets.key)
        )
        boxes, incoming = [], {}
        for peer in seen.adverts:
            name, public = peer.institution, peer.channel_public
            if name != self._name:
                out, incoming[name] = box_keys(state.channel, public, sha256, (self._name, name))
                boxes.append((name, sealed_pair(out, (of_b[points[name]], of_r[points[name]]), sha256)))
        shares = signed(Shares(sha256, self._name, tuple(boxes), UNSIGNED), self._identity)
        mask_publics = {advert.institution: advert.mask_public for advert in seen.adverts}
        own = of_b[points[self._name]], of_r[points[self._name]]
        self._state = Shared(state.secrets, sha256, mask_publics, incoming, own)
        return shares.to_bytes()

    def receive(self, inbox: bytes) -> None:
        """R2: U1 is whoever's box opened, and this institution. A peer whose box does not open is left out.

        Args:
            inbox: an `Inbox` of the operator.

        Raises:
            Aborted: if it is of another roster, from outside it, or opens for fewer than the threshold.
        """
        state = self._take(Shared)
        came = _read(Inbox, inbox)
        check_same_roster(came.roster_sha256, state.roster_sha256)
        held = {self._name: state.own_shares}
        for sender, sealed in came.boxes:
            if sender not in state.box_keys:
                raise Aborted("unknown sender", sender)
            if (pair := opened_pair(state.box_keys[sender], sealed, state.roster_sha256)) is not None:
                held[sender] = pair
        if len(held) < self._threshold:
            raise Aborted("below threshold", f"the shares of {len(held)} opened")
        ascending = {owner: held[owner] for owner in sorted(held)}
        self._state = Received(state.secrets, state.roster_sha256, state.mask_publics, ascending)

    def mask(self, words: npt.NDArray[np.uint32], threads: int = 1) -> Upload:
        """R2: the vector under its self mask and a mask with each other institution of U1. `words` stays as it is.

        Args:
            words: the agreed length; each is an integer in two's complement, whose size times the cohort fits the ring.
            threads: cores that may work on it.

        Raises:
            Aborted: if the vector is not such a one.
        """
        state = self._take(Received)
        check_vector(words, self._agreed.length, self._agreed.wire_bits, len(self._agreed.identities))
        own = mask_key(state.secrets.key)
        streams = [self_stream(state.secrets.itself, state.roster_sha256, 1)]
        for peer in state.held:
            if peer != self._name:
                public = state.mask_publics[peer]
                streams.append(pair_stream(own, public, state.roster_sha256, (self._name, peer)))
        masked = np.array(words, np.uint32, order="C")
        add_masks(masked, streams, threads)
        packed = pack(masked, self._agreed.wire_bits)
        sha256 = hashlib.sha256(packed.data).digest()
        header = signed(UploadHeader(state.roster_sha256, tuple(state.held), sha256, UNSIGNED), self._identity)
        self._state = Masked(state.roster_sha256, state.held)
        return Upload(header.to_bytes(), packed)

    def echo(self, survivors: bytes) -> bytes:
        """R3: this institution's word for the one survivor list it will ever answer for.

        Args:
            survivors: a `Survivors` of the operator.

        Returns:
            An `Echo`.

        Raises:
            Aborted: if the list is not part of U1, lacks this institution, is below the threshold, or is the second.
        """
        state = self._take(Masked)
        came = _read(Survivors, survivors)
        check_same_roster(came.roster_sha256, state.roster_sha256)
        check_survivors(came, self._name, state.held, max(self._threshold, self._least))
        echo = signed(Echo(state.roster_sha256, came.sha256, self._name, UNSIGNED), self._identity)
        self._state = Echoed(came, state.held)
        return echo.to_bytes()

    def unmask(self, echoes: bytes, answered: Answered) -> bytes:
        """R4: one share for each of U1, once per round for ever: of b for a survivor, of r for who dropped out.

        Args:
            echoes: an `Echoes` of the operator.
            answered: the round is marked there before any share is put into the answer.

        Returns:
            An `Unmask`. Nothing refers to this institution's secrets afterwards.

        Raises:
            Aborted: unless at least the threshold of survivors signed the very list that this institution saw; or
                the round was answered before, whatever the attempt.
        """
        state = self._take(Echoed)
        check_echoes(_read(Echoes, echoes), state.survivors, self._agreed.identities, self._threshold)
        answered.mark(self._agreed.run_id, self._agreed.purpose, self._agreed.round)
        kept = set(state.survivors.survivors)
        of_b = tuple((owner, shamir.to_bytes(b)) for owner, (b, _) in state.held.items() if owner in kept)
        of_r = tuple((owner, shamir.to_bytes(r)) for owner, (_, r) in state.held.items() if owner not in kept)
        unmask = Unmask(state.survivors.roster_sha256, self._name, of_b, of_r, UNSIGNED)
        self._state = Done()
        return signed(unmask, self._identity).to_bytes()

    def _take(self, wanted: type[_S]) -> _S:
        """The state, which is then no longer kept: whatever is refused from here on burns this member."""
        state, self._state = self._state, None
        if isinstance(state, wanted):
            return state
        if state is None:
            raise Aborted("burned")
        raise Aborted(_AGAIN.get((wanted, type(state)), "out of order"))


# A step that was taken already, where its repetition has a name of its own.
_AGAIN: dict[tuple[type[State], type[State]], str] = {
    (Masked, Echoed): "second survivor list",
    (Echoed, Done): "second unmask",
}


def _read(kind: type[_M], data: bytes) -> _M:
    try:
        return kind.from_bytes(data)
    except ValueError as error:
        raise Aborted("malformed message", str(error)) from error
