"""Whose turn it is in this process, and what each turn took: energy by round, institution and phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lepton_fl.energy.meter import Meter
from lepton_fl.energy.spent import AGGREGATE, COMMUNICATE, EVALUATE, NOTHING, TRAIN, Joules, Line, Spent
from lepton_fl.flower import Message, MessageType, config_of

OPERATOR = "(operator)"  # no institution can be called so
_KEPT = "config"


class Tally:
    """See `local_grid.Watch`. What lies between two turns is the operator's, whose phase the meter begins in."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._round = meter, 0
        self._spent: dict[tuple[int, str, str], Spent] = {}
        # A whole cohort's: round, phase, institutions and the part of each, one entry however many they are.
        self._shared: list[tuple[int, str, tuple[str, ...], Spent]] = []

    @contextmanager
    def turn(self, institution: str, message: Message) -> Iterator[None]:
        """What follows is this institution's: carrying, but where it computes."""
        self._add(OPERATOR)
        if _KEPT in message.content:  # later steps of a masked round name none
            self._round = int(str(config_of(message.content).get("server-round", self._round)))
        try:
            with self._meter.phase(COMMUNICATE):
                yield
        finally:
            self._add(institution)

    @contextmanager
    def turns(self, institutions: Sequence[str], message: Message) -> Iterator[None]:
        """What follows is these institutions' together: each is told an equal part."""
        self._add(OPERATOR)
        self._round = int(str(config_of(message.content)["server-round"]))
        try:
            with self._meter.phase(COMMUNICATE):
                yield
        finally:
            for phase, spent in self._meter.take().items():
                who = (OPERATOR,) if phase == AGGREGATE else tuple(institutions)
                self._shared.append((self._round, phase, who, spent.shared_by(len(who))))

    @contextmanager
    def computing(self, message: Message) -> Iterator[None]:
        """What follows is what the message asks for."""
        with self._meter.phase(TRAIN if message.metadata.message_type == MessageType.TRAIN else EVALUATE):
            yield

    def carried(self, down: int, up: int) -> None:
        """So many bytes went to the institution whose turn it is, and came back."""
        self._meter.moved(COMMUNICATE, up, down)

    def lines(self) -> tuple[Line, ...]:
        """Everything so far."""
        self._add(OPERATOR)
        spent = dict(self._spent)
        for round, phase, who, part in self._shared:
            for institution in who:
                place = (round, institution, phase)
                spent[place] = spent[place] + part if place in spent else part
        return tuple(Line(*place, one) for place, one in sorted(spent.items(), key=lambda one: one[0]))

    def _add(self, institution: str) -> None:
        for phase, spent in self._meter.take().items():
            place = (self._round, OPERATOR if phase == AGGREGATE else institution, phase)
            self._spent[place] = self._spent.get(place, NOTHING) + spent


def by_busy_seconds(lines: Iterable[Line]) -> tuple[Line, ...]:
    """The same energy and time of each round and phase, shared out by how long each institution kept a processor busy.

    Where several institutions compute at once, what passed during one's turn is also the others' doing. Sums over a
    round's phase stay; seconds of processors and bytes are each institution's own already.
    """
    together: dict[tuple[int, str], list[Line]] = defaultdict(list)
    for line in lines:
        together[line.round, line.phase].append(line)
    shared = [line for there in together.values() for line in _shared(there)]
    return tuple(sorted(shared, key=lambda line: (line.round, line.institution, line.phase)))


def _shared(lines: list[Line]) -> Iterator[Line]:
    total = sum((line.spent for line in lines), NOTHING)
    for line in lines:
        part = line.spent.cpu_s / total.cpu_s if total.cpu_s > 0 else 1 / len(lines)
        joules = {name: Joules(one.value * part, one.tier) for name, one in total.joules.items()}
        yield replace(line, spent=replace(line.spent, wall_s=total.wall_s * part, joules=joules))
