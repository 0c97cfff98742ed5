"""Institutions that compute in other processes answer as they would in this one, and a round is paid here, once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from masked_rounds import NAMES, made, site_of
from proposals import terms

from lepton_fl.energy.spent import MODELLED, TRAIN, Joules, Line, Spent
from lepton_fl.errors import WorkerLost
from lepton_fl.federation.arrays import to_arrays
from lepton_fl.federation.client_app import client_app
from lepton_fl.federation.local_grid import LocalGrid, node_id_of
from lepton_fl.federation.local_masked import LocalMasked, local_masked
from lepton_fl.federation.masked_app import at_once
from lepton_fl.federation.metered import by_busy_seconds
from lepton_fl.federation.program import program
from lepton_fl.federation.workers import FarComputes, FarGrid, Institutions, Kept, WorkerApp
from lepton_fl.flower import ArrayRecord, ConfigRecord, Context, Grid, Message, RecordDict
from lepton_fl.privacy.rounds_spent import InMemory

CONTRACT = b"\1" * 32


def same(kept: Any) -> Any:
    """What stands for a value is the value."""
    return kept


@dataclass
class InTurn:
    """Workers that are none: each answer is made when it is waited for, by a copy of what a worker would hold."""

    answers: WorkerApp
    count: int = 2
    asked: list[str] = field(default_factory=list)

    def begin(self, institution: str, message: Message) -> Callable[[], Message]:
        self.asked.append(institution)
        node: dict[str, bool | float | int | str] = {"institution": institution}
        return lambda: self.answers(message, Context(1, 1, node, RecordDict(), {}))


def workers(key: str, sums: Any, asked: Any) -> InTurn:
    sites = {name: site_of(name) for name in NAMES}
    return InTurn(WorkerApp(Kept(copy.deepcopy(asked), sites, sums, "cpu", same), same, key))


@cache
def beginning() -> ArrayRecord:
    """The model that every round here begins with; training changes a program's own."""
    return copy.deepcopy(to_arrays(made()[0].model))


def ask(grid: Grid, round: int, kind: str = "train", names: tuple[str, ...] = NAMES) -> list[Message]:
    config = ConfigRecord({"server-round": round})
    content = RecordDict({"arrays": beginning(), "config": config})
    asked = [grid.create_message(copy.deepcopy(content), kind, node_id_of(name), "1") for name in names]
    return list(grid.send_and_receive(asked))


def far(key: str) -> tuple[FarGrid, InTurn]:
    asked = program(terms(seed=1), len(NAMES))
    theirs = workers(key, None, asked)
    sites = {name: site_of(name) for name in NAMES}
    return FarGrid(Institutions(asked, sites, InMemory()), theirs), theirs


def parameters(replies: list[Message]) -> list[list[bytes]]:
    return [[array.data for array in reply.content.array_records["arrays"].values()] for reply in replies]


def test_a_private_round_elsewhere_is_bit_for_bit_the_one_made_here() -> None:
    sites = {name: site_of(name) for name in NAMES}
    here = LocalGrid(client_app(program(terms(seed=1), len(NAMES)), sites, InMemory()), NAMES)
    there, _ = far("same")
    assert parameters(ask(there, 1)) == parameters(ask(here, 1))
    assert [reply.content for reply in ask(there, 1, "evaluate")] == [
        reply.content for reply in ask(here, 1, "evaluate")
    ]


def test_no_worker_is_given_a_round_that_was_answered_before() -> None:
    grid, theirs = far("once")
    assert not any(reply.has_error() for reply in ask(grid, 1))
    again = ask(grid, 1)
    assert all("was begun before" in reply.error.reason for reply in again)
    assert theirs.asked == [*NAMES]


def test_an_unknown_institution_is_nobodys_work() -> None:
    grid, theirs = far("unknown")
    (reply,) = ask(grid, 1, names=("stranger",))
    assert reply.has_error()
    assert theirs.asked == []


def test_not_many_more_institutions_are_handed_out_than_there_are_workers() -> None:
    grid, theirs = far("ahead")
    waiting: list[int] = []
    answered = 0

    def counted(institution: str, message: Message) -> Callable[[], Message]:
        inner = begin(institution, message)

        def wait() -> Message:
            nonlocal answered
            answered += 1
            return inner()

        waiting.append(len(theirs.asked) - answered)
        return wait

    begin, theirs.count = theirs.begin, 1
    theirs.begin = counted  # type: ignore[method-assign]
    assert len(ask(grid, 1)) == len(NAMES)
    assert max(waiting) == 3  # one more than twice the workers


def test_what_goes_wrong_in_a_worker_is_told_by_its_type_alone() -> None:
    grid, theirs = far("wrong")
    theirs.answers.work.sites.pop("elm")
    ash, elm, *_ = ask(grid, 1)
    assert not ash.has_error()
    assert elm.error.reason == "KeyError"


def masked(computes: Any) -> tuple[LocalMasked, Grid]:
    asked, sums = made()
    sites = {name: site_of(name) for name in NAMES}
    here = local_masked(asked, sites, sums, CONTRACT, *computes)
    return here, here.grid(sums)[0]


def elsewhere(key: str) -> Callable[..., FarComputes]:
    asked, sums = made()
    return partial(FarComputes, is_counting=True, begin=at_once, workers=workers(key, sums, asked))


def test_a_masked_round_whose_vectors_are_made_elsewhere_has_the_same_sum() -> None:
    (_, here), (_, there) = masked([]), masked([elsewhere("masked")])
    for kind in ("train", "evaluate"):
        (mine,), (theirs,) = ask(here, 1, kind), ask(there, 1, kind)
        assert not theirs.has_error()
        assert theirs.content.metric_records == mine.content.metric_records
        if kind == "train":
            for one, other in zip(*(m.content.array_records["arrays"].values() for m in (mine, theirs)), strict=True):
                assert np.array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("is_masked", [True, False])
def test_a_run_ends_when_a_worker_has_ended(is_masked: bool) -> None:
    def ended(institution: str, message: Message) -> Callable[[], Message]:
        raise WorkerLost("a worker process ended")

    if is_masked:
        computes = elsewhere("ended")
        grid = masked([computes])[1]
        computes.keywords["workers"].begin = ended  # type: ignore[attr-defined]
    else:
        grid, theirs = far("ended")
        theirs.begin = ended  # type: ignore[method-assign]
    with pytest.raises(WorkerLost, match="a worker process ended"):
        ask(grid, 1)


def test_energy_that_passed_in_anothers_turn_is_shared_out_by_busy_seconds() -> None:
    def line(name: str, wall_s: float, cpu_s: float) -> Line:
        return Line(1, name, TRAIN, Spent(wall_s, cpu_s, {"cpu": Joules(10 * wall_s, MODELLED)}, bytes_up=7))

    first, second = by_busy_seconds([line("south", 0.0, 3.0), line("north", 4.0, 1.0)])
    assert (first.institution, first.spent.wall_s, first.spent.joules["cpu"].value) == ("north", 1.0, 10.0)
    assert (second.institution, second.spent.wall_s, second.spent.joules["cpu"].value) == ("south", 3.0, 30.0)
    assert first.spent.bytes_up == second.spent.bytes_up == 7
