"""lepton-sim: the whole federation in one process, with the apps and strategies that run over the network."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from lepton_fl import models, strategies, tasks
from lepton_fl.config import job_number, name_of, register, register_table
from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.evaluation.counts import table_shape
from lepton_fl.federation.arrays import template_of, to_arrays
from lepton_fl.federation.client_app import ClientProgram, client_app
from lepton_fl.federation.local_grid import LocalGrid
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import RoundReport, Rounds, Run
from lepton_fl.flower import Context, Grid, RecordDict, ServerApp
from lepton_fl.models.shape import Model, Shape
from lepton_fl.privacy import units
from lepton_fl.privacy.accounting import Schedule, calibrate, epsilon_spent
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.units import Privacy, RecordPrivacy
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Claim, Facts, Outcome, no_claim
from lepton_fl.results.terminal import JsonVoice, PlainVoice
from lepton_fl.strategies.strategy import Federation, Strategy
from lepton_fl.tasks.split import HoldOut
from lepton_fl.tasks.task import DataSource, Loaded, Request, Task
from lepton_fl.training.clipped_sum import OpacusClippedSum
from lepton_fl.training.private import Mechanism
from lepton_fl.training.settings import Training

VOICES: dict[str, type[PlainVoice] | type[JsonVoice]] = {"text": PlainVoice, "json": JsonVoice}


@dataclass
class SimConfig:
    """Every setting of `lepton-sim`; `conf/sim.yaml` holds the values."""

    task: Task
    model: Model
    strategy: Strategy
    privacy: Privacy
    training: Training
    holdout: HoldOut
    data: DataSource
    rounds: int
    institutions: int | None  # null: as many as the data names, or task.partition says
    cohort_size: int | None  # institutions asked to train in a round; null: all
    weight_cap: int  # the most an institution's claimed record count can weigh
    seed: int | None  # null: private; a number: reproducible and not private
    output: str | None  # null: outputs/<date>/<time>
    log: str  # text or json

    def __post_init__(self) -> None:
        for name in ("rounds", "weight_cap", "institutions", "cohort_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.log not in VOICES:
            raise ConfigError(f"log must be one of {', '.join(VOICES)}, got {self.log}")


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-sim` starts from."""
    register("sim", SimConfig)
    for group, table in (
        ("task", tasks.TABLE),
        ("model", models.TABLE),
        ("strategy", strategies.TABLE),
        ("privacy", units.TABLE),
    ):
        register_table(group, table)


@dataclass(frozen=True)
class Plan:
    """A configured run that can start: everything was checked against everything."""

    config: SimConfig
    facts: Facts
    loaded: Loaded
    program: ClientProgram
    federation: Federation


def plan(config: SimConfig, names: tuple[str, str, str]) -> Plan:
    """Load the data, build the model, calibrate the noise, and refuse what does not fit together.

    Args:
        names: of the task, model and strategy, as they were typed.

    Raises:
        LeptonError: before anything was trained.
    """
    shape = config.task.shape()
    randomness = Randomness(config.seed)
    loaded = config.task.load(Request(config.data, config.holdout, config.institutions))
    institutions = tuple(site.institution for site in loaded.sites)
    federation = Federation(len(institutions), config.cohort_size or len(institutions), config.training.learning_rate)
    if federation.cohort_size > len(institutions):
        raise ConfigError(
            f"cohort_size {federation.cohort_size} is more than the {len(institutions)} institutions; nothing was "
            "trained; lower it"
        )
    program = _program(config, shape, randomness, len(institutions))
    task, model, strategy = names
    facts = Facts(
        task=task,
        title=config.task.title,
        model=model,
        strategy=strategy,
        rounds=config.rounds,
        institutions=institutions,
        parameters=sum(parameter.numel() for parameter in program.model.parameters()),
        claim=_claim(config, program.mechanism),
    )
    config.strategy.build(federation)  # refuses here what it would refuse later
    return Plan(config, facts, loaded, program, federation)


def _program(config: SimConfig, shape: Shape, randomness: Randomness, institutions: int) -> ClientProgram:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.stream("model").integer())
        model = config.model.build(shape)
    mechanism = None
    if isinstance(config.privacy, RecordPrivacy):
        if config.strategy.needs_exact_loss:
            raise ConfigError(
                "this strategy reads each institution's exact training loss, which no epsilon covers; nothing was "
                "trained; choose another strategy, or privacy=none for public data"
            )
        # A model whose records cannot be told apart is refused before the first round, not in it.
        engine = OpacusClippedSum()
        engine.attach(model)
        engine.detach()
        mechanism = _mechanism(config, config.privacy, institutions)
    elif type(config.privacy) is not units.NoPrivacy:
        raise ConfigError("privacy must be one of record, none; nothing was trained")
    return ClientProgram(model, shape.outputs, config.training, mechanism, randomness)


