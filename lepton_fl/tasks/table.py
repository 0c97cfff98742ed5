"""Reading a table as text: CSV (also compressed) and Parquet, only the columns the task names."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import DataError

Text = npt.NDArray[np.str_]
FIRST_ROW = 2  # the header is row 1, as an editor counts
LONGEST_CELL = 256  # characters; numpy gives every row the width of the longest


def read_columns(path: Path, wanted: list[str]) -> dict[str, Text]:
    """Each wanted column as text, an empty string where nothing stands.

    Raises:
        DataError: no such file, not a table, a column missing or doubled, or no row at all.
    """
    import pyarrow

    if not path.is_file():
        raise DataError(f"there is no file {path}; nothing was read; give data.path=FILE")
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty; nothing was trained; export the table again")
    try:
        table = _open(path, wanted)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(_unreadable(path, str(error))) from error
    if table.num_rows == 0:
        raise DataError(f"{path.name} has a header and no rows; nothing was trained; export the table again")
    return {name: _text(name, table.column(name)) for name in wanted}


def _open(path: Path, wanted: list[str]) -> Any:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        names = list(pyarrow.parquet.read_schema(path).names)
        _refuse_other_columns(path, names, wanted)
        return pyarrow.parquet.read_table(path, columns=wanted)
    # Quoted cells may hold line breaks; without this Arrow cuts large files inside of them.
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        with pyarrow.csv.open_csv(path, parse_options=parse) as reader:
            names = list(reader.schema.names)
    except pyarrow.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise
        raise DataError(f"{path.name} has a header and no rows; nothing was trained; export the table again") from error
    _refuse_other_columns(path, names, wanted)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=wanted,
        column_types={name: pyarrow.string() for name in wanted},
        strings_can_be_null=False,
    )
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)


def _refuse_other_columns(path: Path, names: list[str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        # Without a header the names are somebody's record, so they are shown only if most are the task's.
        if 2 * len(missing) > len(wanted):
            hint = "its first row does not look like the task's header"
        else:
            near = difflib.get_close_matches(missing[0], [name for name in names if name not in wanted], n=1)
            hint = f"did you mean {near[0]}?" if near else "correct the header or the task's YAML"
        raise DataError(
            f"{path.name} has no column {', '.join(missing)} that the task names; nothing was trained; {hint}"
        )
    doubled = [name for name in wanted if names.count(name) > 1]
    if doubled:
        raise DataError(f"{path.name} has column {doubled[0]} more than once; nothing was trained; keep one of them")


def _unreadable(path: Path, detail: str) -> str:
    """Why, without Arrow's own words: it quotes the offending line, and data must not reach a log."""
    if path.suffix.lower() == ".parquet":
        return f"{path.name} cannot be read as Parquet; nothing was trained; export the table again"
    if "UTF" in detail or "utf" in detail:
        return f"{path.name} is not UTF-8 text; nothing was trained; export it as CSV in UTF-8"
    return (
        f"{path.name} cannot be read as CSV; nothing was trained; check that it is a whole table with a header and "
        "the same number of cells in every row"
    )


def _text(name: str, column: Any) -> Text:
    import pyarrow
    import pyarrow.compute

    try:
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pyarrow.types.is_boolean(column.type):
            column = column.cast(pyarrow.int8())
        if pyarrow.types.is_floating(column.type):
            # Data frames write a missing number as NaN.
            column = pyarrow.compute.if_else(pyarrow.compute.is_nan(column), None, column)
        filled = pyarrow.compute.fill_null(column.cast(pyarrow.string()), "")
    except pyarrow.ArrowException as error:
        raise DataError(
            f"column {name} holds {column.type}, which is neither numbers nor text; nothing was trained; export it as "
            "one number or word per row"
        ) from error
    stripped = pyarrow.compute.utf8_trim_whitespace(filled)
    too_long = np.flatnonzero(pyarrow.compute.utf8_length(stripped).to_numpy() > LONGEST_CELL)
    if len(too_long):
        raise DataError(
            f"column {name} has a cell of more than {LONGEST_CELL} characters in row {FIRST_ROW + too_long[0]}; "
            "nothing was trained; a feature is a number or a category"
        )
    return np.asarray(stripped.to_pylist(), dtype=np.str_)
