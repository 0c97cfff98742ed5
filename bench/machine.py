"""What figures were taken on, for the files in bench/results."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_LOAD_BEFORE = os.getloadavg()[0]  # when the bench was loaded, before its own work


def store(name: str, figures: Mapping[str, object], packages: tuple[str, ...]) -> None:
    """bench/results/NAME.json holds the figures, and the machine and packages they were taken with."""
    versions = {package: version(package) for package in packages}
    RESULTS.mkdir(exist_ok=True)
    content = {**figures, "machine": machine(), "versions": versions}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def machine() -> dict[str, object]:
    """The computer; `load_average_before`: processes that wanted a core in the minute before the bench began."""
    found: dict[str, object] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_average_before": round(_LOAD_BEFORE, 2),
    }
    gpu = gpu_model()
    return found if gpu is None else {**found, "gpu": gpu}


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def gpu_model() -> str | None:
    """The first GPU that torch sees, if it sees one."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
