"""lepton-sim: the whole federation in one process, with the apps and strategies that run over the network."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from lepton_fl.config import job_number, name_of
from lepton_fl.federation.client_app import client_app
from lepton_fl.federation.journal import NoJournal
from lepton_fl.federation.local_grid import LocalGrid
from lepton_fl.federation.terms import RunConfig, register_run
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Outcome
from lepton_fl.results.terminal import VOICES, Voice
from lepton_fl.run import Carrier, Names, Prepared, conduct, prepare
from lepton_fl.tasks.task import DataSource, Loaded, Request
from lepton_fl.training.device import choose, describe


@dataclass
class SimConfig(RunConfig):
    """Every setting of `lepton-sim`; `conf/sim.yaml` holds the values."""

    data: DataSource
    device: str  # cpu, cuda, cuda:N or auto


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-sim` starts from."""
    register_run("sim", SimConfig)


@dataclass(frozen=True)
class Plan:
    """A simulation that can start: the run, every institution's data, and where they are computed."""

    run: Prepared
    loaded: Loaded
    device: torch.device


def plan(config: SimConfig, names: Names) -> Plan:
    """Load the data and prepare the run; raises `LeptonError` before anything was trained."""
    device = choose(config.device)
    loaded = config.task.load(Request(config.data, config.holdout, config.institutions))
    institutions = [site.institution for site in loaded.sites]
    return Plan(prepare(config, names, institutions, config.cohort_size), loaded, device)


def simulate(planned: Plan, folder: Folder, voice: Voice) -> Outcome:
    """Run every round in this process; raises `TrainingFailed` if no round made a model."""
    # Training works in place; the plan stays as it was, so that it can be simulated again.
    program = replace(planned.run.program, model=copy.deepcopy(planned.run.program.model)).on(planned.device)
    sites = {site.institution: site for site in planned.loaded.sites}
    grid = LocalGrid(client_app(program, sites, InMemory()), planned.run.facts.institutions)
    return conduct(planned.run, Carrier(grid, grid.names, NoJournal(program.randomness)), (folder, voice))


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
    voice.noticed(planned.loaded.warnings)
    path = output_folder(config.output, job_number())
    voice.finished(simulate(planned, Folder(path), voice), str(path))
