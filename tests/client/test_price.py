"""What a run would cost is estimated before a record is read, in under a second, and changes nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from lepton_client.price import Spending, hours, megabytes_out, price
from proposals import WITHOUT, terms

from lepton_fl.federation.arrays import to_arrays
from lepton_fl.federation.client_app import ClientProgram, answer_evaluation, answer_training
from lepton_fl.federation.codec import encode
from lepton_fl.federation.program import program
from lepton_fl.federation.terms import Terms, from_document
from lepton_fl.flower import ConfigRecord, Message, RecordDict, enter_run
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.training.examples import Examples, Site
from lepton_fl.training.settings import Training

PRIVATE = ("noised-update",)
PLAIN = ("plain-update", "record-count")


@cache
def wide(privacy: str) -> tuple[Terms, ClientProgram]:
    """A run of 30 rounds of 4 steps, and its program; calibrating the noise takes seconds, so it is made once."""
    model = from_document("model", {"kind": "mlp", "hidden": [300], "activation": "tanh"})
    parts: dict[str, Any] = {} if privacy == "record" else {"privacy": WITHOUT}
    asked = terms(model=model, training=Training(4, 0.5, 0.5, 1.0, 0.0, 0.0, 64, "sgd"), **parts)
    return asked, program(asked, 4)


@pytest.mark.parametrize("privacy", ["record", "none"])
def test_hours_are_steps_times_rounds_times_a_step(privacy: str) -> None:
    """Every look at this clock is a second after the last one, so a step takes one second, with records or without."""
    ticks = itertools.count()
    assert hours(*wide(privacy), 4, lambda: float(next(ticks))) == pytest.approx(30 * 4 / 3600)


def test_a_step_takes_as_long_as_the_records_that_it_expects() -> None:
    """This clock goes on by a second for each record seen: of 180 records here, half enter a step; 64 are tried."""
    asked, made = wide("none")
    seen: list[int] = []
    hook = made.model.register_forward_pre_hook(lambda model, inputs: seen.append(len(inputs[0])))
    assert hours(asked, made, 4, lambda: float(sum(seen))) == pytest.approx(90 * 30 * 4 / 3600, rel=0.01)
    assert max(seen) == 64
    hook.remove()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another spend computing time that is no part of a small step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("privacy", ["record", "none"])
def test_the_estimate_is_near_what_training_takes(privacy: str) -> None:
    asked, made = wide(privacy)
    site = random_site(made, 180)
    # The least of a few: what a first step loads is not the estimate's matter, and another process may have the CPU.
    took_s = min(timed(lambda: answer(made, site)) for _ in range(4))
    estimate_s = 3600 * hours(asked, made, 4, time.process_time) / asked.rounds
    # A factor forgotten would be far outside.
    assert took_s / 20 < estimate_s < 20 * took_s


def timed(work: Callable[[], object]) -> float:
    """Seconds of computing that it took; what else the machine does is no part of them."""
    began = time.process_time()
    work()
    return time.process_time() - began


def test_the_estimate_leaves_the_program_as_it_was() -> None:
    asked, made = wide("record")
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    hours(asked, made, 4, time.process_time)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.model.state_dict().items())
    assert not any(hasattr(parameter, "grad_sample") for parameter in made.model.parameters())


@pytest.mark.parametrize(("privacy", "kinds"), [("record", PRIVATE), ("none", PLAIN)])
def test_megabytes_are_those_of_the_answers_that_training_gives(privacy: str, kinds: tuple[str, ...]) -> None:
    asked, made = wide(privacy)
    sent = encoded_bytes(answer(made, random_site(made, 180)))
    assert megabytes_out(asked, made, kinds) == pytest.approx(30 * sent / 1e6, rel=0.02)


def test_exact_counts_are_no_larger_than_they_are_said_to_be() -> None:
    asked, made = wide("none")
    counted = encoded_bytes(answer_evaluation(made, random_site(made, 180), message(made, "evaluate"), InMemory()))
    assert 30 * counted / 1e6 <= megabytes_out(asked, made, ["exact-counts"]) <= 30 * 0.015  # three groups


def test_energy_is_the_hours_at_the_power_of_the_policy() -> None:
    made = price(Spending("record", 1e-5, 0.5, 0.9), 2.0, 4.0, 150.0)
    assert made.energy_kwh == pytest.approx(0.3)
    assert (made.epsilon_now, made.epsilon_after, made.unit, made.delta) == (0.5, 0.9, "record", 1e-5)


def random_site(made: ClientProgram, count: int) -> Site:
    features = next(made.model.parameters()).shape[1]
    examples = Examples(torch.rand(count, features), torch.arange(count) % 2)
    return Site("Cleveland", examples, examples, examples)


def message(made: ClientProgram, kind: str) -> Message:
    enter_run(7)
    content = {"arrays": to_arrays(made.model), "config": ConfigRecord({"server-round": 1})}
    return Message(RecordDict(content), dst_node_id=2, message_type=kind)


def answer(made: ClientProgram, site: Site) -> Message:
    return answer_training(made, site, message(made, "train"), InMemory())


def encoded_bytes(reply: Message) -> int:
    parts = encode(reply)
    return len(parts.envelope) + sum(len(blob) for blob in parts.arrays)
