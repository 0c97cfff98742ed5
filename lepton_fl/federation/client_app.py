"""The institution's side of a round, as a Flower ClientApp: train on request, count on request."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.loss import summed_loss
from lepton_fl.federation.arrays import load_arrays, to_arrays
from lepton_fl.federation.evaluating import Evaluating, Tables
from lepton_fl.federation.histograms import to_record
from lepton_fl.flower import ClientApp, Context, Message, MetricRecord, RecordDict, config_of, model_of
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.rounds_spent import RoundsSpent
from lepton_fl.strategies.agnostic import Scores
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY
from lepton_fl.training.choose import engine_for
from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.device import device_of, full_precision, layers_seeded
from lepton_fl.training.examples import Site
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import Draws, Mechanism, train_privately
from lepton_fl.training.self_test import AsRun, Claimed, UnsoundMechanism, check_mechanism
from lepton_fl.training.settings import Training
from lepton_fl.training.shared_noise import SharedDraws, SharedMechanism, release
from lepton_fl.training.shared_self_test import SharedAsRun, check_shared_mechanism
from lepton_fl.training.weights import WEIGHTS_KEY, weighted
from lepton_fl.training.weights import checked as checked_weights

Metrics = dict[str, int | float | list[int] | list[float]]
"""What becomes a MetricRecord of Flower's."""
DECLARED_WEIGHT = 1  # under privacy every institution weighs the same, since its record count is private


@dataclass(frozen=True)
class ClientProgram:
    """What an institution agreed to run: its own installed code, configured by declared settings."""

    model: nn.Module  # the architecture; its values are overwritten by every message
    outputs: int
    training: Training
    mechanism: Mechanism | None  # None under privacy=none
    rounds: int  # that the noise was made for
    randomness: Randomness
    evaluating: Evaluating
    claimed: Claimed | None = None  # what the accountant was told of the mechanism; without it no private run starts
    is_counted: bool = True  # without a mechanism: the reply tells how many records there are, and their loss
    shared: SharedMechanism | None = None  # instead of the mechanism: the cohort's sum alone has the whole noise
    shape: Shape | None = None  # of the records, for the self-test of shared noise
    cells: int = 1  # groups of people in the task, crossed
    scores: Scores | None = None  # under AFL, what each institution weighs by

    def on(self, device: torch.device) -> ClientProgram:
        """The same program with its model moved to that device; training and counting follow it there.

        Raises:
            ConfigError: the device is there and cannot be used, say because its memory is full.
        """
        try:
            return replace(self, model=self.model.to(device))
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise ConfigError(
                f"the model cannot be moved to {device} ({reason}); nothing was trained; choose device=cpu"
            ) from error


def client_app(program: ClientProgram, sites: Mapping[str, Site], spent: RoundsSpent) -> ClientApp:
    """A ClientApp for these sites; `context.node_config["institution"]` says whose turn it is.

    Raises:
        UnsoundMechanism: the self-test of a private run failed; no record was trained on.
    """
    self_test(program)
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer_training(program, sites[str(context.node_config["institution"])], message, spent)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer_evaluation(program, sites[str(context.node_config["institution"])], message, spent)

    return app


def self_test(program: ClientProgram, engine: ClippedSum | None = None) -> None:
    """Return if the mechanism that would train is the one that was accounted; see `training.self_test`.

    Args:
        engine: that will clip; None: the one that the program trains with.

    It draws from streams of its own, so that a seeded run is the same with it and without.

    Raises:
        UnsoundMechanism: naming what is wrong.
    """
    if program.shared is not None:
        _test_shared(program, program.shared)
    if program.mechanism is None:
        return
    if program.claimed is None:
        raise UnsoundMechanism("the claim", "nobody said what the mechanism must be")
    source = program.randomness.within("self-test")
    engine = engine or engine_for(program.model)
    as_run = AsRun(program.mechanism, engine, Draws(source.stream("sampling"), source.stream("noise")))
    # A copy: a layer that counts, or an engine that fails half-way, must leave no trace in the run's own model.
    model, device = copy.deepcopy(program.model), device_of(program.model)
    with layers_seeded(source.stream("layers").integer(), device), full_precision(device):
        check_mechanism(model, program.claimed, as_run, source.stream("canaries"))


