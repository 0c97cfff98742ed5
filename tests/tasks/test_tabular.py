"""A table is judged cell by cell: what can be mended is counted, what cannot is an error; neither shows a value."""

from __future__ import annotations

import gzip
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton_fl.errors import ConfigError, DataError
from lepton_fl.tasks.schema import Column, Label
from lepton_fl.tasks.split import HoldOut, Partition
from lepton_fl.tasks.tabular import Examined, Tabular, examine
from lepton_fl.tasks.task import DataSource, Loaded, Request

CANARY = "SECRET-7"
HEADER = "id,age,sex,ill\n"
GOOD = HEADER + "p1,40,f,0\np2,60,m,1\n"
ENCODED = [[0.0, 0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 1.0, 0.0]]  # of GOOD's two rows
HOLDOUT = HoldOut("key", 0.3, 0.0)


def task(**changed: Any) -> Tabular:
    settings: dict[str, Any] = {
        "title": "illness",
        "declared_records": 10,
        "partition": Partition("bank", 2, alpha=100.0, seed=0),
        "columns": {
            "age": Column("numeric", "years", low=0, high=80),
            "sex": Column("categorical", values=["f", "m"]),
        },
        "label": Label("ill", ["0", "1"]),
        "sensitive": [],
        "subject": "id",
        "institution": None,
        "missing": ["?"],
        "file": None,
    }
    return Tabular(**(settings | changed))


def csv(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def parquet(folder: Path, columns: dict[str, Any]) -> Path:
    path = folder / "table.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def request(path: Path | None, institutions: int | None = None) -> Request:
    return Request(DataSource(None if path is None else str(path), None), HOLDOUT, institutions)


def load(path: Path, **changed: Any) -> Loaded:
    return task(**changed).load(request(path))


def examined(path: Path, **changed: Any) -> Examined:
    wanted = task(**changed)
    return examine(wanted, wanted.read(DataSource(str(path), None)))


def refusal(path: Path, **changed: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **changed)
    assert CANARY not in str(caught.value)
    return str(caught.value)


def warnings(path: Path, **changed: Any) -> list[str]:
    found = [str(warning) for warning in examined(path, **changed).warnings]
    assert CANARY not in " ".join(found)
    return found


def test_a_table_that_fits_is_encoded_in_the_order_of_the_declaration(tmp_path: Path) -> None:
    result = examined(csv(tmp_path, GOOD))
    assert result.features.tolist() == ENCODED
    assert result.features.shape[1:] == task().shape().features
    assert result.labels.tolist() == [0, 1]
    assert result.warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.removesuffix("\n"),
        "note,ill,sex,age,id\n,0,f,40,p1\nx,1,m,60,p2\n",
        HEADER + '"p1","40","f","0"\n"p2","60","m","1"\n',
        HEADER + "p1, 40 ,f ,0\np2,60, m,1\n",
        HEADER + "p1,40.0,f,0.0\np2,6e1,m,1.0\n",
    ],
    ids=["byte order mark", "windows", "no last newline", "other order", "quoted", "spaces", "decimals"],
)
def test_the_ways_programs_write_one_table_are_read_alike(tmp_path: Path, text: str) -> None:
    result = examined(csv(tmp_path, text))
    assert result.features.tolist() == ENCODED
    assert result.labels.tolist() == [0, 1]
    assert result.subjects.tolist() == ["p1", "p2"]


def test_a_compressed_csv_is_read_like_a_plain_one(tmp_path: Path) -> None:
    assert examined(csv(tmp_path, GOOD, "table.csv.gz")).features.tolist() == ENCODED


def test_commas_and_newlines_in_quoted_cells_are_text(tmp_path: Path) -> None:
    text = HEADER + '"Doe, J",40,"f, as told",0\n"p\n2",60,m,1\n'
    result = examined(
        csv(tmp_path, text),
        columns={"sex": Column("categorical", values=["f, as told", "m"])},
    )
    assert result.subjects.tolist() == ["Doe, J", "p\n2"]
    assert result.features.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_newlines_in_quoted_cells_are_text_in_a_table_of_several_megabytes(tmp_path: Path) -> None:
    note = "a first line\nand a second of some length; " * 2
    rows = "".join(f'p{row},40,f,{row % 2},"{note}"\n' for row in range(30_000))
    result = examined(csv(tmp_path, "id,age,sex,ill,note\n" + rows))
    assert len(result.labels) == 30_000


