"""The operator's side of one attempt: what came in, checked; what goes out; at the end the sum and nothing else.

Pure: the same inputs give the same outputs, so a server that starts again replays an attempt from its disk. What one
institution sends wrongly costs that institution its place, noted in `refused`, and not the others their round. Members
check the operator for themselves (`member`); nothing here protects an institution's secrets.

Source: Bonawitz et al. 2017, figure 4, the server's part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError
from lepton_fl.secure_aggregation.agreement import gives_a_secret
from lepton_fl.secure_aggregation.cohort import LEAST, threshold
from lepton_fl.secure_aggregation.encoding import MOST_INSTITUTIONS
from lepton_fl.secure_aggregation.masks import add_masks
from lepton_fl.secure_aggregation.messages import (
    Advert,
    Echo,
    Echoes,
    Inbox,
    Roster,
    RoundParams,
    Shares,
    SignedMessage,
    Survivors,
    Unmask,
    Upload,
    UploadHeader,
)
from lepton_fl.secure_aggregation.packing import WIRE_BITS, add_packed, packed_bytes
from lepton_fl.secure_aggregation.refusals import BelowThreshold
from lepton_fl.secure_aggregation.unmasking import Answers, masks_left

_M = TypeVar("_M", bound=SignedMessage)


@dataclass(frozen=True, eq=False)
class Total:
    """What the operator learns."""

    words: npt.NDArray[
        np.uint32
    ]  # the survivors' sum; only the low `wire_bits` have meaning, `packing.signed` reads them
    survivors: tuple[str, ...]
    false_shares: frozenset[
        str
    ]  # whose answers had shares that are off; they, or the owner who dealt them, are at fault


class Aggregator:
    """One attempt of one round, from its parameters to its sum. Steps come in order, each once."""

    def __init__(self, params: RoundParams, identities: Mapping[str, bytes]) -> None:
        """Raises `ConfigError` if the parameters do not fit the announced cohort, or there is no such ring.

        Args:
            params: what the institutions are asked to compare with their contract.
            identities: the announced cohort of the contract.
        """
        if params.cohort != tuple(sorted(identities)) or not LEAST <= len(identities) <= MOST_INSTITUTIONS:
            raise ConfigError(
                f"secure aggregation takes the contract's {LEAST} to {MOST_INSTITUTIONS} institutions, each with its "
                "identity key; nothing was sent; announce the cohort of the contract"
            )
        if params.wire_bits not in WIRE_BITS:
            raise ConfigError(f"words travel with 24 or 32 bits, not {params.wire_bits}; nothing was sent; choose one")
        self.params = params
        self.threshold = threshold(len(identities))
        self.refused: dict[str, str] = {}  # institution: why what it sent was not used; nothing of its data
        self.present = params.cohort  # whom the next message goes to
        self._identities = dict(identities)
        self._step = "roster"
        self._roster, self._roster_sha256 = Roster(()), b""
        self._u1: tuple[str, ...] = ()
        self._survivors = Survivors(b"", ())
        self._sum = np.zeros(0, np.uint32)

    def roster(self, adverts: Mapping[str, bytes]) -> bytes:
        """R1: everybody whose advert is signed, for these parameters and with keys of its own.

        Args:
            adverts: what came, by who sent it.

        Returns:
            A `Roster`.

        Raises:
            BelowThreshold: if there are too few.
        """
        self._enter("roster", "inboxes")
        params_sha256, seen = self.params.sha256, set[bytes]()

        def check(name: str, advert: Advert) -> None:
            keys = {advert.mask_public, advert.channel_public}
            _refuse(advert.institution != name, "its advert is another institution's")
            _refuse(advert.params_sha256 != params_sha256, "its advert is for other parameters")
            _refuse(len(keys) < 2 or bool(keys & seen), "its advert has a key that is there already")
            _refuse(not all(map(gives_a_secret, keys)), "its advert has a key that gives no secret")
            seen.update(keys)

        accepted = self._accepted(Advert, adverts, self.params.cohort, check)
        self._enough("the key exchange", len(accepted))
        self._roster = Roster(tuple(accepted.values()))
        self._roster_sha256 = self._roster.sha256
        self.present = tuple(accepted)
        return self._roster.to_bytes()

    def inboxes(self, shares: Mapping[str, bytes]) -> dict[str, bytes]:
        """R2: the boxes, sorted by who they are for. Whoever sent a whole set is in U1.

        Args:
            shares: what came, by who sent it.

        Returns:
            An `Inbox` for each institution of U1.

        Raises:
            BelowThreshold: if there are too few.
        """
        self._enter("inboxes", "survivors")
        everybody = tuple(self._roster.points)

        def check(name: str, sent: Shares) -> None:
            self._refuse_other(sent.roster_sha256)
            _refuse(sent.institution != name, "its shares are another institution's")
            receivers = [receiver for receiver, _ in sent.boxes]
            _refuse(receivers != [peer for peer in everybody if peer != name], "its shares are not for everybody")

        accepted = self._accepted(Shares, shares, everybody, check)
        self._enough("the exchange of shares", len(accepted))
        self._u1 = self.present = tuple(accepted)
        boxes = {name: dict(sent.boxes) for name, sent in accepted.items()}
        return {
            name: Inbox(
                self._roster_sha256, tuple((sender, boxes[sender][name]) for sender in self._u1 if sender != name)
            ).to_bytes()
            for name in self._u1
        }

    def survivors(self, uploads: Mapping[str, Upload]) -> bytes:
        """R3: the sum of all whole vectors whose masks are with the same institutions; whose they are.

        Institutions may disagree on U1, since one may have sent a box that another cannot open. Masks cancel only
        among those who agree; as twice the threshold is more than the cohort, at most one group is large enough.

        Args:
            uploads: what came, by who sent it; each is asked for twice, so they may lie on a disk.

        Returns:
            A `Survivors`.

        Raises:
            BelowThreshold: if no group is large enough.
        """
        self._enter("survivors", "echoes")

        def check(name: str, header: UploadHeader) -> None:
            self._refuse_other(header.roster_sha256)
            _refuse(name not in header.u1 or not set(header.u1) <= set(self._u1), "its masks are with strangers")

        headers = self._accepted(UploadHeader, {name: uploads[name].header for name in uploads}, self._u1, check)
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, header in headers.items():
            groups.setdefault(header.u1, []).append(name)
        largest = max(groups, key=lambda u1: (len(groups[u1]), u1), default=())
        for name in sorted(set(headers) - set(groups.get(largest, ()))):
            self.refused.setdefault(name, "its masks are with other institutions than most survivors' are")
        self._u1 = largest
        self._sum = np.zeros(self.params.length, np.uint32)
        added = tuple(
            name for name in groups.get(largest, ()) if self._is_added(name, headers[name], uploads[name].packed)
        )
        self._enough("the uploads", len(added))
        self.present = added
        self._survivors = Survivors(self._roster_sha256, added)
        return self._survivors.to_bytes()

    def echoes(self, echoes: Mapping[str, bytes]) -> bytes:
        """R4: every survivor's word for the list.

        Args:
            echoes: what came, by who sent it.

        Returns:
            An `Echoes`.

        Raises:
            BelowThreshold: if there are too few.
        """
        self._enter("echoes", "total")
        sha256 = self._survivors.sha256

        def check(name: str, echo: Echo) -> None:
            self._refuse_other(echo.roster_sha256)
            _refuse(echo.institution != name, "its echo is another institution's")
            _refuse(echo.survivors_sha256 != sha256, "its echo is for another survivor list")

        accepted = self._accepted(Echo, echoes, self._survivors.survivors, check)
        self._enough("the echoes", len(accepted))
        return Echoes(tuple(accepted.values())).to_bytes()

    def total(self, unmasks: Mapping[str, bytes], threads: int = 1) -> Total:
        """The survivors' sum, without any mask.

        Args:
            unmasks: what came, by who sent it.
            threads: cores that may work on it.

        Raises:
            BelowThreshold: if too few answered, or, as `FalseShares`, too many of them falsely.
        """
        self._enter("total", "nothing")
        kept = self._survivors.survivors
        dropped = tuple(name for name in self._u1 if name not in kept)

        def check(name: str, unmask: Unmask) -> None:
            self._refuse_other(unmask.roster_sha256)
            _refuse(unmask.institution != name, "its answer is another institution's")
            owners = tuple(owner for owner, _ in unmask.self_shares), tuple(owner for owner, _ in unmask.key_shares)
            _refuse(owners != (kept, dropped), "its answer is for another survivor list")

        accepted = self._accepted(Unmask, unmasks, kept, check)
        self._enough("unmasking", len(accepted))
        streams, false = masks_left(self._roster, kept, dropped, Answers(accepted, self.threshold))
        add_masks(self._sum, streams, threads)
        return Total(self._sum, kept, false)

    def _enter(self, step: str, after: str) -> None:
        if self._step != step:
            raise RuntimeError(f"{step} comes once and in its order; this attempt waits for {self._step}")
        self._step = after

    def _accepted(
        self,
        kind: type[_M],
        received: Mapping[str, bytes],
        expected: tuple[str, ...],
        check: Callable[[str, _M], None],
    ) -> dict[str, _M]:
        """What is whole, signed by its sender and passes the check, ascending; the rest is noted as refused."""
        accepted = {}
        for name in sorted(received):
            try:
                _refuse(name not in expected, f"no {kind.__name__.lower()} is expected from it")
                message = kind.from_bytes(received[name])
                _refuse(not message.is_by(self._identities[name]), "it is not signed by the identity in the contract")
                check(name, message)
            except ValueError as why:
                self.refused.setdefault(name, str(why))
            else:
                accepted[name] = message
        return accepted

    def _is_added(self, name: str, header: UploadHeader, packed: npt.NDArray[np.uint8]) -> bool:
        whole = packed.dtype == np.uint8 and packed.shape == (packed_bytes(self.params.length, self.params.wire_bits),)
        packed = np.ascontiguousarray(packed)
        if not whole or hashlib.sha256(packed.data).digest() != header.vector_sha256:
            self.refused.setdefault(name, "its vector is not whole, or not the one it signed")
            return False
        add_packed(self._sum, packed, self.params.wire_bits)
        return True

    def _refuse_other(self, roster_sha256: bytes) -> None:
        _refuse(roster_sha256 != self._roster_sha256, "it is for another roster")

    def _enough(self, phase: str, answered: int) -> None:
        if answered < self.threshold:
            self._step = "nothing"
            raise BelowThreshold(phase, answered, self.threshold)


def _refuse(wrong: bool, why: str) -> None:
    if wrong:
        raise ValueError(why)