def _test_shared(program: ClientProgram, shared: SharedMechanism) -> None:
    source = program.randomness.within("self-test")
    if program.shape is None:
        raise UnsoundMechanism("the claim", "nobody said what the records look like")
    draws = SharedDraws(source.stream("sampling"), source.stream("rounding"), source.stream("noise"))
    model, device = copy.deepcopy(program.model), device_of(program.model)
    as_run = SharedAsRun(shared, engine_for(program.model), draws)
    with layers_seeded(source.stream("layers").integer(), device), full_precision(device):
        check_shared_mechanism(model, shared, program.shape, as_run, source.stream("canaries"))


def answer_training(program: ClientProgram, site: Site, message: Message, spent: RoundsSpent) -> Message:
    """Train from the message's model; the reply holds the new model and a weight.

    Under privacy the reply is a function of the noisy sums alone: the weight is declared and no loss is
    told; a round is answered once. Without privacy it holds the number of training records and their mean loss, and
    under `privacy=institution` neither, as nobody needs them.
    """
    task = task_of_training(program, site, asked_of_all(program, message), spent)
    metrics = train(program, site, message, task)
    content = RecordDict({"arrays": to_arrays(program.model), "metrics": metrics})
    return Message(content, reply_to=message)


def task_of_training(program: ClientProgram, site: Site, asked: Asked, spent: RoundsSpent) -> LocalTask:
    """What this institution is asked to train; the round is noted as spent, before a record is read.

    Raises:
        BudgetSpent: the round was begun before, or is past the plan.
    """
    if program.shared is not None:
        raise ConfigError("a share of the noise protects no update by itself; nothing was released; tell the operator")
    task = asked.task(program, site)
    spent.begin(site.institution, task.round, program.rounds)
    return task


def train(program: ClientProgram, site: Site, message: Message, task: LocalTask) -> MetricRecord:
    """Train the program's model, in place, from the message's; returns what a reply tells beside it."""
    load_arrays(program.model, model_of(message.content))
    device, seed = device_of(program.model), task.randomness.stream("layers").integer()
    loss = None
    with layers_seeded(seed, device), full_precision(device):
        if program.mechanism is not None:
            train_privately(
                program.model, site.train, program.training, program.mechanism, engine_for(program.model), task
            )
        else:
            loss = train_plainly(program.model, site.train, program.training, task)
    return MetricRecord(told_of_training(program, site, task.round, loss))


def told_of_training(program: ClientProgram, site: Site, round: int, loss: float | None) -> Metrics:
    """What a reply tells beside the model.

    Args:
        loss: mean over the training records before each step, nats; None under privacy.
    """
    if loss is None or not program.is_counted:
        return {WEIGHT_KEY: DECLARED_WEIGHT}
    scores, institution = program.scores, site.institution
    weight = len(site.train) if scores is None else scores.weight(institution, round, loss)
    return {WEIGHT_KEY: weight, TRAIN_LOSS_KEY: loss}


def share_of_step(program: ClientProgram, site: Site, message: Message, task: LocalTask) -> npt.NDArray[np.int64]:
    """This institution's share of the round's one step, from the message's model; only for a masked vector."""
    if program.shared is None:
        raise ConfigError("the run has no shared noise; nothing was released; tell the operator")
    load_arrays(program.model, model_of(message.content))
    device, source = device_of(program.model), task.randomness
    draws = SharedDraws(source.stream("sampling"), source.stream("rounding"), source.stream("noise"))
    with layers_seeded(source.stream("layers").integer(), device), full_precision(device):
        examples = weighted(site.train, task.weights)
        return release(
            program.model, examples, program.shared, engine_for(program.model), draws, program.training.physical_batch
        )


def answer_evaluation(program: ClientProgram, site: Site, message: Message, spent: RoundsSpent) -> Message:
    """Count the hold-out under the message's model; what is told of it has the noise that the plan says, or none."""
    load_arrays(program.model, model_of(message.content))
    asked = asked_of_all(program, message)
    return Message(RecordDict({"metrics": evaluation_of(program, site, asked, spent)}), reply_to=message)


