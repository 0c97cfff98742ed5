"""The GPU's counter through the driver's own calling convention: a library compiled here stands in for the driver's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lepton_fl.energy.counters import nvml
from lepton_fl.energy.meter import Machine, Reading, between
from lepton_fl.energy.spent import MEASURED, Joules

SOURCE = Path(__file__).with_name("fake_nvml.c")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    made = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, SOURCE], check=True)
    return str(made)


def test_joules_between_two_readings_of_the_named_gpu_are_measured(library: str) -> None:
    gpu = nvml("GPU-7", library)
    assert gpu is not None
    before, after = Reading(0, 0, gpu=gpu.read()), Reading(2, 1, gpu=gpu.read())
    assert between(before, after, Machine(100.0, has_gpu=True)).joules["gpu"] == Joules(5.0, MEASURED)


def test_another_gpu_has_no_counter(library: str) -> None:
    assert nvml("GPU-8", library) is None
