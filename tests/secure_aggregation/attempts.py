"""One attempt of one round, played in this process; a test may stand between the operator and the institutions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lepton_fl.secure_aggregation.aggregator import Aggregator, Total
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.secure_aggregation.member import Agreed, Member
from lepton_fl.secure_aggregation.messages import RoundParams, Upload, signed
from lepton_fl.secure_aggregation.refusals import Aborted
from lepton_fl.secure_aggregation.source import Source


def seeded(seed: str) -> Source:
    """The key stream of AES-256-CTR under a hash of the seed: the same bytes every time, for tests alone."""
    cipher = Cipher(algorithms.AES256(hashlib.sha256(seed.encode()).digest()), modes.CTR(bytes(16)))
    stream = cipher.encryptor()
    return lambda count: stream.update(bytes(count))


class Remembered:
    """Answered rounds, in memory."""

    def __init__(self) -> None:
        self.marked: set[tuple[int, str, int]] = set()

    def mark(self, run_id: int, purpose: str, round: int) -> None:
        if (run_id, purpose, round) in self.marked:
            raise Aborted("second unmask")
        self.marked.add((run_id, purpose, round))


def names(count: int) -> list[str]:
    return [f"h{number:02d}" for number in range(count)]


def identities(institutions: Collection[str]) -> dict[str, Identity]:
    return {name: Identity.generate(seeded(f"identity {name}")) for name in institutions}


def agreed(
    publics: Mapping[str, bytes], length: int = 5, wire_bits: int = 24, round: int = 1, least_cohort: int = 3
) -> Agreed:
    return Agreed(
        run_id=7,
        contract=bytes(32),
        purpose="training",
        round=round,
        model_sha256=b"m" * 32,
        schema_sha256=b"s" * 32,
        length=length,
        wire_bits=wire_bits,
        identities=publics,
        least_cohort=least_cohort,
    )


def params_of(terms: Agreed, attempt: int = 1) -> RoundParams:
    return RoundParams(
        terms.run_id,
        terms.contract,
        terms.purpose,
        terms.round,
        attempt,
        terms.model_sha256,
        terms.schema_sha256,
        terms.length,
        terms.wire_bits,
        tuple(sorted(terms.identities)),
        hashlib.sha256(b"nonce %d" % attempt).digest(),
    )


def words_of(values: list[int] | np.ndarray) -> np.ndarray:
    return np.array(values, np.int32).view(np.uint32)


@dataclass
class Attempt:
    """An honest operator and honest institutions, step by step; `sent` and `received` are what lies on the wire.

    A test takes the steps it wants, changes what lies on the wire, and goes on.
    """

    count: int
    length: int = 5
    wire_bits: int = 24
    seed: str = "coins"
    attempt: int = 1
    round: int = 1
    answered: dict[str, Remembered] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = names(self.count)
        self.identities = identities(self.names)
        publics = {name: identity.public for name, identity in self.identities.items()}
        self.agreed = agreed(publics, self.length, self.wire_bits, self.round)
        self.params = params_of(self.agreed, self.attempt)
        self.members = {name: self.member(name) for name in self.names}
        self.operator = Aggregator(self.params, publics)
        for name in self.names:
            self.answered.setdefault(name, Remembered())
        rng = np.random.default_rng(3)
        bound = (2 ** (self.wire_bits - 1) - 1) // self.count
        self.vectors = {name: rng.integers(-bound, bound, self.length, endpoint=True) for name in self.names}

    def member(self, name: str, **changes: object) -> Member:
        source = seeded(f"{self.seed} {name} {self.attempt}")
        return Member(name, self.identities[name], replace(self.agreed, **changes), source)

    def advertised(self, without: Collection[str] = ()) -> dict[str, bytes]:
        return self._each(self.names, without, lambda name: self.members[name].advertise(self.params.to_bytes()))

    def keep_secrets(self) -> None:
        """After the adverts: what only the institutions know, for a test that plays a colluder or an oracle."""
        self.secrets = {name: member._state.secrets for name, member in self.members.items()}

    def rostered(self, without: Collection[str] = ()) -> bytes:
        return self.operator.roster(self.advertised(without))

    def shared(self, without: Collection[str] = ()) -> dict[str, bytes]:
        roster = self.rostered()
        return self._each(self.names, without, lambda name: self.members[name].share(roster))

    def received(self, without: Collection[str] = ()) -> dict[str, bytes]:
        return self.operator.inboxes(self.shared(without))

    def uploads(self, inboxes: Mapping[str, bytes], without: Collection[str] = ()) -> dict[str, Upload]:
        return self._each(inboxes, without, lambda name: self.upload(name, inboxes[name]))

    def upload(self, name: str, inbox: bytes) -> Upload:
        self.members[name].receive(inbox)
        return self.members[name].mask(words_of(self.vectors[name]))

    def masked(self, without: Collection[str] = ()) -> bytes:
        """Up to the survivor list."""
        return self.operator.survivors(self.uploads(self.received(), without))

    def echoed(self, survivors: bytes, without: Collection[str] = ()) -> dict[str, bytes]:
        return self._each(self.operator.present, without, lambda name: self.members[name].echo(survivors))

    def unmasked(self, echoes: bytes, without: Collection[str] = ()) -> dict[str, bytes]:
        return self._each(
            self.operator.present, without, lambda name: self.members[name].unmask(echoes, self.answered[name])
        )

    def answers(self, drops: Mapping[str, Collection[str]]) -> dict[str, bytes]:
        """Up to the answers; whoever drops out in a phase is gone from then on."""
        gone: set[str] = set()

        def left(phase: str) -> set[str]:
            gone.update(drops.get(phase, ()))
            return gone

        roster = self.operator.roster(self.advertised(left("advert")))
        missing = left("shares")
        shares = self._each(self.names, missing, lambda name: self.members[name].share(roster))
        inboxes = self.operator.inboxes(shares)
        survivors = self.operator.survivors(self.uploads(inboxes, left("upload")))
        echoes = self.operator.echoes(self.echoed(survivors, left("echo")))
        return self.unmasked(echoes, left("unmask"))

    def finished(self, survivors: bytes) -> Total:
        """From the survivor list to the sum, with nobody dropping out."""
        return self.operator.total(self.unmasked(self.operator.echoes(self.echoed(survivors))))

    def signed_by(self, name: str, message: Any) -> Any:
        """The message as this institution, being malicious, would sign it."""
        return signed(message, self.identities[name])

    def run(self, drops: Mapping[str, Collection[str]]) -> Total:
        return self.operator.total(self.answers(drops))

    def sum_of(self, survivors: Collection[str]) -> np.ndarray:
        return np.sum([self.vectors[name] for name in survivors], axis=0)

    @staticmethod
    def _each(present: Collection[str], without: Collection[str], send: Callable[[str], Any]) -> dict[str, Any]:
        return {name: send(name) for name in present if name not in without}
