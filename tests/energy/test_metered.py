"""A simulation's energy: each institution's turns apart, the operator's between them, and nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from lepton_fl.energy.meter import Machine, Meter, Reading
from lepton_fl.energy.spent import AGGREGATE, COMMUNICATE, EVALUATE, MODELLED, TRAIN
from lepton_fl.federation.local_grid import LocalGrid
from lepton_fl.federation.metered import OPERATOR, Tally
from lepton_fl.flower import ConfigRecord, Context, Message, MessageType, RecordDict


def seconds() -> Iterator[Reading]:
    """A clock that moves on by one second each time somebody looks, on a machine that is always busy."""
    return (Reading(now, now) for now in count())


def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


def ask(grid: LocalGrid, kind: str, round: int) -> None:
    content = RecordDict({"config": ConfigRecord({"server-round": round})})
    asked = [grid.create_message(content, kind, node_id, "1") for node_id in grid.get_node_ids()]
    assert len(list(grid.send_and_receive(asked))) == 2


def test_every_second_is_somebodys_and_each_phase_stands_apart() -> None:
    readings = seconds()
    tally = Tally(Meter(lambda: next(readings), Machine(power_w=10.0), AGGREGATE))
    grid = LocalGrid(echo, ("north", "south"), tally)
    ask(grid, MessageType.TRAIN, 1)
    ask(grid, MessageType.EVALUATE, 1)
    lines = tally.lines()
    wall = {(line.institution, line.phase): line.spent for line in lines}
    assert {*wall} == {
        (OPERATOR, AGGREGATE),
        *((name, phase) for name in ("north", "south") for phase in (COMMUNICATE, TRAIN, EVALUATE)),
    }
    assert wall["north", TRAIN].joules["cpu"].tier == MODELLED
    assert wall["north", COMMUNICATE].bytes_down > 0
    assert wall["north", COMMUNICATE].bytes_up > 0
    assert sum(line.spent.wall_s for line in lines) == next(readings).wall_s - 1
    assert sum(line.spent.total.value for line in lines) == pytest.approx(10 * sum(line.spent.wall_s for line in lines))


def test_rounds_stand_apart() -> None:
    readings = seconds()
    tally = Tally(Meter(lambda: next(readings), Machine(power_w=10.0), AGGREGATE))
    grid = LocalGrid(echo, ("north", "south"), tally)
    for round in (1, 2):
        ask(grid, MessageType.TRAIN, round)
    assert {(line.round, line.institution) for line in tally.lines() if line.phase == TRAIN} == {
        (1, "north"),
        (1, "south"),
        (2, "north"),
        (2, "south"),
    }


def test_what_a_cohort_took_together_is_told_in_equal_parts_and_nothing_is_lost() -> None:
    readings = seconds()
    tally = Tally(Meter(lambda: next(readings), Machine(power_w=10.0), AGGREGATE))
    content = RecordDict({"config": ConfigRecord({"server-round": 3})})
    asked = Message(content, 7, MessageType.TRAIN)
    with tally.turns(("north", "south"), asked):
        with tally.computing(asked):
            pass
        tally.carried(down=200, up=100)
    lines = tally.lines()
    spent = {(line.round, line.institution, line.phase): line.spent for line in lines}
    assert spent[3, "north", TRAIN] == spent[3, "south", TRAIN]
    assert spent[3, "north", TRAIN].wall_s == 0.5
    assert (spent[3, "south", COMMUNICATE].bytes_down, spent[3, "south", COMMUNICATE].bytes_up) == (100, 50)
    assert sum(line.spent.wall_s for line in lines) == next(readings).wall_s - 1