def evaluation_of(program: ClientProgram, site: Site, asked: Asked, spent: RoundsSpent) -> MetricRecord:
    """As `answer_evaluation`, where the program's model has the message's values already."""
    task = asked.task(program, site)
    pay_for_evaluation(program, site.institution, task.round, spent)
    exact = counted_as_loaded(program, site, task.round)
    tables = program.evaluating.released(exact.tables, task.round, task.randomness.stream("evaluation-noise"))
    loss_sum = None if program.evaluating.is_private else exact.loss_sum
    return to_record(tables, loss_sum, 1)


def pay_for_evaluation(program: ClientProgram, institution: str, round: int, spent: RoundsSpent) -> None:
    """The round's evaluation is noted as spent, before a record is scored; an exact one costs nothing that counts.

    Raises:
        BudgetSpent: it was begun before, or is more than was planned.
        ConfigError: the plan has none in this round.
    """
    program.evaluating.parts(round)
    for charge, number in program.evaluating.due(round):
        spent.begin(institution, number, charge.releases, charge.name)


@dataclass(frozen=True)
class Counted:
    """Exact counts of one institution; nothing that may leave under a promise."""

    tables: Tables
    loss_sum: float  # nats, over the hold-out; each record at most `histograms.LARGEST_LOSS`


def counted(program: ClientProgram, site: Site, message: Message, round: int) -> Counted:
    """The hold-out's histograms under the message's model."""
    load_arrays(program.model, model_of(message.content))
    return counted_as_loaded(program, site, round)


def counted_as_loaded(program: ClientProgram, site: Site, round: int) -> Counted:
    """The hold-out's histograms under the program's model as it is."""
    physical_batch = program.training.physical_batch
    with full_precision(device_of(program.model)):
        tables = program.evaluating.counted(program.model, site, round, physical_batch)
        # Whose histograms have noise tells no exact loss.
        is_told = not program.evaluating.is_private
        return Counted(tables, summed_loss(program.model, site.holdout, physical_batch) if is_told else 0.0)


@dataclass(frozen=True)
class Asked:
    """What an instruction says to every institution that gets it."""

    round: int
    proximal_mu: float
    weights: npt.NDArray[np.float64] | None  # as in `LocalTask`; None: each institution's own

    def task(self, program: ClientProgram, site: Site) -> LocalTask:
        """What it asks of this institution."""
        weights = site.weights if self.weights is None else self.weights
        return LocalTask(self.round, self.proximal_mu, program.randomness.within(site.institution, self.round), weights)


def local_task(program: ClientProgram, site: Site, message: Message) -> LocalTask:
    """What the message asks this institution to train; raises `ValueError` for a number that is none."""
    return asked_of_all(program, message).task(program, site)


def asked_of_all(program: ClientProgram, message: Message) -> Asked:
    """What the message says, checked; raises `ValueError` for a number that is none."""
    config = config_of(message.content)
    round = config["server-round"]
    proximal_mu = config.get("proximal-mu", 0.0)
    # The server's message is input like any other: a wrong number is refused, not trained with.
    if not isinstance(round, int) or round < 1:
        raise ValueError("server-round is not a positive integer")
    if not isinstance(proximal_mu, (int, float)) or not 0 <= proximal_mu < math.inf:
        raise ValueError("proximal-mu is not a number >= 0")
    weights = None if WEIGHTS_KEY not in config else weights_of(config[WEIGHTS_KEY], program)
    return Asked(round, float(proximal_mu), weights)


def weights_of(value: object, program: ClientProgram) -> npt.NDArray[np.float64]:
    """The weights of groups in an instruction; raises `ValueError` unless they are what this task's groups need."""
    cells, labels = program.cells, max(2, program.outputs)
    if not isinstance(value, list) or len(value) != cells * labels or not all(type(one) is float for one in value):
        raise ValueError(f"{WEIGHTS_KEY} is not a list of {cells * labels} numbers, one for each group and label")
    return checked_weights(np.array(value, dtype=np.float64).reshape(cells, labels))
