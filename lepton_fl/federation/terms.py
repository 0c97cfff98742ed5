"""The terms of a run: every setting that operator and institutions must share, and the program they make.

An institution builds its program from the terms with its own installed code, and works out the noise itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from lepton_fl import models, strategies, tasks
from lepton_fl.config import Table, build, look_up, register, register_table
from lepton_fl.errors import ConfigError
from lepton_fl.federation.client_app import ClientProgram
from lepton_fl.models.shape import Model
from lepton_fl.privacy import units
from lepton_fl.privacy.accounting import Schedule, calibrate
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.units import Privacy, RecordPrivacy
from lepton_fl.strategies.strategy import Strategy
from lepton_fl.tasks.split import HoldOut
from lepton_fl.tasks.task import Task
from lepton_fl.training.clipped_sum import OpacusClippedSum, refuse_coupled_records
from lepton_fl.training.device import layers_seeded
from lepton_fl.training.private import Mechanism
from lepton_fl.training.settings import Training


@dataclass
class Terms:
    """What everyone in a run must agree on."""

    task: Task
    model: Model
    strategy: Strategy
    privacy: Privacy
    training: Training
    holdout: HoldOut
    rounds: int
    weight_cap: int  # the most an institution's claimed record count can weigh
    seed: int | None  # null: private; a number: reproducible and not private

    def __post_init__(self) -> None:
        for name in ("rounds", "weight_cap"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass
class RunConfig(Terms):
    """The terms, and what the person who starts a run decides beside them."""

    institutions: int | None  # how many take part; null: as many as there are
    cohort_size: int | None  # institutions asked to train in a round; null: all
    output: str | None  # folder of the results; null: a dated one
    log: str  # text or json

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("institutions", "cohort_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.log not in ("text", "json"):
            raise ConfigError(f"log must be text or json, got {self.log}")


def register_run(name: str, schema: type[RunConfig]) -> None:
    """Store a run's schema, and every dataclass that a YAML of its groups starts from."""
    register(name, schema)
    for group, table in _TABLES.items():
        register_table(group, table)


def program(terms: Terms, institutions: int) -> ClientProgram:
    """What an institution runs: the model, freshly initialised, and the mechanism, its noise calibrated.

    Args:
        institutions: taking part in the run; each one's share of the declared records sets a step's divisor.

    Raises:
        LeptonError: the terms do not fit together; nothing was trained.
    """
    import torch

    shape, randomness = terms.task.shape(), Randomness(terms.seed)
    with layers_seeded(randomness.stream("model").integer(), torch.device("cpu")):
        model = terms.model.build(shape)
    mechanism = None
    if isinstance(terms.privacy, RecordPrivacy):
        if terms.strategy.needs_exact_loss:
            raise ConfigError(
                "this strategy reads each institution's exact training loss, which no epsilon covers; nothing was "
                "trained; choose another strategy, or privacy=none for public data"
            )
        # A model whose records cannot be told apart is refused before the first round, not in it.
        engine = OpacusClippedSum()
        engine.attach(model)
        engine.detach()
        refuse_coupled_records(model, shape.features)
        mechanism = _mechanism(terms, terms.privacy, institutions)
    elif type(terms.privacy) is not units.NoPrivacy:
        raise ConfigError("privacy must be one of record, none; nothing was trained")
    return ClientProgram(model, shape.outputs, terms.training, mechanism, terms.rounds, randomness)


def _mechanism(terms: Terms, privacy: RecordPrivacy, institutions: int) -> Mechanism:
    """The noise that the whole run needs, were an institution asked in every round."""
    training, declared = terms.training, terms.task.declared_records
    if privacy.delta * declared >= 1:
        raise ConfigError(
            f"privacy.delta {privacy.delta:g} for about {declared} records allows one of them to be published "
            f"outright; nothing was trained; set it below {1 / declared:.1g}"
        )
    schedule = Schedule(training.sampling_rate, terms.rounds * training.local_steps)
    return Mechanism(
        noise_multiplier=calibrate(privacy.epsilon, privacy.delta, schedule),
        clipping_norm=privacy.clipping_norm,
        sampling_rate=training.sampling_rate,
        expected_batch=training.sampling_rate * declared * (1 - terms.holdout.share) / institutions,
    )


def to_json(terms: Terms) -> str:
    """The terms as they travel; `from_json` is the inverse."""
    document: dict[str, Any] = {}
    for field in fields(Terms):
        value = getattr(terms, field.name)
        document[field.name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        if field.name in _TABLES:
            document[field.name]["kind"] = _kind(_TABLES[field.name], type(value))
    # Not sorted: the order of a table's columns is the order of the features.
    return json.dumps(document)


def from_json(text: str) -> Terms:
    """Typed, checked terms from someone else's text: only classes in our own tables, only fields they have.

    Raises:
        ConfigError: anything else.
    """
    try:
        document = json.loads(text)
        parts = {name: dict(document.pop(name)) for name in (*_TABLES, "training", "holdout")}
        plain = {name: document[name] for name in ("rounds", "weight_cap", "seed")}
        made = {
            name: build(look_up(table, str(parts[name].pop("kind"))), parts[name]) for name, table in _TABLES.items()
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError("the terms of the run cannot be read; nothing was trained; tell the operator") from error
    for name in ("rounds", "weight_cap"):
        if type(plain[name]) is not int:
            raise ConfigError(f"the terms' {name} is not a whole number; nothing was trained; tell the operator")
    if plain["seed"] is not None and type(plain["seed"]) is not int:
        raise ConfigError("the terms' seed is not a whole number; nothing was trained; tell the operator")
    return Terms(**made, training=build(Training, parts["training"]), holdout=build(HoldOut, parts["holdout"]), **plain)


_TABLES: dict[str, Table] = {
    "task": tasks.TABLE,
    "model": models.TABLE,
    "strategy": strategies.TABLE,
    "privacy": units.TABLE,
}


def _kind(table: Table, made: type[Any]) -> str:
    return next(name for name, place in table.items() if place == f"{made.__module__}:{made.__name__}")
