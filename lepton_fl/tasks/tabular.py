"""A tabular task: one YAML, no code. What `examine` accepts is what is trained on.

`examine` is the one function that judges a table; training and `lepton-client check` both call it, so a
preflight that passes is a run that starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lepton_fl.errors import ConfigError, DataError
from lepton_fl.models.shape import Shape
from lepton_fl.tasks.groups import UNKNOWN, Attribute, Groups
from lepton_fl.tasks.schema import Column, Label, one_hot, plain, quoting_hint, scale
from lepton_fl.tasks.table import FIRST_ROW, Text, read_columns
from lepton_fl.tasks.task import DataSource, Loaded, Request, Task, Warned
from lepton_fl.training.examples import Examples, Site


@dataclass
class Tabular(Task):
    """A table: feature columns, label, whom a row is about, and where it belongs."""

    columns: dict[str, Column]
    label: Label
    sensitive: list[str]  # columns whose groups are compared; they may also be features
    subject: str  # column with the id of the person a row is about
    institution: str | None  # column with the institution's name; null: made up by `partition`
    missing: list[str]  # texts that mean "not known", besides an empty cell
    file: str | None  # a table that ships with the package; null: data.path
    # Declared values of those sensitive columns that are no feature; the others are declared among the columns.
    sensitive_values: dict[str, list[str]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.columns:
            raise ConfigError("task.columns must name at least one column")
        for name, column in self.columns.items():
            column.check(name)
        apart = [name for name in (self.label.column, self.subject, self.institution) if name is not None]
        if len(set(apart)) < len(apart):
            raise ConfigError(f"label, subject and institution must be different columns, got {', '.join(apart)}")
        for name in apart:
            if name in self.columns:
                raise ConfigError(
                    f"task.columns has {name}, which is the label, the subject or the institution; as a feature "
                    "it would give the answer away; remove it there"
                )
        self.groups()

    def shape(self) -> Shape:
        """See `Task.shape`."""
        classes = len(self.label.values)
        return Shape((sum(column.width for column in self.columns.values()),), 1 if classes == 2 else classes)

    def groups(self) -> Groups:
        """See `Task.groups`."""
        return Groups(
            tuple(
                Attribute(name, tuple(value for value in self._values(name) if value != UNKNOWN))
                for name in self.sensitive
            )
        )

    def _values(self, name: str) -> list[str]:
        """Declared, of a sensitive column."""
        feature = self.columns.get(name)
        values = self.sensitive_values.get(name) if feature is None else feature.values
        if values is None or (feature is not None and name in self.sensitive_values):
            raise ConfigError(
                f"task.sensitive has {name}, whose groups are not declared once; nothing was read; declare its values "
                "in task.columns if it is a categorical feature, else in task.sensitive_values; for a number, add a "
                "column of bands to the table"
            )
        return values

    def load(self, request: Request) -> Loaded:
        """See `Task.load`."""
        table = self.read(request.source)
        examined = examine(self, table)
        places, names = self._institutions(examined, request)
        subjects = [plain(subject) for subject in examined.subjects.tolist()]
        held, tune = request.holdout.mask(subjects), request.holdout.tune_mask(subjects)
        parts = (~held & ~tune, held, tune)
        sites = []
        for number, name in enumerate(names):
            here = places == number
            sites.append(Site(name, *(examined.examples_where(here & part) for part in parts)))
        _refuse_unusable(sites)
        return Loaded(tuple(sites), examined.warnings)

    def read(self, source: DataSource) -> dict[str, Text]:
        """Every column the task names, as text; raises `DataError` where the file is no such table."""
        if source.path is not None:
            path = Path(source.path).expanduser()
        elif self.file is not None:
            path = Path(__file__).parent / "data" / Path(self.file).name
        else:
            raise ConfigError("this task ships no data; nothing was read; give data.path=FILE")
        wanted = [*self.columns, self.label.column, self.subject, *self.sensitive]
        if self.institution is not None:
            wanted.append(self.institution)
        return read_columns(path, list(dict.fromkeys(wanted)))

    def _institutions(self, examined: Examined, request: Request) -> tuple[npt.NDArray[np.int64], list[str]]:
        """An institution number for each record, and the institutions' names."""
        if examined.institutions is not None:
            names, places = np.unique(examined.institutions, return_inverse=True)
            if request.institutions not in (None, len(names)):
                raise ConfigError(
                    f"this table names {len(names)} institutions in column {self.institution}, so "
                    f"institutions={request.institutions} cannot be made; leave it out"
                )
            return places.astype(np.int64), names.tolist()
        partition, institutions = self.made_up(request)
        subjects = [plain(subject) for subject in examined.subjects.tolist()]
        return partition.assign(examined.labels, subjects, institutions), partition.names(institutions)


