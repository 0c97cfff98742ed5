"""What every task promises: declared facts before the data, and sites with the data."""

from __future__ import annotations

from dataclasses import dataclass, field

from lepton_fl.errors import ConfigError
from lepton_fl.models.shape import Shape
from lepton_fl.tasks.groups import Groups
from lepton_fl.tasks.split import HoldOut, Partition
from lepton_fl.training.examples import Site


@dataclass
class DataSource:
    """Where this machine's data is."""

    path: str | None  # a CSV (also .gz) or Parquet file, for tabular tasks
    dir: str | None  # a folder of IDX files, for mnist


@dataclass(frozen=True)
class Request:
    """What to load: from where, how to hold out, and over how many made-up institutions."""

    source: DataSource
    holdout: HoldOut
    institutions: int | None  # how many to make up; None: as the task says


@dataclass(frozen=True)
class Warned:
    """A counted warning: what was wrong, where first, how often, and what was done. Never a value."""

    what: str
    column: str
    count: int
    first_row: int

    def __str__(self) -> str:
        return f"column {self.column}: {self.what} ({self.count} rows, first in row {self.first_row})"


@dataclass(frozen=True)
class Loaded:
    """The data of every institution in it, with what was noticed on the way."""

    sites: tuple[Site, ...]
    warnings: tuple[Warned, ...] = field(default=())


@dataclass
class Task:
    """Settings that every task shares."""

    title: str  # one line for people
    declared_records: int  # public, of the whole federation; the scale of a private step, never counted
    partition: Partition | None  # how to make institutions up; null: the data names them
    # Public, of the whole federation, as `declared_records`; null: everyone has one record.
    declared_patients: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.declared_records < 1:
            raise ConfigError(f"task.declared_records must be at least 1, got {self.declared_records}")
        if self.declared_patients is not None and self.declared_patients < 1:
            raise ConfigError(f"task.declared_patients must be at least 1 or null, got {self.declared_patients}")

    def declared(self, unit: str) -> int:
        """How many there are of a promise's unit, record or patient, in the whole federation, as declared."""
        if unit == "patient" and self.declared_patients is not None:
            return self.declared_patients
        return self.declared_records

    def made_up(self, request: Request) -> tuple[Partition, int]:
        """How to make institutions up, and how many; raises `ConfigError` where the task does not say."""
        if self.partition is None:
            raise ConfigError(
                "this task names no institution column and no task.partition; nothing was trained; give one of them"
            )
        return self.partition, request.institutions or self.partition.institutions

    def shape(self) -> Shape:
        """Of one record and of the model's outputs, known from the declaration alone."""
        raise NotImplementedError

    def groups(self) -> Groups:
        """Whose figures are compared, known from the declaration alone; here everybody is one group."""
        return Groups(())

    def load(self, request: Request) -> Loaded:
        """Read, check, encode, split; raises `DataError` naming the column and row."""
        raise NotImplementedError
