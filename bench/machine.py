"""What figures were taken on, for the files in bench/results."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

_RESULTS = Path(__file__).parent / "results"


def store(name: str, figures: Mapping[str, object], packages: tuple[str, ...]) -> None:
    """bench/results/NAME.json holds the figures, and the machine and packages they were taken with."""
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    versions = {package: version(package) for package in packages}
    _RESULTS.mkdir(exist_ok=True)
    content = {**figures, "machine": machine, "versions": versions}
    (_RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
