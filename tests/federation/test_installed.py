"""A task by its name is the same on an institution's machine as the one an operator's command composes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compositions import sim_config

from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError
from lepton_fl.federation.installed import installed_task, sha256_of
from lepton_fl.federation.terms import from_json, to_document, to_json
from lepton_fl.simulation import SimConfig

TASKS = sorted(path.stem for path in (config_dir() / "task").glob("*.yaml"))


def composed(task: str) -> SimConfig:
    return sim_config(f"task={task}")


@pytest.mark.parametrize("task", TASKS)
def test_a_shipped_task_is_the_one_that_an_operator_composes(task: str, tmp_path: Path) -> None:
    here = installed_task(task, tmp_path)
    asked = json.loads(to_json(composed(task)))["task"]
    assert here == asked
    assert [*here] == [*asked]
    assert sha256_of(here) == sha256_of(asked)


def test_terms_pass_through_json_unchanged() -> None:
    asked = composed("heart")
    again = from_json(to_json(asked))
    assert to_json(again) == to_json(asked)
    assert to_document("task", again.task) == to_document("task", asked.task)


def test_terms_cannot_name_this_machines_environment() -> None:
    text = to_json(composed("heart")).replace("heart disease, four hospitals", "${oc.env:HOME}")
    with pytest.raises(ConfigError, match=r"title has \$\{"):
        from_json(text)


@pytest.mark.parametrize("defaults", ["[heart, _self_]", "[tabular]", "tabular_schema", "[]", "[absent_schema]"])
def test_a_task_of_ones_own_begins_with_one_schema(tmp_path: Path, defaults: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"defaults: {defaults}\ntitle: mine\n")
    with pytest.raises(ConfigError, match=r"one schema|no task of the kind 'absent'"):
        installed_task("mine", tmp_path)
