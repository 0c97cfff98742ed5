"""The policy: what an institution agrees to, whatever an operator asks. One file, `policy.yaml`, read by `read`.

Every field must be in the file; without the file, or with one that cannot be understood, nothing runs.
`clauses` compares a run with it; `docs/policy.md` explains each field to the officer who signs it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import Any

from lepton_client.outbound import ENERGY
from lepton_fl.config import build
from lepton_fl.errors import ConfigError
from lepton_fl.federation.contract import KINDS
from lepton_fl.federation.installed import Document, installed_task
from lepton_fl.federation.terms import table
from lepton_fl.plain_yaml import read_yaml
from lepton_fl.plugins import admit
from lepton_fl.privacy.units import LARGEST_EPSILON

ANY = "any"  # alone in a list: whatever the operator names
UNITS = ("record", "patient")
BY_HAND, BY_POLICY = ACCEPT = ("by-hand", "by-policy")
MAY_LEAVE = (*KINDS, ENERGY)
REQUIRED, OPTIONAL = SECURE_AGGREGATION = ("required", "optional")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_OTHERS_WRITE = 0o022


@dataclass
class Budget:
    """What all runs together may tell about one unit."""

    unit: str  # whose presence is hidden: record or patient
    epsilon: float  # of everything that ever leaves, at most
    delta: float  # chance that the bound fails, at most

    def __post_init__(self) -> None:
        _require("budget.unit", self.unit, self.unit in UNITS, f"one of {', '.join(UNITS)}")
        _require(
            "budget.epsilon",
            self.epsilon,
            0 < self.epsilon <= LARGEST_EPSILON,
            f"above 0 and at most {LARGEST_EPSILON}",
        )
        _require("budget.delta", self.delta, 0 < self.delta < 0.5, "between 0 and 0.5")


@dataclass
class MostOfARun:
    """What one run may take, at most."""

    epsilon: float  # of the budget
    rounds: int
    holdout_share: float  # of the records, never trained on
    compute_hours: float  # of this machine, training

    def __post_init__(self) -> None:
        _require(
            "run.epsilon", self.epsilon, 0 < self.epsilon <= LARGEST_EPSILON, f"above 0 and at most {LARGEST_EPSILON}"
        )
        _require("run.rounds", self.rounds, self.rounds >= 1, "at least 1")
        _require("run.holdout_share", self.holdout_share, 0 <= self.holdout_share < 1, "at least 0 and below 1")
        _require("run.compute_hours", self.compute_hours, 0 < self.compute_hours < math.inf, "a positive number")


@dataclass
class Plugin:
    """Code that the site installed and somebody approved."""

    module: str
    sha256: str  # over its files; `lepton-client policy hash MODULE` prints it

    def __post_init__(self) -> None:
        _require("plugins.module", self.module, self.module.isidentifier(), "the name of a module without a dot")
        _require(
            "plugins.sha256",
            self.sha256,
            bool(re.fullmatch(r"[0-9a-f]{64}", self.sha256)),
            f"64 digits of 0-9 and a-f (lepton-client policy hash {self.module[:40]} prints them)",
        )


@dataclass
class Policy:
    """Every field of `policy.yaml`."""

    data_set: str  # name of the records this policy is about; their budget is one, whatever file holds them
    budget: Budget
    run: MostOfARun
    public_data: bool  # true: also runs that no epsilon of this institution covers
    accept: str  # by-hand or by-policy
    may_leave: list[str]  # kinds of message
    tasks: list[str]  # names on this machine, sha256:... of a task, or any
    models: list[str]  # names, or any
    strategies: list[str]  # names, or any
    plugins: list[Plugin]
    least_cohort: int  # institutions asked in a round, at least
    secure_aggregation: str  # required or optional
    hours: str | None  # "20:00-06:00", local time; null: always
    power_w: float  # that this machine draws while training; for the estimate of energy

    def __post_init__(self) -> None:
        is_named = 0 < len(self.data_set) <= 100 and self.data_set.isprintable() and self.data_set.strip() != ""
        _require("data_set", self.data_set[:100], is_named, "a name of 1 to 100 letters")
        _require("accept", self.accept, self.accept in ACCEPT, f"one of {', '.join(ACCEPT)}")
        for kind in self.may_leave:
            _require("may_leave", kind, kind in MAY_LEAVE, f"a list of {', '.join(MAY_LEAVE)}")
        for name in ("tasks", "models", "strategies"):
            _refuse_vague_list(name, getattr(self, name))
        _refuse_second(self.plugins)
        _require("least_cohort", self.least_cohort, self.least_cohort >= 1, "at least 1")
        _require(
            "secure_aggregation",
            self.secure_aggregation,
            self.secure_aggregation in SECURE_AGGREGATION,
            f"one of {', '.join(SECURE_AGGREGATION)}",
        )
        _require("hours", self.hours, self.hours is None or is_hours(self.hours), 'null or "20:00-06:00", in quotes')
        _require("power_w", self.power_w, 0 <= self.power_w < math.inf, "at least 0")


def is_hours(text: str) -> bool:
    """Whether this is a time of day to another one."""
    form = _HOURS.fullmatch(text)
    return form is not None and form.group(1, 2) != form.group(3, 4)


def is_within(hours: str | None, now: time) -> bool:
    """Whether this local time lies in the policy's hours; they may go over midnight, and their end is outside."""
    if hours is None:
        return True
    begin, end = (time.fromisoformat(part) for part in hours.split("-"))
    moment = now.replace(tzinfo=None)
    return begin <= moment < end if begin < end else moment >= begin or moment < end


