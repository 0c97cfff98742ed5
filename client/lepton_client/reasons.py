"""`lepton-client explain`: why a model says what it says of one record. On this machine alone; nothing leaves it."""

from __future__ import annotations

import json
import logging
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor, nn

from lepton_client.explain import find_contract
from lepton_client.home import find
from lepton_fl.command import Parser
from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError, DataError
from lepton_fl.explanation.attributions import explain
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.installed import installed_task
from lepton_fl.federation.terms import from_document
from lepton_fl.models.shape import Model
from lepton_fl.plain_yaml import read_yaml
from lepton_fl.show import printable
from lepton_fl.tasks.features import features_of
from lepton_fl.tasks.table import FIRST_ROW, read_columns
from lepton_fl.tasks.tabular import Tabular, encode
from lepton_fl.tasks.task import Task

_log = logging.getLogger(__name__)
_LARGEST_RECORD = 1 << 20  # bytes


@dataclass(frozen=True)
class Reason:
    """A column, and how far it moved the logit away from the baseline's."""

    column: str
    moved: float


@dataclass(frozen=True)
class Reasons:
    """What a model says of one record, and why."""

    label: str  # whose score it is: the label's column and value
    score: float  # of two classes that of the second, of more that of the likeliest; in [0, 1] for two, else the logit
    baseline: float  # the same of the public baseline
    reasons: tuple[Reason, ...]  # the heaviest first


@dataclass(frozen=True)
class Record:
    """One record as a model takes it."""

    features: Tensor  # float32 [width]
    warnings: tuple[str, ...]  # of columns that had to be mended, without a value
    unknown: tuple[str, ...]  # columns that are not known of it


def reasons(task: Tabular, model: nn.Module, record: Tensor) -> Reasons:
    """Each column's part in the logit of this record, the heaviest first.

    Args:
        record: float32 [width], features.
    """
    found = explain(model, record)
    features = features_of(task.columns)
    moved = features.summed(found.attributions[None, :])[0].tolist()
    ordered = sorted(zip(features.names, moved, strict=True), key=lambda one: -abs(one[1]))
    is_binary = len(task.label.values) == 2
    score, baseline = ((1 / (1 + math.exp(-logit)) if is_binary else logit) for logit in (found.logit, found.baseline))
    label = f"{task.label.column} {task.label.values[found.label]}"
    return Reasons(label, score, baseline, tuple(Reason(*one) for one in ordered))


def read_record(task: Tabular, path: Path) -> Record:
    """The record in a JSON object, column by column; one that is absent or null is not known.

    Raises:
        DataError: no such file, no object, a column that the task has not, or a cell that does not fit. No value is
            told.
    """
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_LARGEST_RECORD))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read the record {path}; nothing was explained; give a JSON object of columns"
        ) from error
    if not isinstance(said, dict) or any(isinstance(cell, list | dict) for cell in said.values()):
        raise DataError(f"{path} is no object of columns; nothing was explained; write {{COLUMN: VALUE, ...}}")
    unknown = sorted({*said} - {*task.columns})
    if unknown:
        raise DataError(
            f"the record has column {printable(unknown[0])[:60]}, which the task's model does not take; nothing was "
            f"explained; it takes {', '.join(task.columns)}"
        )
    return _encoded(task, {name: _text(said.get(name)) for name in task.columns})


def read_row(task: Tabular, path: Path, row: int) -> Record:
    """One row of a table, counted as an editor does: the header is row 1; raises `DataError` where there is none."""
    table = read_columns(path, [*task.columns])
    count = len(next(iter(table.values())))
    if not FIRST_ROW <= row < FIRST_ROW + count:
        raise DataError(f"{path} has rows {FIRST_ROW} to {FIRST_ROW + count - 1}, not {row}; nothing was explained")
    return _encoded(task, {name: str(text[row - FIRST_ROW]) for name, text in table.items()})