@pytest.mark.parametrize(
    ("ages", "labels", "sexes"),
    [([40, 60], [0, 1], ["f", "m"]), ([40.0, 60.0], [0.0, 1.0], ["f", "m"]), (["40", "60"], ["0", "1"], ["f", "m"])],
    ids=["whole numbers", "floating point", "text"],
)
def test_a_parquet_file_equals_the_csv(tmp_path: Path, ages: list[Any], labels: list[Any], sexes: list[str]) -> None:
    path = parquet(
        tmp_path, {"id": ["p1", "p2"], "age": ages, "sex": pa.array(sexes).dictionary_encode(), "ill": labels}
    )
    result, expected = examined(path), examined(csv(tmp_path, GOOD))
    assert result.features.tolist() == expected.features.tolist()
    assert result.labels.tolist() == expected.labels.tolist()
    assert result.subjects.tolist() == expected.subjects.tolist()


def test_nothing_in_a_parquet_cell_equals_an_empty_csv_cell(tmp_path: Path) -> None:
    path = parquet(tmp_path, {"id": ["p1", "p2"], "age": [None, 60.0], "sex": ["f", None], "ill": [0, 1]})
    expected = examined(csv(tmp_path, HEADER + "p1,,f,0\np2,60,,1\n"))
    assert examined(path).features.tolist() == expected.features.tolist()
    assert expected.features.tolist() == [[0.0, 1.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "ages",
    [[[CANARY], ["60"]], [{"a": CANARY}, {"a": "60"}], [b"\xff" + CANARY.encode(), b"60"]],
    ids=["lists", "records", "bytes"],
)
def test_a_parquet_column_that_is_no_text_or_number_is_refused_by_name(tmp_path: Path, ages: list[Any]) -> None:
    path = parquet(tmp_path, {"id": ["p1", "p2"], "age": ages, "sex": ["f", "m"], "ill": [0, 1]})
    assert "age" in refusal(path)


def test_one_and_one_point_zero_are_one_value_in_the_table_and_in_the_declaration(tmp_path: Path) -> None:
    grade = {"age": Column("categorical", values=["1.0", "2"])}
    result = examined(csv(tmp_path, HEADER + "p1,1,f,0.0\np2,2.0,m,1\n"), columns=grade)
    assert result.features.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert result.warnings == ()


def test_a_declared_text_for_missing_counts_with_decimals_too(tmp_path: Path) -> None:
    result = examined(csv(tmp_path, HEADER + "p1,-9.0,f,0\np2,60,m,1\n"), missing=["-9"])
    assert result.features[0].tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    assert result.warnings == ()


def test_declared_texts_for_missing_and_empty_cells_set_the_indicator_without_a_warning(tmp_path: Path) -> None:
    result = examined(csv(tmp_path, HEADER + "p1,?,,0\np2,,?,1\n"))
    assert result.features.tolist() == [[0.0, 1.0, 0.0, 0.0, 1.0]] * 2
    assert result.warnings == ()


def test_a_number_out_of_bounds_is_clipped_and_counted_with_its_first_row(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER + "p1,40,f,0\np2,81,m,1\np3,-1,m,1\n")
    assert examined(path).features[:, 0].tolist() == [0.0, 1.0, -1.0]
    assert warnings(path) == ["column age: outside the declared bounds 0..80, clipped (2 rows, first in row 3)"]


def test_an_undeclared_category_counts_as_missing_with_a_warning(tmp_path: Path) -> None:
    path = csv(tmp_path, GOOD + f"p3,1,{CANARY},1\np4,1,F,0\n")
    assert examined(path).features[2:, 2:].tolist() == [[0.0, 0.0, 1.0]] * 2
    assert warnings(path) == ["column sex: undeclared category, taken as missing (2 rows, first in row 4)"]


def test_a_category_that_yaml_read_as_true_or_false_is_explained(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER + "p1,1,yes,0\np2,2,no,1\n")
    [warning] = warnings(path, columns={"sex": Column("categorical", values=["False", "True"])})
    assert "quote them" in warning


def test_a_label_that_yaml_read_as_true_or_false_is_explained(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER + "p1,1,f,yes\np2,2,f,no\n")
    assert "quote" in refusal(path, label=Label("ill", ["False", "True"]))


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER + "p0,40,f,\np1,40,f,0\np2,60,m,1\np3,999,f,?\n")
    result = examined(path)
    assert result.subjects.tolist() == ["p1", "p2"]
    assert result.features.tolist() == ENCODED
    assert warnings(path) == ["column ill: label missing, row left out (2 rows, first in row 2)"]