@dataclass(frozen=True)
class Examined:
    """A table that fits: encoded rows, and a count of everything that had to be mended."""

    features: npt.NDArray[np.float32]  # [n, width]
    labels: npt.NDArray[np.int64]  # [n]
    subjects: Text  # [n]
    institutions: Text | None  # [n]
    sensitive: dict[str, Text]  # per sensitive column [n], empty where not known
    groups: npt.NDArray[np.int64]  # [n], cell of the task's groups
    missing: dict[str, int]  # per feature column
    warnings: tuple[Warned, ...]

    def examples_where(self, chosen: npt.NDArray[np.bool_]) -> Examples:
        """The chosen rows as tensors."""
        subjects = np.unique([plain(one) for one in self.subjects[chosen].tolist()], return_inverse=True)[1]
        return Examples(
            torch.from_numpy(self.features[chosen]),
            torch.from_numpy(self.labels[chosen]),
            torch.from_numpy(subjects.astype(np.int64)),
            torch.from_numpy(self.groups[chosen]),
        )


def examine(task: Tabular, table: dict[str, Text]) -> Examined:
    """Check every cell against the task's declaration and encode the rows that can be used.

    Rows without a label are dropped; numbers out of bounds are clipped; undeclared categories count as
    missing; each of these is a counted warning. What cannot be mended raises.

    Raises:
        DataError: naming column and row; never a value.
    """
    rows = np.arange(FIRST_ROW, FIRST_ROW + len(table[task.subject]))
    labels, warnings = _labels(task, table[task.label.column], rows)
    known = labels >= 0
    table = {name: text[known] for name, text in table.items()}
    labels, rows = labels[known], rows[known]
    if len(set(labels.tolist())) < 2:
        raise DataError(
            f"column {task.label.column} has {'one class' if len(labels) else 'no label'} in {len(labels)} usable "
            "rows; nothing was trained; a model needs both to learn from"
        )
    for name in (task.subject, task.institution):
        if name is not None:
            _refuse_where(_is_missing(table[name], task.missing), rows, f"column {name} is empty")
    features, found = encode(task, table, rows)
    warnings += found
    subjects = table[task.subject]
    repeated = len(subjects) - len(np.unique(subjects))
    if repeated:
        again = np.setdiff1d(np.arange(len(subjects)), np.unique(subjects, return_index=True)[1])
        what = "a subject with an earlier record; privacy=record protects each record, privacy=patient the subject"
        warnings.append(Warned(what, task.subject, repeated, int(rows[again[0]])))
    institutions = table[task.institution] if task.institution is not None else None
    sensitive, groups, found = _groups(task, table, rows)
    return Examined(
        features=features,
        labels=labels,
        subjects=subjects,
        institutions=institutions,
        sensitive=sensitive,
        groups=groups,
        missing={name: int(_is_missing(table[name], task.missing).sum()) for name in task.columns},
        warnings=(*warnings, *found),
    )


def _groups(
    task: Tabular, table: dict[str, Text], rows: npt.NDArray[np.int64]
) -> tuple[dict[str, Text], npt.NDArray[np.int64], list[Warned]]:
    """Each sensitive column, empty where it is not known; the cell of each record; and what is no declared group."""
    groups, sensitive, codes, warnings = task.groups(), {}, {}, []
    for one in groups.attributes:
        missing = _is_missing(table[one.name], task.missing)
        sensitive[one.name] = np.where(missing, "", table[one.name])
        codes[one.name] = _codes(table[one.name], list(one.values))
        if one.name not in task.columns:  # as a feature it was warned about
            unknown = (codes[one.name] < 0) & ~missing & (table[one.name] != UNKNOWN)
            warnings += _warned("undeclared group, taken as unknown", one.name, unknown, rows)
    return sensitive, groups.codes(codes) if groups.attributes else np.zeros(len(rows), dtype=np.int64), warnings


