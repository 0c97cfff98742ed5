"""What a run would cost this institution: epsilon, hours, megabytes out, energy.

Epsilon is the ledger's figure. The others are estimates, made before a record is read: see `estimate`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from lepton_fl.federation.client_app import ClientProgram
from lepton_fl.federation.contract import (
    EXACT_COUNTS,
    NOISED_COUNTS,
    NOISED_UPDATE,
    PLAIN_UPDATE,
    RECORD_COUNT,
    SHARED_NOISE_COUNTS,
    SHARED_NOISE_UPDATE,
    SUMMED_COUNTS,
    SUMMED_UPDATE,
)
from lepton_fl.federation.summed import WIRE_BITS
from lepton_fl.federation.terms import Terms
from lepton_fl.models.shape import Shape
from lepton_fl.training.choose import engine_for
from lepton_fl.training.device import device_of, full_precision, layers_seeded
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import train_privately
from lepton_fl.training.shared_noise import SharedDraws, release

_ENOUGH_S = 0.2  # of timing, for each of the two kinds of step
_MOST_STEPS = 5
_HEADER_BYTES = 160  # of one array of an update, its name included
_STEPS_BYTES = 4096  # of the keys, shares and signatures of a masked round, for some ten institutions
_COUNT_BYTES = 2  # of one exact count: enough below 16,384, and one more above
_FIGURE_BYTES = 64  # a record count and a mean loss, with their names


@dataclass(frozen=True)
class Spending:
    """The ledger's figures for the data set, at the budget's delta."""

    unit: str
    delta: float
    epsilon_now: float
    epsilon_after: float  # were the run to go on to its last round


@dataclass(frozen=True)
class Price:
    """What an institution sees before it agrees."""

    unit: str
    delta: float
    epsilon_now: float
    epsilon_after: float
    hours: float  # of training, on the chosen device
    megabytes_out: float  # 10^6 bytes
    energy_kwh: float


def price(spending: Spending, hours: float, megabytes_out: float, power_w: float) -> Price:
    """The ledger's figures and the estimates together; energy is the hours at the policy's `power_w`."""
    return Price(
        unit=spending.unit,
        delta=spending.delta,
        epsilon_now=spending.epsilon_now,
        epsilon_after=spending.epsilon_after,
        hours=hours,
        megabytes_out=megabytes_out,
        energy_kwh=hours * power_w / 1000,
    )


def hours(terms: Terms, program: ClientProgram, institutions: int, clock: Callable[[], float]) -> float:
    """How long the training of a whole run would take here, estimated from a few steps on random records.

    A step with records and one without are timed where the program's model is; a real step is then the one without and
    as many records' share of the difference as the terms let expect. It assumes that this machine has nothing else to
    do, that every round asks this institution, and that it holds an even share of the declared records. Not counted:
    the first seconds of a process, counting the hold-out, and waiting for the others.

    Args:
        program: as `federation.program` makes it for these terms, on the device to estimate for; it is not changed.
        clock: seconds, `time.perf_counter`.

    Returns:
        Hours, from under a second of trying; of a model whose one step takes longer, from one step of each kind.
    """
    own_records: float = terms.task.declared_records * (1 - terms.holdout.held_out) / institutions
    expected_batch = max(1.0, own_records * terms.training.sampling_rate)
    tried = min(program.training.physical_batch, math.ceil(expected_batch))
    shape = terms.task.shape()
    _take_step(_copy(program), _random_records(shape, 1), 1.0)  # the first step of a process loads libraries
    alone = _step_s(program, _random_records(shape, 1), 0.0, clock)
    together = _step_s(program, _random_records(shape, tried), 1.0, clock)
    step_s = alone + max(0.0, together - alone) * expected_batch / tried
    total_s: float = step_s * terms.training.local_steps * terms.rounds
    return total_s / 3600


def megabytes_out(terms: Terms, program: ClientProgram, kinds: Iterable[str]) -> float:
    """What leaves over a whole run, from the model's size and the kinds of message that may leave.

    Not counted: what TLS and the frames around an answer add, connecting, and what is sent again after a cut line.

    Returns:
        Millions of bytes.
    """
    tensors = [tensor.numel() for tensor in program.model.state_dict().values()]
    word_bytes = (WIRE_BITS if program.shared is None else program.shared.wire_bits) // 8
    masked: int = _STEPS_BYTES + word_bytes * sum(tensors)
    update: int = masked if terms.is_summed else sum(_HEADER_BYTES + 4 * numbers for numbers in tensors)
    counted = sum(part.cells for part in program.evaluating.parts(terms.rounds))
    sizes = {
        NOISED_UPDATE: update,
        SHARED_NOISE_UPDATE: masked,
        SUMMED_UPDATE: masked,
        NOISED_COUNTS: _STEPS_BYTES + 2 * _COUNT_BYTES * counted,
        SHARED_NOISE_COUNTS: _STEPS_BYTES + 2 * _COUNT_BYTES * counted,
        SUMMED_COUNTS: _STEPS_BYTES + 2 * 3 * counted,
        PLAIN_UPDATE: update,
        RECORD_COUNT: _FIGURE_BYTES,
        EXACT_COUNTS: _COUNT_BYTES * counted,
    }
    evaluated = sum(program.evaluating.is_due(round) for round in range(1, terms.rounds + 1))
    times = dict.fromkeys((NOISED_COUNTS, SHARED_NOISE_COUNTS, SUMMED_COUNTS, EXACT_COUNTS), evaluated)
    return sum(times.get(kind, terms.rounds) * sizes[kind] for kind in kinds) / 1e6


def duration(hours: float) -> str:
    """So many hours for people, in the unit that suits."""
    for size, unit in ((1.0, "h"), (1 / 60, "min")):
        if hours >= size:
            return f"{hours / size:.2g} {unit}"
    return f"{hours * 3600:.2g} s"


def _step_s(program: ClientProgram, records: Examples, rate: float, clock: Callable[[], float]) -> float:
    """Seconds of one step on these records: the least of a few, and the first one only where it is slow."""
    taken: list[float] = []
    began = clock()
    trial = _copy(program)
    device = device_of(trial.model)
    with layers_seeded(0, device), full_precision(device):
        while len(taken) < 2 or (len(taken) < _MOST_STEPS and clock() - began < _ENOUGH_S):
            start = clock()
            _take_step(trial, records, rate)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(clock() - start)
            if taken[0] > _ENOUGH_S:
                break
    return min(taken)


def _copy(program: ClientProgram) -> ClientProgram:
    return replace(program, model=copy.deepcopy(program.model))


def _take_step(program: ClientProgram, records: Examples, rate: float) -> None:
    task = LocalTask(1, 0.0, program.randomness.within("estimate", 1))
    training = replace(program.training, local_steps=1, sampling_rate=1.0)
    if program.shared is not None:
        shared, source = replace(program.shared, sampling_rate=rate), task.randomness
        draws = SharedDraws(source.stream("sampling"), source.stream("rounding"), source.stream("noise"))
        release(program.model, records, shared, engine_for(program.model), draws, training.physical_batch)
        return
    if program.mechanism is None:
        train_plainly(program.model, records, training, task)
        return
    mechanism = replace(program.mechanism, sampling_rate=rate)
    train_privately(program.model, records, training, mechanism, engine_for(program.model), task)


def _random_records(shape: Shape, count: int) -> Examples:
    """Records of the task's shape that are nobody's."""
    generator = torch.Generator().manual_seed(0)
    classes = max(2, shape.outputs)
    return Examples(
        torch.rand(count, *shape.features, generator=generator),
        torch.randint(classes, (count,), generator=generator),
    )
