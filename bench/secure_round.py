"""A whole round of secure aggregation in this process, and how long an institution's critical path is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lepton_fl.files import write_secret
from lepton_fl.secure_aggregation.aggregator import Aggregator
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.secure_aggregation.member import Agreed, Member
from lepton_fl.secure_aggregation.messages import RoundParams
from lepton_fl.secure_aggregation.vector import Schema, Segment, from_sum, to_words

_WIRE_BITS = 24
_BOUND = 0.25

_R = TypeVar("_R")


@dataclass(frozen=True)
class Written:
    """The institution's record of the rounds that it answered: a file, on the disk before the answer is made."""

    path: Path

    def mark(self, run_id: int, purpose: str, round: int) -> None:
        """See `Answered`."""
        write_secret(self.path, f"{run_id} {purpose} {round}".encode())


@dataclass(frozen=True)
class RoundTime:
    """Seconds that a round needs beside training; each step of the institutions counts as its slowest one."""

    keys: float  # R0 and R1, which can run beside training
    member: float  # of an institution, after training
    operator: float  # of the operator, after training
    plain: float  # the plain round's own work: the sum of float32 vectors

    @property
    def added(self) -> float:
        """What an institution waits for longer than in a plain round, if the keys are agreed beside training."""
        return self.member + self.operator - self.plain


class _Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def once(self, work: Callable[[], _R]) -> _R:
        """The operator's step."""
        began = time.perf_counter()
        result = work()
        self.seconds += time.perf_counter() - began
        return result

    def slowest(self, names: Iterable[str], work: Callable[[str], _R]) -> dict[str, _R]:
        """The institutions' step: they work side by side, and the round waits for the last one."""
        results, taken = {}, [0.0]
        for name in names:
            began = time.perf_counter()
            results[name] = work(name)
            taken.append(time.perf_counter() - began)
        self.seconds += max(taken)
        return results


def round_time(length: int, cohort: int, dropped: int, folder: Path) -> RoundTime:
    """One round of random updates, of which some institutions' never come; the sum is checked against the plain one."""
    names = [f"institution-{number:03}" for number in range(cohort)]
    schema = Schema(
        (Segment("update", "values", length, _BOUND), Segment("weight", "integers", 1, limbs=2)), cohort, 24
    )
    updates = {
        name: np.random.default_rng(number).normal(0, 0.02, length).astype(np.float32)
        for number, name in enumerate(names)
    }
    identities = {name: Identity.generate(os.urandom) for name in names}
    pinned = {name: identity.public for name, identity in identities.items()}
    agreed = Agreed(1, bytes(32), "train", 1, bytes(32), schema.sha256, schema.length, _WIRE_BITS, pinned, 3)
    members = {name: Member(name, identities[name], agreed, os.urandom) for name in names}
    params = RoundParams(
        1, bytes(32), "train", 1, 1, bytes(32), schema.sha256, schema.length, _WIRE_BITS, tuple(names), os.urandom(32)
    )
    played = _Played(members, Aggregator(params, pinned), schema, updates)
    keys, inboxes = played.keys(params.to_bytes())
    member, operator, total = played.after_training(inboxes, names[: cohort - dropped], folder)
    plain = _Clock()
    expected = plain.once(lambda: _plain_sum([updates[name] for name in names[: cohort - dropped]]))
    if np.abs(total - expected).max() > cohort * 2 * _BOUND / 2**15:
        raise RuntimeError("the unmasked sum is not the sum")
    return RoundTime(keys, member, operator, plain.seconds)


@dataclass(frozen=True)
class _Played:
    members: Mapping[str, Member]
    aggregator: Aggregator
    schema: Schema
    updates: Mapping[str, NDArray[np.float32]]

    def keys(self, params: bytes) -> tuple[float, dict[str, bytes]]:
        """Seconds of R0 and R1, and what the institutions receive next."""
        clock, members = _Clock(), self.members
        adverts = clock.slowest(members, lambda name: members[name].advertise(params))
        roster = clock.once(lambda: self.aggregator.roster(adverts))
        shares = clock.slowest(members, lambda name: members[name].share(roster))
        return clock.seconds, clock.once(lambda: self.aggregator.inboxes(shares))

    def after_training(
        self, inboxes: Mapping[str, bytes], survivors: list[str], folder: Path
    ) -> tuple[float, float, NDArray[np.float64]]:
        """Seconds of the institution and of the operator in R2 to R4, and the sum of the updates."""
        member, operator, members = _Clock(), _Clock(), self.members
        member.slowest(members, lambda name: members[name].receive(inboxes[name]))
        uploads = member.slowest(survivors, lambda name: members[name].mask(self._words(name)))
        listed = operator.once(lambda: self.aggregator.survivors(uploads))
        echoed = member.slowest(survivors, lambda name: members[name].echo(listed))
        echoes = operator.once(lambda: self.aggregator.echoes(echoed))
        unmasks = member.slowest(survivors, lambda name: members[name].unmask(echoes, Written(folder / name)))
        total = operator.once(lambda: from_sum(self.schema, self.aggregator.total(unmasks).words))
        return member.seconds, operator.seconds, total["update"].astype(np.float64)

    def _words(self, name: str) -> NDArray[np.uint32]:
        arrays = {"update": self.updates[name], "weight": np.array([1000])}
        return to_words(self.schema, arrays, os.urandom).words


def _plain_sum(updates: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    total = np.zeros_like(updates[0])
    for update in updates:
        total += update
    return total