def read_model(settings: Model, task: Task, path: Path) -> nn.Module:
    """The model in a safetensors file; raises `ConfigError` if it is not one of this kind for this task."""
    model = settings.build(task.shape())
    try:
        values = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot read the model {path}; nothing was explained; give its safetensors file") from error
    template = template_of(model)
    found = {name: value.shape for name, value in values.items() if value.dtype == np.float32}
    if found != dict(template) or not all(np.isfinite(value).all() for value in values.values()):
        raise ConfigError(
            f"{path} holds another model than the one that is named; nothing was explained; name its run, or its task "
            "and architecture"
        )
    model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    return model


def lines(found: Reasons, unknown: Sequence[str]) -> list[str]:
    """For people."""
    width = max(len(one.column) for one in found.reasons)
    shown = [
        f"score       {found.score:.3f} for {printable(found.label)}",
        f"baseline    {found.baseline:.3f} (every number in the middle of its bounds, no category)",
    ]
    for one in found.reasons:
        does = "raises" if one.moved > 0 else "lowers"
        if one.moved:
            known = "" if one.column not in unknown else " (not known)"
            shown.append(f"  {one.column:<{width}}  {one.moved:+.3f}  {does} it{known}")
    return shown


def main(arguments: list[str]) -> None:
    """One `lepton-client explain`."""
    chosen = _parser().parse_args(arguments)
    task, settings = _named(chosen)
    if not isinstance(task, Tabular):
        raise ConfigError("only tables have columns to explain by; nothing was explained; take a tabular task")
    if (chosen.record is None) == (chosen.row is None) or (chosen.row is None) != (chosen.data is None):
        raise ConfigError("give a RECORD, or --row N and --data FILE; nothing was explained")
    model = read_model(settings, task, Path(chosen.model))
    if chosen.record is not None:
        record = read_record(task, Path(chosen.record))
    else:
        record = read_row(task, Path(chosen.data), chosen.row)
    found = reasons(task, model, record.features)
    sys.stderr.writelines(f"warning: column {warning}\n" for warning in record.warnings)
    _log.info("explained a record")
    shown = (
        [json.dumps({**asdict(found), "not_known": record.unknown})] if chosen.json else lines(found, record.unknown)
    )
    sys.stdout.writelines(f"{line}\n" for line in shown)


def _parser() -> Parser:
    parser = Parser(prog="lepton-client explain", add_help=False, allow_abbrev=False)
    parser.add_argument("record", nargs="?")
    parser.add_argument("--model", required=True)
    for option in ("--run", "--task", "--architecture", "--data", "--home"):
        parser.add_argument(option)
    parser.add_argument("--row", type=int)
    parser.add_argument("--json", action="store_true")
    return parser


def _named(chosen: Namespace) -> tuple[Task, Model]:
    """The task and the model's settings: those of a run's contract, or installed ones by name."""
    home = find(chosen.home)
    if chosen.run is not None:
        terms = find_contract(home, chosen.run).settings()
        return terms.task, terms.model
    if chosen.task is None or chosen.architecture is None:
        raise ConfigError("give --run RUN, or --task NAME and --architecture NAME; nothing was explained")
    task: Task = from_document("task", installed_task(chosen.task, home / "task"))
    return task, _architecture(chosen.architecture)


def _architecture(name: str) -> Model:
    folder = config_dir() / "model"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"there is no model {name[:40]}; nothing was explained; it takes {', '.join(names)}")
    values: dict[str, Any] = read_yaml(folder / f"{name}.yaml")
    kind = str(values.pop("defaults")[0]).removesuffix("_schema")
    made: Model = from_document("model", {**values, "kind": kind})
    return made


def _encoded(task: Tabular, cells: dict[str, str]) -> Record:
    table = {name: np.array([cell]) for name, cell in cells.items()}
    features, warned = encode(task, table, np.array([FIRST_ROW]))
    unknown = tuple(name for name, cell in cells.items() if cell in ("", *task.missing))
    return Record(torch.from_numpy(features[0]), tuple(f"{one.column}: {one.what}" for one in warned), unknown)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