def _mechanism(config: SimConfig, privacy: RecordPrivacy, institutions: int) -> Mechanism:
    """The noise that the whole run needs, were an institution asked in every round."""
    training = config.training
    if privacy.delta * config.task.declared_records >= 1:
        raise ConfigError(
            f"privacy.delta {privacy.delta:g} for about {config.task.declared_records} records allows one of them to "
            f"be published outright; nothing was trained; set it below {1 / config.task.declared_records:.1g}"
        )
    schedule = Schedule(training.sampling_rate, config.rounds * training.local_steps)
    training_records = config.task.declared_records * (1 - config.holdout.share) / institutions
    return Mechanism(
        noise_multiplier=calibrate(privacy.epsilon, privacy.delta, schedule),
        clipping_norm=privacy.clipping_norm,
        sampling_rate=training.sampling_rate,
        expected_batch=training.sampling_rate * training_records,
    )


def _claim(config: SimConfig, mechanism: Mechanism | None) -> Claim:
    privacy = config.privacy
    if mechanism is None or not isinstance(privacy, RecordPrivacy):
        return no_claim(config.seed)
    return Claim(
        unit=privacy.unit,
        neighbouring_relation=privacy.neighbouring_relation,
        epsilon_budget=privacy.epsilon,
        delta=privacy.delta,
        noise_multiplier=mechanism.noise_multiplier,
        clipping_norm=mechanism.clipping_norm,
        sampling_rate=mechanism.sampling_rate,
        steps=config.rounds * config.training.local_steps,
        seed=config.seed,
    )


def simulate(planned: Plan, folder: Folder, voice: PlainVoice | JsonVoice) -> Outcome:
    """Run every round in this process; files and lines come as the rounds do.

    Raises:
        TrainingFailed: no institution gave a usable update in any round.
    """
    began = time.monotonic()
    config, claim = planned.config, planned.facts.claim
    # Training works in place; the plan stays as it was, so that it can be simulated again.
    program = replace(planned.program, model=copy.deepcopy(planned.program.model))
    sites = {site.institution: site for site in planned.loaded.sites}
    grid = LocalGrid(client_app(program, sites), planned.facts.institutions)
    template = template_of(program.model)

    def on_round(report: RoundReport) -> None:
        folder.add_round(report, claim)
        voice.round_done(report)

    rounds = Rounds(
        config.strategy.build(planned.federation),
        Run(
            names=grid.names,
            expected=Expected(
                template, table_shape(program.outputs), config.weight_cap, config.strategy.needs_exact_loss
            ),
            randomness=program.randomness,
            epsilon_after=_epsilon_after(planned),
            on_round=on_round,
            least_replies=config.strategy.least_replies,
        ),
    )
    initial = to_arrays(program.model)
    server_app = ServerApp()
    last = {}

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        last["arrays"] = rounds.start(grid, initial, num_rounds=config.rounds).arrays

    voice.started(planned.facts)
    with voice.progress(config.rounds) if isinstance(voice, PlainVoice) else nullcontext():
        server_app(grid, Context(grid.run.run_id, 1, {}, RecordDict(), {}))
    if all(report.skipped for report in rounds.reports):
        final = rounds.reports[-1]
        reasons = [str(final.skipped), *(f"{name}: {why}" for name, why in final.refused.items())]
        raise TrainingFailed(
            f"no round made a model ({'; '.join(reasons)}); no model was written; lower training.learning_rate or look "
            "at the data"
        )
    sha256 = folder.add_model(last["arrays"], template, claim)
    outcome = Outcome(planned.facts, tuple(rounds.reports), time.monotonic() - began, sha256)
    folder.finish(outcome)
    return outcome


def _epsilon_after(planned: Plan) -> Callable[[int], float] | None:
    """Epsilon of an institution that was asked in so many rounds; None without privacy."""
    claim, mechanism = planned.facts.claim, planned.program.mechanism
    if mechanism is None or claim.delta is None:
        return None
    local_steps, delta = planned.config.training.local_steps, claim.delta
    return lambda asked: epsilon_spent(mechanism.noise_multiplier, delta, mechanism.sampling_rate, asked * local_steps)


def output_folder(output: str | None, job: int | None) -> Path:
    """Where this run's files go; each job of a `--multirun` gets a folder of its own."""
    path = Path(output) if output else Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    return path if job is None else path / str(job)


def run(config: SimConfig) -> None:
    """One `lepton-sim`: plan, then simulate, then say where the results are."""
    voice = VOICES[config.log]()
    planned = plan(config, (name_of("task"), name_of("model"), name_of("strategy")))
    voice.noticed(planned.loaded.warnings)
    path = output_folder(config.output, job_number())
    voice.finished(simulate(planned, Folder(path), voice), str(path))
