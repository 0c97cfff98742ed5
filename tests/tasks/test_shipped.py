"""The tasks that come with the package: their data is what the datasheets say, and every value is declared."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from compositions import sim_config

import lepton_fl
from lepton_fl.simulation import SimConfig
from lepton_fl.tasks.digits import Digits
from lepton_fl.tasks.tabular import Tabular
from lepton_fl.tasks.task import Loaded, Request

DATA = Path(lepton_fl.__file__).parent / "tasks" / "data"
HEART_WARNING = "column chol: outside the declared bounds 80..600, clipped (1 rows, first in row 548)"


@dataclass(frozen=True)
class Sheet:
    """What a datasheet promises."""

    file: str
    records: int
    warnings: tuple[str, ...]
    missing_cells: int  # among the task's features
    positive: int  # records of the second label


SHEETS = {
    "heart": Sheet("heart.csv", 920, (HEART_WARNING,), 1_932, 509),
    "adult": Sheet("adult.csv.gz", 48_842, (), 2_799 + 2_809 + 857, 11_687),
    "german_credit": Sheet("german_credit.csv", 1_000, (), 0, 300),
}


def configured(task: str) -> SimConfig:
    return sim_config(f"task={task}", "privacy=none")


def tabular(task: str) -> Tabular:
    settings = configured(task).task
    assert isinstance(settings, Tabular)
    return settings


def load(task: str) -> Loaded:
    config = configured(task)
    return config.task.load(Request(config.data, config.holdout, config.institutions))


loaded = cache(load)  # for tests that look at it, one after another


@cache
def rows(file: str) -> list[dict[str, str]]:
    content = (DATA / file).read_bytes()
    text = (gzip.decompress(content) if file.endswith(".gz") else content).decode()
    return list(csv.DictReader(io.StringIO(text)))


def records(task: str) -> int:
    return sum(len(site.train) + len(site.holdout) for site in loaded(task).sites)


def test_every_file_of_data_has_a_datasheet_and_a_task() -> None:
    files = {path.name for path in DATA.iterdir() if path.suffix in (".csv", ".gz", ".parquet")}
    assert files == {sheet.file for sheet in SHEETS.values()}
    assert {path.stem for path in DATA.glob("*.md")} == set(SHEETS)


@pytest.mark.parametrize("task", SHEETS)
def test_the_data_is_byte_for_byte_what_its_datasheet_describes(task: str) -> None:
    [stated] = re.findall(r"`([0-9a-f]{64})`", (DATA / f"{task}.md").read_text())
    assert hashlib.sha256((DATA / SHEETS[task].file).read_bytes()).hexdigest() == stated


@pytest.mark.parametrize("task", SHEETS)
def test_a_shipped_table_loads_with_the_warnings_its_datasheet_predicts_and_no_other(task: str) -> None:
    data = loaded(task)
    assert tuple(str(warning) for warning in data.warnings) == SHEETS[task].warnings
    assert sum(len(site.train) + len(site.holdout) for site in data.sites) == SHEETS[task].records


@pytest.mark.parametrize("task", SHEETS)
def test_the_positive_class_is_the_one_the_datasheet_counts(task: str) -> None:
    sites = loaded(task).sites
    assert sum(int(part.labels.sum()) for site in sites for part in (site.train, site.holdout)) == SHEETS[task].positive


def test_each_hospital_has_the_records_its_datasheet_counts() -> None:
    counts = {site.institution: len(site.train) + len(site.holdout) for site in loaded("heart").sites}
    assert counts == {"Cleveland": 303, "Hungary": 294, "Switzerland": 123, "VA Long Beach": 200}


@pytest.mark.parametrize("task", SHEETS)
def test_every_value_of_a_shipped_table_is_declared(task: str) -> None:
    settings, table = tabular(task), rows(SHEETS[task].file)
    for name, column in settings.columns.items():
        if column.values is not None:
            assert {row[name] for row in table} <= {"", *column.values}, name
    assert {row[settings.label.column] for row in table} == set(settings.label.values)


@pytest.mark.parametrize("task", SHEETS)
def test_cells_are_missing_as_often_as_the_datasheet_says(task: str) -> None:
    settings, table = tabular(task), rows(SHEETS[task].file)
    assert sum(row[name] == "" for row in table for name in settings.columns) == SHEETS[task].missing_cells


def test_only_one_cholesterol_lies_outside_the_declared_bounds() -> None:
    outside = []
    for task, sheet in SHEETS.items():
        table = rows(sheet.file)
        for name, column in tabular(task).columns.items():
            if column.low is not None and column.high is not None:
                numbers = [float(row[name]) for row in table if row[name]]
                outside += [(name, number) for number in numbers if not column.low <= number <= column.high]
    assert outside == [("chol", 603.0)]


@pytest.mark.parametrize("task", SHEETS)
def test_declared_records_are_of_the_tables_size_and_were_not_counted(task: str) -> None:
    declared = tabular(task).declared_records
    assert declared == pytest.approx(SHEETS[task].records, rel=0.05)
    assert declared % 100 == 0


@pytest.mark.parametrize("task", SHEETS)
def test_a_subject_is_one_record_in_every_shipped_table(task: str) -> None:
    subject = tabular(task).subject
    assert len({row[subject] for row in rows(SHEETS[task].file)}) == SHEETS[task].records


def test_the_grade_that_gives_the_diagnosis_away_is_no_feature() -> None:
    assert "num" not in tabular("heart").columns


@pytest.mark.parametrize("task", [*SHEETS, "digits"])
def test_about_a_fifth_is_held_out_and_every_institution_can_train(task: str) -> None:
    sites = loaded(task).sites
    held = sum(len(site.holdout) for site in sites)
    assert held / sum(len(site.train) + len(site.holdout) for site in sites) == pytest.approx(0.2, abs=0.04)
    assert min(len(site.train) for site in sites) > 0


@pytest.mark.parametrize("task", [*SHEETS, "digits"])
def test_loading_twice_gives_the_same_institutions_and_records(task: str) -> None:
    for one, other in zip(load(task).sites, load(task).sites, strict=True):
        assert one.institution == other.institution
        for part in ("train", "holdout"):
            first, second = getattr(one, part), getattr(other, part)
            assert bool((first.features == second.features).all())
            assert bool((first.labels == second.labels).all())


def test_digits_are_1797_images_of_8_by_8_between_zero_and_one() -> None:
    settings, sites = configured("digits").task, loaded("digits").sites
    assert isinstance(settings, Digits)
    assert records("digits") == 1_797
    for site in sites:
        assert tuple(site.train.features.shape[1:]) == settings.shape().features == (1, 8, 8)
        assert float(site.train.features.min()) == 0.0
        assert float(site.train.features.max()) == 1.0
    assert {int(label) for site in sites for label in site.train.labels} == set(range(10))