@dataclass
class _File:
    """Names a field as it is written of: `policy.budget.epsilon`."""

    policy: Policy


def place(home: Path, chosen: str | None) -> Path:
    """Where the policy is: the file that was chosen, else `policy.yaml` in the home."""
    return Path(chosen).expanduser() if chosen is not None else home / "policy.yaml"


def read(path: Path) -> Policy:
    """The policy in this file, typed and checked; no code of a plug-in is run.

    Raises:
        ConfigError: there is none, others can write it, or a field is missing, unknown, or of a wrong value; nothing
            may run then.
    """
    if not path.exists():
        raise ConfigError(
            f"there is no policy at {path}, and without one nothing runs; nothing was read or sent; write one with "
            "lepton-client policy init"
        )
    if path.stat().st_mode & _OTHERS_WRITE:
        raise ConfigError(
            f"others on this machine can write the policy {path}; nothing was read or sent; look at what it says, then "
            "chmod go-w it"
        )
    return from_fields(read_yaml(path))


def from_fields(fields: Mapping[str, Any]) -> Policy:
    """The policy with these fields; raises `ConfigError`, naming the first one that is wrong."""
    return build(_File, {"policy": fields}).policy


def load_plugins(policy: Policy) -> None:
    """What the approved plug-ins bring can be named; raises `ConfigError` if one is not as it was approved."""
    for plugin in policy.plugins:
        admit(plugin.module, plugin.sha256)


def approved_tasks(policy: Policy, path: Path) -> Mapping[str, Document]:
    """The tasks that the policy names, as they are on this machine; those of one's own lie in `task/` beside the file.

    Raises:
        ConfigError: the policy names a task, a model or a strategy that is not here.
    """
    for group, names in (("model", policy.models), ("strategy", policy.strategies)):
        for name in names:
            if name not in (*table(group), ANY):
                raise ConfigError(
                    f"policy.{'models' if group == 'model' else 'strategies'} names {name}, which is not installed "
                    f"here; nothing was run; it takes {', '.join(table(group))}"
                )
    named = [name for name in policy.tasks if name != ANY and not name.startswith("sha256:")]
    return {name: installed_task(name, path.parent / "task") for name in named}


def _refuse_vague_list(field: str, names: Sequence[str]) -> None:
    _require(field, list(names), names.count(ANY) == 0 or len(names) == 1, f"names, or [{ANY}] alone")
    for name in names:
        is_name = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name) is not None
        is_hash = field == "tasks" and _SHA256.fullmatch(name) is not None
        also = ", or sha256: and 64 digits of 0-9 and a-f" if field == "tasks" else ""
        _require(field, name[:100], is_name or is_hash, f"names{also}")


def _refuse_second(plugins: Sequence[Plugin]) -> None:
    modules = [plugin.module for plugin in plugins]
    _require("plugins", modules, len({*modules}) == len(modules), "a list without the same module twice")


def _require(field: str, value: object, holds: bool, claim: str) -> None:
    if not holds:
        raise ConfigError(f"policy.{field} must be {claim}, got {value}; nothing was run; correct the policy file")
