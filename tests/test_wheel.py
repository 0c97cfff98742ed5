"""The wheel is whole: installed alone into an empty folder, away from the checkout, it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd.parent)} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_configuration_data_and_both_shells(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "lepton_fl/conf/sim.yaml",
        "lepton_fl/conf/check.yaml",
        "lepton_fl/conf/task/heart.yaml",
        "lepton_fl/conf/recipe/mnist-none.yaml",
        "lepton_fl/conf/experiment/mnist.yaml",
        "lepton_fl/tasks/data/heart.csv",
        "lepton_fl/tasks/data/heart.md",
        "lepton_fl/evidence/templates/report.css",
        "lepton_fl/privacy/kernels.c",
        "lepton_fl/evidence/templates/report.html",
        "lepton_fl/v1/message_pb2.py",
        "lepton_server/__init__.py",
        "lepton_client/main.py",
    ):
        assert wanted in names
    has_a_compiler = shutil.which(os.environ.get("CC", "cc")) is not None
    training = ("bookkeeping/libdense_kernels.so", "cohort/libproducts.so")
    for library in ("privacy/libkernels.so", *(f"training/{name}" for name in training)):
        assert (f"lepton_fl/{library}" in names) is has_a_compiler
    assert wheel.name.endswith("-py3-none-any.whl") is not has_a_compiler
    assert not [name for name in names if "idx" in name or name.startswith("tests/")]


def test_the_installed_wheel_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        "import sys, lepton_fl; assert lepton_fl.__file__.startswith(sys.argv.pop(1)), lepton_fl.__file__\n"
        "from lepton_fl.sim_command import main; main()"
    )
    done = run(sys.executable, "-c", program, str(site), "rounds=1", "output=out", cwd=work, path=site)
    assert done.returncode == 0, done.stderr
    result = json.loads((work / "out" / "result.json").read_text())
    assert result["private"] is True
    assert {path.name for path in work.iterdir()} == {"out"}


def test_importing_the_package_is_light() -> None:
    program = "import lepton_fl, lepton_fl.errors, sys; print(*{'torch', 'flwr', 'hydra', 'numpy'} & set(sys.modules))"
    assert run(sys.executable, "-c", program, cwd=ROOT).stdout.strip() == ""