def test_rows_are_counted_in_the_file_even_where_earlier_ones_were_left_out(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER + "p0,40,f,\np1,40,f,0\np2,99,m,1\n")
    assert "first in row 4" in warnings(path)[1]


def test_a_subject_with_several_records_is_warned_about(tmp_path: Path) -> None:
    path = csv(tmp_path, GOOD + "p1,41,f,1\np1,42,f,1\np2,1,m,1\n")
    [warning] = warnings(path)
    assert warning.startswith("column id: a subject with an earlier record")
    assert warning.endswith("(3 rows, first in row 4)")


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    message = refusal(csv(tmp_path, GOOD.replace("age", "Age")))
    assert "no column age" in message
    assert "did you mean Age?" in message


def test_a_missing_sensitive_column_is_refused_too(tmp_path: Path) -> None:
    declared = {"sensitive": ["ethnicity"], "sensitive_values": {"ethnicity": ["a", "b"]}}
    assert "no column ethnicity" in refusal(csv(tmp_path, GOOD), **declared)


@pytest.mark.parametrize(
    "changed",
    [
        {"sensitive": ["ethnicity"]},
        {"sensitive": ["age"]},
        {"sensitive": ["sex"], "sensitive_values": {"sex": ["f", "m"]}},
    ],
    ids=["nowhere declared", "a number", "declared twice"],
)
def test_a_sensitive_column_without_one_declaration_of_its_groups_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"nothing was read; declare its values in task\.columns"):
        task(**changed)


def test_a_record_falls_in_the_crossed_group_of_its_sensitive_values(tmp_path: Path) -> None:
    text = "id,age,sex,ill,origin\n" + "".join(
        f"p{row},40,{sex},{row % 2},{origin}\n"
        for row, (sex, origin) in enumerate([("f", "x"), ("f", "?"), ("m", "y"), ("", "x"), ("m", "other")])
    )
    changed = {"sensitive": ["sex", "origin"], "sensitive_values": {"origin": ["x", "y", "unknown"]}}
    assert task(**changed).groups().shape == (3, 3)
    # Cells by sex (f, m, unknown) and origin (x, y, unknown).
    found = examined(csv(tmp_path, text), **changed)
    assert found.groups.tolist() == [0, 2, 4, 6, 5]
    assert [str(one) for one in found.warnings] == [
        "column origin: undeclared group, taken as unknown (1 rows, first in row 6)"
    ]


def test_every_part_of_a_site_has_the_groups_of_its_records(tmp_path: Path) -> None:
    text = HEADER + "".join(f"p{row},40,{'fm'[row % 2]},{row // 2 % 2}\n" for row in range(400))
    wanted = replace(request(csv(tmp_path, text)), holdout=HoldOut("key", 0.3, 0.2))
    sites = task(sensitive=["sex"]).load(wanted).sites
    for part in [part for site in sites for part in (site.train, site.holdout, site.tune)]:
        assert part.groups is not None
        # The second and third features are the declared values f and m.
        assert part.groups.tolist() == part.features[:, 3].long().tolist()
    sizes = [sum(len(getattr(site, part)) for site in sites) for part in ("train", "holdout", "tune")]
    assert sum(sizes) == 400
    assert sizes == pytest.approx([200, 120, 80], abs=4 * 10)


def test_a_table_without_a_header_is_refused_without_showing_its_first_row(tmp_path: Path) -> None:
    assert "no column age" in refusal(csv(tmp_path, f"{CANARY},40,f,0\np2,60,m,1\n"))


