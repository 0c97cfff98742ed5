"""`energy.jsonl`: one line per round, institution and phase; two significant digits, as everything that leaves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lepton_fl.energy.spent import Joules, Line, Spent
from lepton_fl.files import replace_file

NAME = "energy.jsonl"


def as_json(line: Line) -> dict[str, Any]:
    """One line, to two significant digits."""
    spent = line.spent.coarse()
    return {
        "round": line.round,
        "institution": line.institution,
        "phase": line.phase,
        "wall_s": spent.wall_s,
        "cpu_s": spent.cpu_s,
        "joules": {name: {"value": one.value, "tier": one.tier} for name, one in spent.joules.items()},
        "bytes_up": spent.bytes_up,
        "bytes_down": spent.bytes_down,
        "tier": spent.total.tier,
    }


def from_json(document: Mapping[str, Any]) -> Line:
    """The line that such a document is; raises `ValueError` where it is none."""
    try:
        joules = {str(name): Joules(float(j["value"]), str(j["tier"])) for name, j in document["joules"].items()}
        spent = Spent(
            float(document["wall_s"]),
            float(document["cpu_s"]),
            joules,
            int(document["bytes_up"]),
            int(document["bytes_down"]),
        )
        line = Line(int(document["round"]), str(document["institution"]), str(document["phase"]), spent)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no line of energy") from error
    if not spent.is_sound:
        raise ValueError("no line of energy")
    return line


def text(lines: Iterable[Line]) -> str:
    """As they stand in the file."""
    return "".join(json.dumps(as_json(line)) + "\n" for line in lines)


def write(folder: Path, lines: Iterable[Line]) -> None:
    """The file holds these lines and nothing older."""
    replace_file(folder / NAME, text(lines).encode())


def append(folder: Path, lines: Iterable[Line]) -> None:
    """The file holds these lines too; the last ones may be lost when the power fails."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.write(text(lines))


def read(folder: Path) -> tuple[Line, ...]:
    """Every line that is whole; none where there is no file.

    A crash while a line was appended may leave a part of it; it is left out.
    """
    try:
        content = (folder / NAME).read_text(encoding="utf-8")
    except OSError:
        return ()
    found = []
    for one in content.splitlines():
        try:
            found.append(from_json(json.loads(one)))
        except ValueError:
            continue
    return tuple(found)
