"""MNIST over ten institutions, as the README and docs/results.md print it; a quarter of an hour on two cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif("LEPTON_MNIST_DIR" not in os.environ, reason="LEPTON_MNIST_DIR does not name a folder of IDX files")
def test_ten_institutions_reach_the_published_accuracy(tmp_path: Path) -> None:
    settings = ["task=mnist", "model=cnn", "privacy=none", "institutions=10"]
    where = [f"data.dir={os.environ['LEPTON_MNIST_DIR']}", f"output={tmp_path}"]
    subprocess.run([str(Path(sys.executable).with_name("lepton-sim")), *settings, *where], check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rounds"] <= 20
    assert result["metrics"]["records"] == 10_000
    assert result["metrics"]["accuracy"] >= 0.992


@pytest.mark.slow
@pytest.mark.skipif("LEPTON_MNIST_DIR" not in os.environ, reason="LEPTON_MNIST_DIR does not name a folder of IDX files")
def test_ten_institutions_that_share_the_noise_reach_98_5_percent_at_epsilon_3(tmp_path: Path) -> None:
    where = [f"data.dir={os.environ['LEPTON_MNIST_DIR']}", f"output={tmp_path}"]
    subprocess.run([str(Path(sys.executable).with_name("lepton-sim")), "experiment=mnist", *where], check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["private"], result["noise"], result["secure_aggregation"]) == (True, "shared", True)
    assert (result["unit"], len(result["institutions"]), result["delta"]) == ("record", 10, 1e-5)
    assert result["epsilon"] <= 3.0
    assert result["metrics"]["records"] == 10_000
    assert result["metrics"]["accuracy"] >= 0.985
