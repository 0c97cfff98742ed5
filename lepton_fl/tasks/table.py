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


def read_columns(path: Path, wanted: list[str]) -> dict[str, Text]:
    """Each wanted column as text, an empty string where nothing stands.

    Raises:
        DataError: no such file, not a table, a column missing, or no row at all.
    """
    import pyarrow

    if not path.is_file():
        raise DataError(f"there is no file {path}; nothing was read; give data.path=FILE")
    try:
        names, table = _open(path, wanted)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        # Arrow quotes the offending line in its message; a line of the data must not reach a log.
        detail = "" if "Empty CSV" not in str(error) else ": it is empty"
        raise DataError(
            f"{path.name} cannot be read as {'Parquet' if path.suffix == '.parquet' else 'CSV'}{detail}; nothing "
            "was trained; check that it is a whole table with a header and the same number of cells in every row"
        ) from error
    missing = [name for name in wanted if name not in names]
    if missing:
        near = difflib.get_close_matches(missing[0], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names[:20])}"
        raise DataError(
            f"{path.name} has no column {', '.join(missing)} that the task names; nothing was trained; {hint}"
        )
    if table.num_rows == 0:
        raise DataError(f"{path.name} has a header and no rows; nothing was trained; export the table again")
    return {name: _text(table.column(name)) for name in wanted}


def _open(path: Path, wanted: list[str]) -> tuple[list[str], Any]:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix == ".parquet":
        names = list(pyarrow.parquet.read_schema(path).names)
        return names, pyarrow.parquet.read_table(path, columns=[name for name in wanted if name in names])
    with pyarrow.csv.open_csv(path) as reader:
        names = list(reader.schema.names)
    present = [name for name in wanted if name in names]
    if len(present) < len(wanted):
        return names, pyarrow.table({})
    options = pyarrow.csv.ConvertOptions(
        include_columns=present,
        column_types={name: pyarrow.string() for name in present},
        strings_can_be_null=False,
    )
    return names, pyarrow.csv.read_csv(path, convert_options=options)


def _text(column: Any) -> Text:
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pyarrow.types.is_boolean(column.type):
        column = column.cast(pyarrow.int8())
    filled = pyarrow.compute.fill_null(column.cast(pyarrow.string()), "")
    return np.char.strip(np.asarray(filled.to_pylist(), dtype=np.str_))