def test_the_nearest_column_of_a_table_without_a_header_is_not_shown_either(tmp_path: Path) -> None:
    columns = {"SECRET-1": Column("numeric", low=0, high=1)}
    assert "no column SECRET-1" in refusal(csv(tmp_path, f"p1,{CANARY},f,0\np2,60,m,1\n"), columns=columns)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "age" in refusal(csv(tmp_path, "id,age,age,sex,ill\np1,1,2,f,0\np2,1,2,m,1\n"))


@pytest.mark.parametrize(
    "cell", [CANARY, "4O", '"1,5"', "4 0", "0x10", "1_000"], ids=["text", "letter", "comma", "space", "hex", "score"]
)
def test_text_in_a_numeric_column_is_refused_with_its_row(tmp_path: Path, cell: str) -> None:
    message = refusal(csv(tmp_path, GOOD + f"p3,{cell},f,1\np4,{cell},f,1\n"))
    assert "column age is declared numeric" in message
    assert "in 2 rows, first in row 4" in message
    assert cell.strip('"') not in message


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999", "nan", "NaN"])
def test_a_number_that_is_not_finite_is_refused_with_its_row(tmp_path: Path, cell: str) -> None:
    message = refusal(csv(tmp_path, GOOD + f"p3,{cell},f,1\n"))
    assert "column age holds a number that is not finite in 1 rows, first in row 4" in message


def test_an_undeclared_label_is_refused_with_its_row(tmp_path: Path) -> None:
    message = refusal(csv(tmp_path, GOOD + f"p3,1,f,{CANARY}\n"))
    assert "column ill has a label that task.label.values does not declare in 1 rows, first in row 4" in message


def test_one_class_is_nothing_to_learn_from(tmp_path: Path) -> None:
    assert "column ill has one class in 2 usable rows" in refusal(csv(tmp_path, HEADER + "p1,1,f,1\np2,2,m,1\n"))


def test_labels_that_are_all_missing_are_nothing_to_learn_from(tmp_path: Path) -> None:
    assert "column ill has no label" in refusal(csv(tmp_path, HEADER + "p1,1,f,\np2,2,m,?\n"))


def test_a_record_without_a_subject_is_refused_because_it_cannot_be_held_out(tmp_path: Path) -> None:
    assert "column id is empty in 1 rows, first in row 4" in refusal(csv(tmp_path, GOOD + " ,1,f,1\n"))


def test_a_subject_written_as_missing_is_refused_like_an_empty_one(tmp_path: Path) -> None:
    assert "column id" in refusal(csv(tmp_path, GOOD + "?,1,f,1\n"))


def test_a_record_without_an_institution_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "id,age,sex,ill,site\np1,1,f,0,a\np2,1,f,1,\n")
    assert "column site is empty in 1 rows, first in row 3" in refusal(path, institution="site")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (HEADER, "header and no rows"),
        (HEADER.strip(), "header and no rows"),
        (GOOD + f"p3,1,f,1,{CANARY}\n", "number of cells"),
        (GOOD + f"p3,{CANARY}\n", "number of cells"),
    ],
    ids=["empty", "header", "header without newline", "a cell too many", "cells too few"],
)
def test_a_file_that_is_no_whole_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(csv(tmp_path, text))
    assert "table.csv" in message
    assert said in message


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_bytes_that_are_no_table_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CANARY.encode() + np.random.default_rng(0).bytes(5_000))
    assert f"{name} cannot be read as" in refusal(path)


def test_a_compressed_csv_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, HEADER + "".join(f"p{row},{row % 80},f,{row % 2}\n" for row in range(5_000)), "table.csv.gz")
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read" in refusal(path)


