"""lepton-sim: the whole federation in one process, with the apps and strategies that run over the network."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from safetensors.torch import load_file

from lepton_fl.config import job_number, name_of
from lepton_fl.energy import lines
from lepton_fl.energy.settings import Energy
from lepton_fl.energy.summary import Account
from lepton_fl.engines import LOCAL, Place, computing
from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.gates import Gates, refuse_held
from lepton_fl.federation.journal import NoJournal
from lepton_fl.federation.own_weights import with_own_weights
from lepton_fl.federation.terms import RunConfig, register_run
from lepton_fl.flower_ray import Resources
from lepton_fl.plugins import admit_installed, named_in
from lepton_fl.privacy.accounting import epsilon_of_group
from lepton_fl.results import joining
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Outcome
from lepton_fl.results.terminal import VOICES, Voice
from lepton_fl.run import Carrier, Names, Prepared, conduct, prepare
from lepton_fl.tasks.task import DataSource, Loaded, Request
from lepton_fl.training.cohort import plan as cohort
from lepton_fl.training.device import choose, describe
from lepton_fl.training.subjects import most_records_of_a_subject

MOST_RECORDS = 8  # of one person, for which a promise per record is worked out; with more it is worth nothing


@dataclass
class AuditSettings:
    """What `lepton-sim audit` plants and how sure it is."""

    canaries: int  # people who are not in the data, each put into the training or not by a fair coin
    records_per_canary: int  # of each such person
    confidence: float  # that the bound is not too high, in (0, 1)

    def __post_init__(self) -> None:
        for name in ("canaries", "records_per_canary"):
            if getattr(self, name) < 1:
                raise ConfigError(f"audit.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"audit.confidence must lie between 0 and 1, got {self.confidence}")


@dataclass
class SimConfig(RunConfig):
    """Every setting of `lepton-sim`; `conf/sim.yaml` holds the values."""

    data: DataSource
    device: str  # cpu, cuda, cuda:N or auto
    engine: str  # of `engines.ENGINES`
    ray: Resources  # of each institution, under engine=ray
    executor: str  # auto, sequential, vmap or lowered: how a cohort is trained, never what it learns
    chunk: int | None  # institutions trained together; null: as fits a cache
    workers: int | None  # threads that train; null: one per core, or one for a GPU
    audit: AuditSettings  # of `lepton-sim audit` alone


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-sim` starts from, those of its plug-ins too."""
    admit_installed(named_in(sys.argv[1:]))
    register_run("sim", SimConfig)


@dataclass(frozen=True)
class Plan:
    """A simulation that can start: the run, every institution's data, and where they are computed."""

    run: Prepared
    loaded: Loaded
    device: torch.device
    place: Place
    energy: Energy
    gates: Gates
    asked: cohort.Asked  # how a cohort is trained


def plan(config: SimConfig, names: Names) -> Plan:
    """Load the data and prepare the run; raises `LeptonError` before anything was trained."""
    place = Place(config.engine, config.ray, config.device, config.energy.power_w)
    device = choose(config.device) if place.engine == LOCAL else torch.device("cpu")  # workers choose for themselves
    loaded = config.task.load(Request(config.data, config.holdout, config.institutions))
    institutions = [site.institution for site in loaded.sites]
    prepared = prepare(config, names, institutions, config.cohort_size)
    asked = cohort.Asked(config.executor, config.chunk, config.workers)
    if asked.executor != cohort.AUTO and config.is_summed:
        raise ConfigError(
            f"executor={asked.executor} trains many institutions together, and under secure aggregation each one has "
            "keys and masks of its own; nothing was trained; give secure_aggregation=off, or executor=auto"
        )
    return Plan(prepared, loaded, device, place, config.energy, config.gates, asked)


def simulate(planned: Plan, folder: Folder, voice: Voice) -> Outcome:
    """Run every round on this machine; raises `TrainingFailed` if no round made a model."""
    # Training works in place; the plan stays as it was, so that it can be simulated again.
    program = replace(planned.run.program, model=copy.deepcopy(planned.run.program.model)).on(planned.device)
    terms, randomness = planned.run.terms, program.randomness
    sites = {site.institution: with_own_weights(terms, site, randomness) for site in planned.loaded.sites}
    with computing(planned.place, planned.asked, planned.run, program, sites) as on:
        account = Account(planned.energy, on.lines)
        carrier = Carrier(on.grid, on.names, NoJournal(randomness), None, account, planned.gates, on.is_folded)
        try:
            outcome = conduct(planned.run, carrier, (folder, voice))
        finally:
            lines.write(folder.path, on.lines())
    made = _joined(planned, folder)
    if made is not None:
        joining.write(made, terms, folder)
    return outcome


def _joined(planned: Plan, folder: Folder) -> joining.Joined | None:
    """What each institution would work out at home, with the model that the run ended with."""
    start, federated = (copy.deepcopy(planned.run.program.model) for _ in range(2))
    federated.load_state_dict(load_file(joining.model_file(folder.path)))
    return joining.joined(planned.run.terms, (start, federated), planned.loaded.sites, planned.run.program.randomness)


def repeats(planned: Plan) -> list[str]:
    """What a promise per record means for the person with the most records in one institution, if anybody has several.

    The number is exact: it is for whoever runs a simulation on data they may see, and travels nowhere.
    """
    claim, mechanism = planned.run.facts.claim, planned.run.program.mechanism
    most = max(most_records_of_a_subject(site.train) for site in planned.loaded.sites)
    if claim.unit == "record" and most > 1 and claim.sharing is not None:
        return [
            f"one person has {most} records at one institution; epsilon {claim.epsilon_budget:.2f} per record is more "
            "per person, by how much is not accounted under shared noise; privacy=patient promises it to everybody"
        ]
    if claim.unit != "record" or most == 1 or mechanism is None or claim.delta is None or claim.steps is None:
        return []
    counted = min(most, MOST_RECORDS)
    epsilon = epsilon_of_group(mechanism.noise_multiplier, claim.delta, mechanism.sampling_rate, claim.steps, counted)
    fewer = "" if counted == most else f", and more for {most}"
    return [
        f"one person has {most} records at one institution; epsilon {claim.epsilon_budget:.2f} per record "
        f"({claim.neighbouring_relation}) is at most {epsilon:.2f} per person with {counted} records{fewer}; "
        "privacy=patient promises the same to everybody"
    ]


def output_folder(output: str | None, job: int | None) -> Path:
    """Where this run's files go; each job of a `--multirun` gets a folder of its own."""
    path = Path(output) if output else Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    return path if job is None else path / str(job)


def run(config: SimConfig) -> None:
    """One `lepton-sim`: plan, then simulate, then say where the results are."""
    voice = VOICES[config.log]()
    planned = plan(config, Names(name_of("task"), name_of("model"), name_of("strategy")))
    if config.device == "auto":
        voice.computing_on(describe(planned.device))
    voice.noticed([*planned.loaded.warnings, *repeats(planned)])
    path = output_folder(config.output, job_number())
    outcome = simulate(planned, Folder(path), voice)
    voice.finished(outcome, str(path))
    if config.log == "text":
        sys.stdout.writelines(f"{line}\n" for line in joining.lines(path, config))
    if outcome.verdict is not None:
        refuse_held(path, outcome.verdict)
