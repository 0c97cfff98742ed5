"""Whose turn it is in this process, and what each turn took: energy by round, institution and phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lepton_fl.energy.meter import Meter
from lepton_fl.energy.spent import AGGREGATE, COMMUNICATE, EVALUATE, NOTHING, TRAIN, Line, Spent
from lepton_fl.flower import Message, MessageType

OPERATOR = "(operator)"  # no institution can be called so
_KEPT = "config"


class Tally:
    """See `local_grid.Watch`. What lies between two turns is the operator's, whose phase the meter begins in."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._round = meter, 0
        self._spent: dict[tuple[int, str, str], Spent] = {}

    @contextmanager
    def turn(self, institution: str, message: Message) -> Iterator[None]:
        """What follows is this institution's: carrying, but where it computes."""
        self._add(OPERATOR)
        if _KEPT in message.content.config_records:  # later steps of a masked round name none
            self._round = int(str(message.content.config_records[_KEPT].get("server-round", self._round)))
        try:
            with self._meter.phase(COMMUNICATE):
                yield
        finally:
            self._add(institution)

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
        return tuple(Line(*place, spent) for place, spent in sorted(self._spent.items()))

    def _add(self, institution: str) -> None:
        for phase, spent in self._meter.take().items():
            place = (self._round, OPERATOR if phase == AGGREGATE else institution, phase)
            self._spent[place] = self._spent.get(place, NOTHING) + spent