def test_a_table_in_another_encoding_is_refused_saying_which_one_it_should_have(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes((GOOD + "M\u00fcller,1,f,1\n").encode("latin-1"))
    message = refusal(path)
    assert "ller" not in message
    assert "UTF-8" in message


def test_one_long_cell_does_not_make_every_row_as_long(tmp_path: Path) -> None:
    path = csv(tmp_path, GOOD + "".join(f"p{row},1,f,1\n" for row in range(3, 1_000)) + f"x,1,{'x' * 50_000},1\n")
    tracemalloc.start()
    try:
        assert "more than 256 characters in row 1001" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_not_there_is_named_with_the_setting_to_change(tmp_path: Path) -> None:
    assert "nothing was read; give data.path=FILE" in refusal(tmp_path / "table.csv")


def test_a_task_without_data_asks_for_it() -> None:
    with pytest.raises(ConfigError, match=r"give data\.path=FILE"):
        task().load(request(None))


def people(folder: Path, count: int = 60, records_each: int = 3) -> Path:
    """Every person three times, at one of three hospitals; age tells who it is."""
    rows = [
        f"p{person},{person},f,{person % 2},{'ABC'[person % 3]}\n"
        for _ in range(records_each)
        for person in range(count)
    ]
    return csv(folder, "id,age,sex,ill,site\n" + "".join(rows))


def ages(features: Any) -> set[int]:
    return {round((scaled + 1) * 40) for scaled in features[:, 0].tolist()}


def test_institutions_are_the_tables_own_where_a_column_names_them(tmp_path: Path) -> None:
    loaded = load(people(tmp_path), institution="site", partition=None)
    assert [site.institution for site in loaded.sites] == ["A", "B", "C"]
    assert [len(site.train) + len(site.holdout) for site in loaded.sites] == [60, 60, 60]
    for number, site in enumerate(loaded.sites):
        assert {age % 3 for age in ages(site.train.features)} == {number}


def test_institutions_are_made_up_where_no_column_names_them(tmp_path: Path) -> None:
    loaded = task().load(request(people(tmp_path), institutions=3))
    assert [site.institution for site in loaded.sites] == ["bank-1", "bank-2", "bank-3"]
    assert sum(len(site.train) + len(site.holdout) for site in loaded.sites) == 180


@pytest.mark.parametrize("institution", ["site", None])
def test_a_subjects_records_are_at_one_institution_and_on_one_side_of_the_hold_out(
    tmp_path: Path, institution: str | None
) -> None:
    sites = load(people(tmp_path), institution=institution).sites
    parts = [ages(part.features) for site in sites for part in (site.train, site.holdout)]
    assert sorted(age for part in parts for age in part) == list(range(60))
    held = set().union(*parts[1::2])
    assert held == {person for person in range(60) if HOLDOUT.holds(f"p{person}")}
    assert held


def test_a_subject_known_to_two_institutions_is_held_out_at_both_or_at_neither(tmp_path: Path) -> None:
    rows = [f"p{person},{person},f,{person % 2},{site}\n" for person in range(60) for site in "AB"]
    path = csv(tmp_path, "id,age,sex,ill,site\n" + "".join(rows))
    first, second = load(path, institution="site").sites
    assert ages(first.holdout.features) == ages(second.holdout.features)
    assert ages(first.train.features) == ages(second.train.features)


def test_other_numbers_of_institutions_than_the_table_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names 3 institutions in column site.*institutions=9"):
        task(institution="site").load(request(people(tmp_path), institutions=9))


def test_neither_an_institution_column_nor_a_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no institution column and no task\.partition"):
        load(people(tmp_path), partition=None)


def test_an_institution_left_without_a_record_to_train_on_is_refused(tmp_path: Path) -> None:
    held = next(f"p{number}" for number in range(100) if HOLDOUT.holds(f"p{number}"))
    free = next(f"p{number}" for number in range(100) if not HOLDOUT.holds(f"p{number}"))
    path = csv(tmp_path, f"id,age,sex,ill,site\n{free},1,f,0,A\n{held},2,f,1,B\n")
    assert "no record to train on after the hold-out" in refusal(path, institution="site")


@pytest.mark.parametrize("leak", ["ill", "id", "site"])
def test_the_label_the_subject_and_the_institution_are_never_features(leak: str) -> None:
    with pytest.raises(ConfigError, match=f"task.columns has {leak}"):
        task(institution="site", columns={leak: Column("categorical", values=["0", "1"])})


def test_a_task_without_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.columns must name at least one column"):
        task(columns={})
