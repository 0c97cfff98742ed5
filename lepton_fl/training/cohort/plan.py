"""Which executor trains a cohort: the one asked for, or the fastest of those that can run the model.

With a seed the choice follows from the model alone, so that a run repeats itself to the bit. Without one, each that can
run it is timed on made-up records, and what is learned from those is thrown away.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from lepton_fl.errors import ConfigError, UnsupportedModel
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.cohort.executor import Executor, Failed, Member, Work, flat_state
from lepton_fl.training.cohort.lowered import Lowered
from lepton_fl.training.cohort.pool import Pool
from lepton_fl.training.cohort.sequential import Sequential
from lepton_fl.training.cohort.together import Gradients, Together
from lepton_fl.training.cohort.vmapped import Vmapped
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask

_log = logging.getLogger(__name__)
AUTO, SEQUENTIAL, VMAP, LOWERED = NAMES = ("auto", "sequential", "vmap", "lowered")
TOGETHER: Mapping[str, Callable[[nn.Module], Gradients]] = {LOWERED: Lowered, VMAP: Vmapped}
_CHUNK_VALUES = 1 << 21  # of a chunk's members: about what a cache holds of them
_LEAST_CHUNK, _LARGEST_CHUNK = 2, 64
_TIMED = 4  # members
_TRIES = 2


@dataclass(frozen=True)
class Asked:
    """What a simulation was told."""

    executor: str  # of NAMES
    chunk: int | None  # members trained together; None: as fits a cache
    workers: int | None  # threads; None: one per core of a CPU, one for a GPU

    def __post_init__(self) -> None:
        if self.executor not in NAMES:
            raise ConfigError(f"executor must be one of {', '.join(NAMES)}, got {self.executor}; nothing was trained")
        for name in ("chunk", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1 or null, got {value}; nothing was trained")


@dataclass(frozen=True)
class Sample:
    """What a member of the cohort is like."""

    shape: Shape
    records: int
    is_seeded: bool  # the run repeats itself
    is_averaged: bool  # nobody needs a single member's model


@dataclass(frozen=True)
class Chosen:
    """How a cohort is trained."""

    executor: str
    chunk: int
    workers: int
    pool: Pool


def choose(asked: Asked, work: Work, model: nn.Module, sample: Sample) -> Chosen:
    """The executor that will train the cohort.

    Raises:
        ConfigError: the one asked for cannot run this model; nothing was trained.
    """
    work = replace(work, is_random=draws(model, sample.shape))
    makers, reasons = _able(asked.executor, work, model, sample)
    if asked.executor != AUTO and asked.executor not in makers:
        raise ConfigError(
            f"executor={asked.executor} cannot train this model: {reasons[asked.executor]}; nothing was trained; "
            "choose executor=auto or sequential"
        )
    name = asked.executor
    if name == AUTO:
        name = _first(makers) if sample.is_seeded else _fastest(makers, model, sample)
    if name == SEQUENTIAL and asked.executor == AUTO and LOWERED in reasons:
        _log.warning("the cohort is trained one by one: %s", reasons[LOWERED])
    chunk, workers = asked.chunk or _chunk(model), asked.workers or _workers(model)
    if name == SEQUENTIAL and work.is_random and workers > 1:
        _log.warning("one worker trains the cohort: the model draws from torch's generator, of which there is one")
        workers = 1
    return Chosen(name, chunk, workers, Pool(makers[name], chunk, workers))


def draws(model: nn.Module, shape: Shape) -> bool:
    """Whether training the model draws from torch's generators, found out by trying."""
    tried = copy.deepcopy(model).train()
    device = device_of(model)
    generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
    before = generator.get_state()
    try:
        with torch.no_grad():
            tried(torch.zeros(2, *shape.features, device=device))
        return not torch.equal(before, generator.get_state())
    except Exception:
        return True  # who knows; in training it will be said what is wrong with it
    finally:
        generator.set_state(before)


def _able(
    asked: str, work: Work, model: nn.Module, sample: Sample
) -> tuple[Mapping[str, Callable[[], Executor]], Mapping[str, str]]:
    """Makers of the executors that can run the model, and why the others cannot."""
    makers: dict[str, Callable[[], Executor]] = {SEQUENTIAL: lambda: Sequential(work)}
    reasons: dict[str, str] = {}
    for name, gradients in TOGETHER.items():
        if asked not in (AUTO, name) or (asked == AUTO and name == VMAP and not _is_worth_a_try(makers, model, sample)):
            continue
        try:
            _refuse(work)
            Together(work, gradients, Sequential(work)).train_together(model, _made_up(2, sample))
        except Exception as error:
            # What a LeptonError says first is what happened; what a library says may have lines.
            reasons[name] = (str(error) or type(error).__name__).splitlines()[0].split(";")[0][:160]
        else:
            makers[name] = _maker(work, gradients)
    return makers, reasons


def _maker(work: Work, gradients: Callable[[nn.Module], Gradients]) -> Callable[[], Executor]:
    return lambda: Together(work, gradients, Sequential(work))


def _is_worth_a_try(makers: Mapping[str, Callable[[], Executor]], model: nn.Module, sample: Sample) -> bool:
    """Batched convolutions lose to one after another on a CPU, and a lowered model to nothing."""
    is_convolution = any(isinstance(one, nn.Conv1d | nn.Conv2d | nn.Conv3d) for one in model.modules())
    return LOWERED not in makers and not sample.is_seeded and (device_of(model).type != "cpu" or not is_convolution)


def _refuse(work: Work) -> None:
    if work.is_random:
        raise UnsupportedModel("it draws while it trains (dropout), each institution by itself")
    if work.mechanism is not None and work.mechanism.records_per_subject is not None:
        raise UnsupportedModel("patients are drawn, each with all of their records")


def _fastest(makers: Mapping[str, Callable[[], Executor]], model: nn.Module, sample: Sample) -> str:
    """By the least of some times that each took for the same members."""
    if len(makers) == 1:
        return next(iter(makers))
    taken = {}
    for name, make in makers.items():
        executor, times = make(), []
        for _ in range(_TRIES):
            began = time.perf_counter()
            failed = [one for one in executor.train(model, _made_up(_TIMED, sample)) if isinstance(one, Failed)]
            times.append(math.inf if failed else time.perf_counter() - began)
        taken[name] = min(times)
    return min(taken, key=lambda name: taken[name])


def _first(makers: Mapping[str, Callable[[], Executor]]) -> str:
    return LOWERED if LOWERED in makers else SEQUENTIAL


def _made_up(members: int, sample: Sample) -> list[Member]:
    """Records of noise, of the sample's size and shape; they are of nobody."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(sample.records, *sample.shape.features, generator=generator)
    examples = Examples(features, torch.zeros(sample.records, dtype=torch.int64))
    weight, source = sample.records if sample.is_averaged else None, Randomness(0).within("timed")
    return [Member(examples, LocalTask(1, 0.0, source.within(number)), weight) for number in range(members)]


def _chunk(model: nn.Module) -> int:
    values = len(flat_state(model))
    return max(_LEAST_CHUNK, min(_LARGEST_CHUNK, _CHUNK_VALUES // max(1, values)))


def _workers(model: nn.Module) -> int:
    return max(1, torch.get_num_threads()) if device_of(model).type == "cpu" else 1
