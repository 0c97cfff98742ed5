"""The terms of a run: every setting that operator and institutions must share, as they are typed and as they travel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from lepton_fl import evaluation, fairness, models, secure_aggregation, strategies, tasks
from lepton_fl.config import Table, build, look_up, register, register_table
from lepton_fl.energy.settings import Energy
from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.gates import Gates
from lepton_fl.evaluation.settings import Evaluation
from lepton_fl.explanation.release import Explanation
from lepton_fl.fairness.settings import Fairness
from lepton_fl.models.shape import Model
from lepton_fl.privacy import units
from lepton_fl.privacy.units import Privacy
from lepton_fl.secure_aggregation.settings import On, SecureAggregation
from lepton_fl.strategies.strategy import Strategy
from lepton_fl.tasks.split import HoldOut
from lepton_fl.tasks.task import Task
from lepton_fl.training.settings import Training

OWN, SHARED = NOISE = ("own", "shared")


@dataclass
class Terms:
    """What everyone in a run must agree on."""

    task: Task
    model: Model
    strategy: Strategy
    privacy: Privacy
    training: Training
    fairness: Fairness
    secure_aggregation: SecureAggregation
    evaluation: Evaluation
    explanation: Explanation
    noise: str  # own: each institution adds all of it; shared: each its share, and the sum has it all
    holdout: HoldOut
    rounds: int
    weight_cap: int  # the most an institution's claimed record count can weigh
    seed: int | None  # null: private; a number: reproducible and not private

    def __post_init__(self) -> None:
        for name in ("rounds", "weight_cap"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.noise not in NOISE:
            raise ConfigError(f"noise must be one of {', '.join(NOISE)}, got {self.noise[:40]}")

    @property
    def is_summed(self) -> bool:
        """Whether the operator sees sums alone."""
        return isinstance(self.secure_aggregation, On)


@dataclass
class RunConfig(Terms):
    """The terms, and what the person who starts a run decides beside them."""

    institutions: int | None  # how many take part; null: as many as there are
    cohort_size: int | None  # institutions asked to train in a round; null: all
    output: str | None  # folder of the results; null: a dated one
    log: str  # text or json
    plugins: list[str]  # modules installed on this machine whose kinds can be named
    energy: Energy  # what is declared of it, and when a round buys too little
    gates: Gates  # that a model must pass to be released

    def __post_init__(self) -> None:
        super().__post_init__()
        for module in self.plugins:
            if module not in _PLUGIN_OF.values():
                raise ConfigError(
                    f"plug-in {module} was not loaded; nothing was run; give plugins=[{module}] on the command line"
                )
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


def to_json(terms: Terms) -> str:
    """The terms as they travel; `from_json` is the inverse."""
    document: dict[str, Any] = {}
    for field in fields(Terms):
        value = getattr(terms, field.name)
        if field.name in _TABLES:
            document[field.name] = to_document(field.name, value)
        else:
            document[field.name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    # Not sorted: the order of a table's columns is the order of the features.
    return json.dumps(document)


def to_document(group: str, part: Any) -> dict[str, Any]:
    """A part of the terms as it travels: its fields, and the name of its kind in the group's table."""
    return {**asdict(part), "kind": _kind(_TABLES[group], type(part))}


def from_document(group: str, document: Mapping[str, Any]) -> Any:
    """A part of the terms, typed and checked; `to_document` is the inverse.

    Raises:
        ConfigError: a kind that is not installed here, a field that is missing, unknown or of another type.
    """
    values = dict(document)
    kind = str(values.pop("kind"))
    if kind not in _TABLES[group]:
        raise ConfigError(
            f"there is no {group} of the kind {kind[:40]!r} here; nothing was trained; if it is a plug-in, it must be "
            "installed here and approved in policy.plugins"
        )
    return build(look_up(_TABLES[group], kind), values)


def table(group: str) -> Table:
    """The kinds of a group, `task`, `model`, `strategy` or `privacy`, that can be named here."""
    return _TABLES[group]


def add_kinds(plugin: str, brings: Mapping[str, Table]) -> None:
    """The kinds that a plug-in brings can be named; to be called by `plugins` alone.

    Raises:
        ConfigError: no plug-in may bring this group, or a name is taken: a shipped one always means the same. Nothing
            was added.
    """
    for group, kinds in brings.items():
        if group not in PLUGIN_GROUPS:
            raise ConfigError(
                f"plug-in {plugin} brings {group[:40]!r}, and only {', '.join(PLUGIN_GROUPS)} may be brought; nothing "
                "was run; correct its LEPTON_FL"
            )
        taken = [name for name in kinds if name in _TABLES[group]]
        if taken:
            raise ConfigError(
                f"plug-in {plugin} brings {group} {taken[0][:40]}, which is there already; nothing was run; give it "
                "another name"
            )
    for group, kinds in brings.items():
        _TABLES[group].update(kinds)
        _PLUGIN_OF.update({(group, name): plugin for name in kinds})


def plugins_of(terms: Terms) -> tuple[str, ...]:
    """The plug-ins whose kinds these terms use, by the names of their modules."""
    used = ((group, to_document(group, getattr(terms, group))["kind"]) for group in PLUGIN_GROUPS)
    return tuple(dict.fromkeys(_PLUGIN_OF[place] for place in used if place in _PLUGIN_OF))


def from_json(text: str) -> Terms:
    """Typed, checked terms from someone else's text: only classes in our own tables, only fields they have.

    Raises:
        ConfigError: anything else.
    """
    try:
        document = json.loads(text)
        parts = {name: dict(document.pop(name)) for name in (*_TABLES, "training", "holdout", "explanation")}
        plain = {name: document[name] for name in ("noise", "rounds", "weight_cap", "seed")}
        made = {name: from_document(name, parts[name]) for name in _TABLES}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError("the terms of the run cannot be read; nothing was trained; tell the operator") from error
    for name in ("rounds", "weight_cap"):
        if type(plain[name]) is not int:
            raise ConfigError(f"the terms' {name} is not a whole number; nothing was trained; tell the operator")
    if not isinstance(plain["noise"], str):
        raise ConfigError("the terms' noise is not a word; nothing was trained; tell the operator")
    if plain["seed"] is not None and type(plain["seed"]) is not int:
        raise ConfigError("the terms' seed is not a whole number; nothing was trained; tell the operator")
    return Terms(
        **made,
        training=build(Training, parts["training"]),
        holdout=build(HoldOut, parts["holdout"]),
        explanation=build(Explanation, parts["explanation"]),
        **plain,
    )


PLUGIN_GROUPS = ("task", "model", "strategy")

# Copies that grow in one place, `add_kinds`; what ships stays as it is.
_TABLES: dict[str, dict[str, str]] = {
    "task": {**tasks.TABLE},
    "model": {**models.TABLE},
    "strategy": {**strategies.TABLE},
    "privacy": {**units.TABLE},
    "fairness": {**fairness.TABLE},
    "secure_aggregation": {**secure_aggregation.TABLE},
    "evaluation": {**evaluation.TABLE},
}
_PLUGIN_OF: dict[tuple[str, str], str] = {}  # (group, kind): the module that brought it


def _kind(table: Table, made: type[Any]) -> str:
    return next(name for name, place in table.items() if place == f"{made.__module__}:{made.__name__}")
