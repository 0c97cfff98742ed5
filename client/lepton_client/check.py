"""`lepton-client check`: whether a run could start here, as far as this machine can tell.

The data goes through the very function that training uses. What is printed is exact and stays on this machine:
it is for the person who may see the data.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from lepton_client import policy as policies
from lepton_client import sections
from lepton_client.home import Home, find, open_home
from lepton_client.preflight import NotReady, preflight
from lepton_client.preflight import lines as preflight_lines
from lepton_client.sections import Section
from lepton_fl import tasks
from lepton_fl.config import name_of, register, register_table
from lepton_fl.errors import ConfigError
from lepton_fl.tasks.schema import plain
from lepton_fl.tasks.split import HoldOut
from lepton_fl.tasks.tabular import Examined, Tabular, examine
from lepton_fl.tasks.task import DataSource, Request, Task
from lepton_fl.training.device import choose, devices_seen


@dataclass
class CheckConfig:
    """Every setting of `lepton-client check`; `conf/check.yaml` holds the values."""

    task: Task
    data: DataSource
    holdout: HoldOut
    home: str | None  # null: LEPTON_HOME, else ~/.lepton/client
    device: str  # cpu, cuda, cuda:N or auto
    policy: str | None  # file; null: HOME/policy.yaml
    log: str  # text or json

    def __post_init__(self) -> None:
        if self.log not in ("text", "json"):
            raise ConfigError(f"log must be text or json, got {self.log}")


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-client check` starts from."""
    register("check", CheckConfig)
    register_table("task", tasks.TABLE)


@dataclass(frozen=True)
class Balance:
    """How often the last label value occurs in one group."""

    column: str
    group: str
    records: int
    positive: int


@dataclass(frozen=True)
class Findings:
    """What the check found."""

    task: str
    rows: int
    usable: int
    held_out: int
    subjects: int  # among the usable rows
    most_records: int  # of one subject
    institutions: dict[str, int]  # usable records of each; empty where the table names none
    missing: dict[str, int]  # per feature column, of the usable rows
    balance: list[Balance]
    warnings: list[str]


def check(task: Tabular, holdout: HoldOut, source: DataSource, name: str) -> Findings:
    """Examine the whole table as training would; raises `DataError` where training would."""
    # Also what training refuses once the table is spread over institutions and held out.
    task.load(Request(source, holdout, None))
    table = task.read(source)
    examined = examine(task, table)
    subjects = [plain(subject) for subject in examined.subjects.tolist()]
    return Findings(
        task=name,
        rows=len(table[task.subject]),
        usable=len(examined.labels),
        held_out=int((holdout.mask(subjects) | holdout.tune_mask(subjects)).sum()),
        subjects=len(set(subjects)),
        most_records=max(Counter(subjects).values()),
        institutions=_count(examined),
        missing=examined.missing,
        balance=list(_balance(task, examined)),
        warnings=[str(warning) for warning in examined.warnings],
    )


def _count(examined: Examined) -> dict[str, int]:
    if examined.institutions is None:
        return {}
    names, counts = np.unique(examined.institutions, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _balance(task: Tabular, examined: Examined) -> Iterator[Balance]:
    positive = examined.labels == len(task.label.values) - 1
    yield Balance("all", "", len(positive), int(positive.sum()))
    for column, groups in examined.sensitive.items():
        for group in np.unique(groups).tolist():
            here = groups == group
            yield Balance(column, group or "unknown", int(here.sum()), int((here & positive).sum()))


def lines(findings: Findings, label: str) -> Iterator[str]:
    """The findings for people, one fact a line."""
    yield f"task        {findings.task}"
    yield f"rows        {findings.rows} in the file, {findings.usable} usable, {findings.held_out} of them held out"
    yield f"subjects    {findings.subjects}, with up to {findings.most_records} records each"
    for name, records in findings.institutions.items():
        yield f"  {name:<24} {records:>8} records"
    for column, count in findings.missing.items():
        if count:
            yield f"missing     {column:<24} {count:>8}  {count / findings.usable:6.1%}"
    for row in findings.balance:
        group = f"{row.column} {row.group}".strip()
        yield f"{label:<11.11} {group:<24.24} {row.positive:>8} of {row.records} ({row.positive / row.records:.1%})"
    yield from (f"warning     {warning}" for warning in findings.warnings)


def beside_the_data(config: CheckConfig, device: torch.device, home: Home | None) -> Iterator[Section]:
    """Every section that needs neither the data nor the network, in the order of the report."""
    folder = home.path.resolve() if home is not None else Path.cwd()
    # A check may come before the policy is written; one that is there must be readable.
    file = policies.place(find(config.home), config.policy)
    yield sections.leaves(policies.read(file) if file.exists() or config.policy is not None else None)
    yield sections.device(devices_seen(), config.device, device)
    yield sections.disk(folder, shutil.disk_usage(folder).free, home.institution if home is not None else None)


def _enrolled(path: Path) -> Home | None:
    """The home, or None before enrolment: a check may come first."""
    try:
        return open_home(path)
    except ConfigError:
        return None


def run(config: CheckConfig) -> None:
    """One `lepton-client check`."""
    if not isinstance(config.task, Tabular):
        raise ConfigError("only tabular tasks have a table to check; nothing was read; choose another task")
    device = choose(config.device)
    findings = check(config.task, config.holdout, config.data, name_of("task"))
    home = _enrolled(find(config.home))
    link = [] if home is None else preflight(home, datetime.now(UTC))
    others = [
        Section("link", [asdict(one) for one in link], tuple(preflight_lines(link))),
        *beside_the_data(config, device, home),
    ]
    failed = [one.sentence for one in link if one.state == "failed"]
    if config.log == "json":
        told = asdict(findings) | {section.name: section.content for section in others}
        sys.stdout.write(json.dumps(told) + "\n")
        _refuse_unready(failed)
        return
    label = f"{config.task.label.column}={config.task.label.values[-1]}"
    report = [*lines(findings, label), *(line for section in others for line in section.lines)]
    sys.stdout.writelines(f"{line}\n" for line in report)
    _refuse_unready(failed)
    sys.stdout.write("ready       this table can be trained on; nothing of it left this machine\n")


def _refuse_unready(failed: list[str]) -> None:
    if failed:
        raise NotReady(f"{failed[0]}; nothing of the data was sent; mend it, then check again")
