"""bench/results/README.md from the files beside it: `.venv/bin/python bench/table.py`.

First every figure that has a target, then each file's figures as they are stored, with the machine, the load before
the bench began, and the versions. What a file does not hold is `not measured`; nothing is worked out again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from machine import RESULTS

NOT_MEASURED = "not measured"
_BESIDE = ("machine", "versions", "environments")
_MOST_ROWS = 80  # of one file; a longer one is read as it is


Path = tuple[str | tuple[str, object], ...]
"""Keys; of a list of objects, the field and value of the one that is meant."""


@dataclass(frozen=True)
class Target:
    """What a figure must keep."""

    what: str
    file: str
    path: Path  # from the file's top
    limit: float
    is_least: bool = False  # the figure must be at least the limit; else at most
    unit: str = "x"


def _step(model: str, title: str, limit: float) -> Target:
    path = ("cpu", "steps", f"{model}, 256", "systems", "private", "ratio")
    return Target(f"private step over plain torch's, {title}, batch 256", "step", path, limit)


def _memory(model: str, title: str) -> Target:
    path = ("cpu", "steps", f"{model}, 256", "systems", "private", "allocated_ratio")
    return Target(f"most that tensors take in a private step over a plain one's, {title}, batch 256", "step", path, 1.5)


def _epoch(batch: int) -> Target:
    what = f"private epoch with its loader over plain torch's with DataLoader, tabular, batch {batch}"
    return Target(what, "step", ("cpu, whole epochs", f"tabular, {batch}", "private", "ratio"), 1.0)


TARGETS = (
    _step("mlp", "MLP 784-500-500-10", 1.5),
    _step("cnn", "MNIST CNN", 1.5),
    _step("lstm", "LSTM", 1.6),
    _step("transformer", "transformer encoder", 1.3),
    _step("tabular", "tabular MLP", 1.5),
    _memory("mlp", "MLP 784-500-500-10"),
    _memory("cnn", "MNIST CNN"),
    _memory("lstm", "LSTM"),
    _memory("transformer", "transformer encoder"),
    _memory("tabular", "tabular MLP"),
    _epoch(64),
    _epoch(256),
    Target("simulated round over a plain loop's, CNN", "simulation", ("workloads", "W1", "ratio"), 0.85),
    Target("simulated round over a plain loop's, MLP", "simulation", ("workloads", "W2", "ratio"), 0.45),
    Target(
        "simulated round over a plain loop's with Opacus, MLP with record-level privacy",
        "simulation",
        ("workloads", "W3p", "ratio"),
        0.12,
    ),
    Target(
        "Flower on Ray over lepton-sim, MLP",
        "peers",
        ("systems", "Flower on Ray", "over lepton-sim"),
        20,
        is_least=True,
    ),
    Target(
        "pfl-research over lepton-sim, MLP", "peers", ("systems", "pfl-research", "over lepton-sim"), 2, is_least=True
    ),
    Target(
        "10,000 institutions in a round, MLP, memory",
        "simulation",
        ("growth", ("institutions", 10_000), "peak_mb"),
        500,
        unit=" MB",
    ),
    Target("MNIST, ten institutions, epsilon 3 per record, accuracy", "mnist", ("accuracy",), 0.981, True, ""),
    Target("link: 50 MiB both ways, bare gRPC stream over ours", "link", ("transfer_over_raw",), 0.8, is_least=True),
)


def at(figures: Any, path: Path) -> Any:
    """What is stored there; None where nothing is."""
    for key in path:
        if isinstance(key, tuple):
            many = figures if isinstance(figures, list) else []
            figures = next((one for one in many if one.get(key[0]) == key[1]), None)
            continue
        if not isinstance(figures, Mapping) or key not in figures:
            return None
        figures = figures[key]
    return figures


def short(value: object) -> str:
    """For a cell: three significant digits of what is no whole number."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " to ".join(short(one) for one in value)
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")


def target_lines(stored: Mapping[str, Any]) -> Iterator[str]:
    """Every figure that has a target."""
    yield "| figure | target | measured | |"
    yield "| --- | --- | --- | --- |"
    for one in TARGETS:
        found = at(stored.get(one.file), one.path)
        limit = f"{'>=' if one.is_least else '<='} {one.limit:g}{one.unit}"
        if not isinstance(found, int | float):
            yield f"| {one.what} | {limit} | {NOT_MEASURED} | |"
            continue
        keeps = found >= one.limit if one.is_least else found <= one.limit
        yield f"| {one.what} | {limit} | {short(float(found))}{one.unit} | {'met' if keeps else '**not met**'} |"


Row = tuple[str, dict[str, str]]


def rows(figures: Any, place: str = "") -> Iterator[Row]:
    """Each group of figures with the place it is stored at; what belongs to one place is one row."""
    named = dict(enumerate(figures)) if isinstance(figures, list) else figures
    cells = {str(key): short(value) for key, value in named.items() if not _is_group(value)}
    if cells:
        yield place, cells
    for key, value in named.items():
        if _is_group(value):
            yield from rows(value, f"{place} / {key}" if place else str(key))


def _is_group(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and any(isinstance(one, dict | list) for one in value)
    )


def tables(found: list[Row]) -> Iterator[str]:
    """Rows with the same columns together, in the order in which they come."""
    columns: list[tuple[str, ...]] = []
    for _, cells in found:
        if tuple(cells) not in columns:
            columns.append(tuple(cells))
    for names in columns:
        yield ""
        yield f"| | {' | '.join(names)} |"
        yield f"| --- |{' --- |' * len(names)}"
        for place, cells in found:
            if tuple(cells) == names:
                yield f"| {place} | {' | '.join(cells.values())} |"


def taken_with(figures: Mapping[str, Any]) -> str:
    """The machine and the versions, in a sentence."""
    machine, versions = figures.get("machine", {}), figures.get("versions", {})
    place = ", ".join(str(machine[key]) for key in ("cpu", "gpu", "machine") if machine.get(key))
    load = machine.get("load_average_before", figures.get("load_average_before"))
    told = f"{place}; {machine.get('cores', '?')} cores; Python {machine.get('python', '?')}"
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{told}; load before {'not noted' if load is None else load}; {packages}"


def document(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page."""
    lines = [
        "# What was measured",
        "",
        "Made by `bench/table.py` from the files beside it. Ratios mean something elsewhere; milliseconds do not.",
        "",
        *target_lines(stored),
    ]
    for name, figures in stored.items():
        lines += ["", f"## {name}", "", taken_with(figures)]
        found = [*rows({key: value for key, value in figures.items() if key not in _BESIDE})]
        lines += tables(found) if len(found) <= _MOST_ROWS else ["", f"{len(found)} groups of figures: {name}.json."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    stored = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    (RESULTS / "README.md").write_text(document(stored))


if __name__ == "__main__":
    main()
