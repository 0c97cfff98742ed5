"""Adult, epsilon 3, local DP-SGD: weights from noisy, charged counts halve the gap in recall for next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from voices import Quiet

from lepton_fl.config import config_dir, load
from lepton_fl.evaluation.histogram import Layout, count
from lepton_fl.fairness.marginal import along
from lepton_fl.results.folder import Folder
from lepton_fl.run import Names
from lepton_fl.simulation import SimConfig, plan, register_schemas, simulate
from lepton_fl.tasks.groups import Groups

SETTINGS = ["task=adult", "privacy.epsilon=3", "holdout.tune=0.1", "training.physical_batch=4096", "seed=0"]


def trained(folder: Path, *settings: str) -> tuple[float, float]:
    """Accuracy, and men's recall less women's, of the hold-out counted exactly."""
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config: Any = load(SimConfig, compose("sim", overrides=[*SETTINGS, *settings]))
    planned = plan(config, Names("adult", "logistic", "fedavg"))
    simulate(planned, Folder(folder), Quiet())
    model = planned.run.terms.model.build(planned.run.terms.task.shape())
    model.load_state_dict(load_file(folder / "model.safetensors"))
    crossed = planned.run.terms.task.groups()
    sex = crossed.attributes[0]
    layout = Layout(Groups((sex,)), 2, 2)
    tables = [
        count(model, along(site.holdout, crossed, sex), layout, 4096, one_per_subject=False)
        for site in planned.loaded.sites
    ]
    table = np.sum(tables, axis=0)
    women, men = (table[sex.groups.index(one), 1, 1] / table[sex.groups.index(one), 1].sum() for one in sex.values)
    return float((table[:, 0, 0] + table[:, 1, 1]).sum() / table.sum()), float(men - women)


@pytest.mark.slow
def test_group_weights_at_least_halve_the_gap_in_recall_for_at_most_a_point_of_accuracy(tmp_path: Path) -> None:
    accuracy, gap = trained(tmp_path / "none")
    steered, smaller = trained(tmp_path / "group", "fairness=group")
    assert gap > 0.1
    assert abs(smaller) <= gap / 2
    assert steered >= accuracy - 0.01