def _labels(task: Tabular, text: Text, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], list[Warned]]:
    """Class numbers, -1 where the label is missing; an undeclared label is an error."""
    codes = _codes(text, task.label.values)
    missing = _is_missing(text, task.missing)
    _refuse_where(
        (codes < 0) & ~missing,
        rows,
        f"column {task.label.column} has a label that task.label.values does not declare"
        f"{quoting_hint(task.label.values)}",
    )
    return codes, _warned("label missing, row left out", task.label.column, missing, rows)


def encode(
    task: Tabular, table: dict[str, Text], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], list[Warned]]:
    """The feature columns as a model takes them, float32 [n, width], and what had to be mended.

    Args:
        table: the feature columns at least.
        rows: of the file, for messages.

    Raises:
        DataError: naming column and row; never a value.
    """
    blocks, warnings = [], []
    for name, column in task.columns.items():
        block, found = _encode(name, column, table[name], (rows, task.missing))
        blocks.append(block)
        warnings += found
    return np.concatenate(blocks, axis=1), warnings


def _encode(
    name: str, column: Column, text: Text, context: tuple[npt.NDArray[np.int64], list[str]]
) -> tuple[npt.NDArray[np.float32], list[Warned]]:
    rows, missing_texts = context
    missing = _is_missing(text, missing_texts)
    if column.values is not None:
        codes = _codes(text, column.values)
        unknown = (codes < 0) & ~missing
        what = "undeclared category, taken as missing"
        what += quoting_hint(column.values)
        return one_hot(codes, column), _warned(what, name, unknown, rows)
    numbers = _numbers(name, np.where(missing, "nan", text), missing, rows)
    assert column.low is not None and column.high is not None  # noqa: S101, PT018 - for the type checker
    outside = (numbers < column.low) | (numbers > column.high)
    what = f"outside the declared bounds {column.low:g}..{column.high:g}, clipped"
    return scale(numbers, column), _warned(what, name, outside, rows)


def _numbers(
    name: str, text: Text, missing: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    bad = np.array([not _is_number(cell) for cell in text.tolist()], dtype=np.bool_)
    _refuse_where(bad, rows, f"column {name} is declared numeric and holds something that is not a number")
    numbers = text.astype(np.float64)
    _refuse_where(~np.isfinite(numbers) & ~missing, rows, f"column {name} holds a number that is not finite")
    return numbers


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python would read 1_000 as a thousand


def _codes(text: Text, values: list[str]) -> npt.NDArray[np.int64]:
    """Position of each text among the values, -1 where it is none of them."""
    place = {plain(value): number for number, value in enumerate(values)}
    return np.array([place.get(plain(cell), -1) for cell in text.tolist()], dtype=np.int64)


def _is_missing(text: Text, missing_texts: list[str]) -> npt.NDArray[np.bool_]:
    texts = {"", *map(plain, missing_texts)}
    return np.array([plain(cell) in texts for cell in text.tolist()], dtype=np.bool_)


def _warned(what: str, column: str, where: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> list[Warned]:
    return [Warned(what, column, int(where.sum()), int(rows[where][0]))] if where.any() else []


def _refuse_where(where: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], what: str) -> None:
    if where.any():
        raise DataError(
            f"{what} in {int(where.sum())} rows, first in row {int(rows[where][0])}; nothing was trained; correct "
            "the table or the task's YAML"
        )


def _refuse_unusable(sites: list[Site]) -> None:
    for site in sites:
        if len(site.train) == 0:
            raise DataError(
                f"institution {site.institution} has no record to train on after the hold-out; nothing was "
                "trained; leave it out or lower holdout.share"
            )
