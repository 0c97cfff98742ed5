"""`lepton-client explain`: one record's reasons, on this machine, without a value in any message."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from lepton_client import reasons
from lepton_client.main import main
from safetensors.numpy import save_file
from torch import nn

from lepton_fl.errors import ConfigError, DataError
from lepton_fl.federation.installed import installed_task
from lepton_fl.federation.terms import from_document
from lepton_fl.models.logistic import Logistic
from lepton_fl.tasks.tabular import Tabular

NAMED = ["--task", "heart", "--architecture", "logistic"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Tabular:
    found = from_document("task", installed_task("heart", tmp_path_factory.mktemp("none")))
    assert isinstance(found, Tabular)
    return found


def model_of(task: Tabular, **weights: float) -> nn.Module:
    """A logistic model that looks at the first input of these columns alone."""
    model, place = Logistic().build(task.shape()), 0
    with torch.no_grad():
        for name, column in task.columns.items():
            model[1].weight[0, place] = weights.get(name, 0.0)  # type: ignore[index]
            place += column.width
    return model


@pytest.fixture
def model(task: Tabular, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({name: value.numpy() for name, value in model_of(task, chol=2.0, sex=-1.0).state_dict().items()}, path)
    return path


def record(tmp_path: Path, **cells: object) -> Path:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(cells))
    return path


def test_each_column_has_its_part_the_heaviest_first(task: Tabular, tmp_path: Path) -> None:
    read = reasons.read_record(task, record(tmp_path, chol=600, sex="Male", age=None))
    found = reasons.reasons(task, model_of(task, chol=2.0, sex=-1.0), read.features)
    assert [(one.column, one.moved) for one in found.reasons[:2]] == [("chol", 2.0), ("sex", -1.0)]
    assert {one.moved for one in found.reasons[2:]} == {0.0}
    assert found.score == pytest.approx(1 / (1 + 2.718281828**-1.0))
    assert (found.baseline, found.label) == (0.5, "disease 1")
    assert "age" in read.unknown


def test_a_category_that_is_not_declared_is_pointed_out_and_not_told(task: Tabular, tmp_path: Path) -> None:
    read = reasons.read_record(task, record(tmp_path, sex="male"))
    assert read.warnings == ("sex: undeclared category, taken as missing",)


def test_the_verb_prints_reasons_and_opens_no_socket(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    path = record(tmp_path, chol=600, sex="Female")
    monkeypatch.setattr("sys.argv", ["lepton-client", "explain", str(path), "--model", str(model), *NAMED])
    main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "score       0.881 for disease 1"
    assert printed[2].split() == ["chol", "+2.000", "raises", "it"]
    assert len(printed) == 3
    assert {one.name for one in tmp_path.iterdir()} == {"record.json", "model.safetensors"}


def test_a_row_of_a_table_is_counted_as_an_editor_does(task: Tabular, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    header = ",".join(task.columns)
    table.write_text(f"{header}\n{',' * 12}\n" + ",".join("600" if name == "chol" else "" for name in task.columns))
    found = reasons.reasons(task, model_of(task, chol=2.0), reasons.read_row(task, table, 3).features)
    assert found.reasons[0].moved == 2.0
    with pytest.raises(DataError, match="rows 2 to 3, not 4"):
        reasons.read_row(task, table, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "no object"),
        ('{"chol": [1]}', "no object"),
        ("{", "cannot read"),
        ('{"cholesterol": 7}', "cholesterol"),
        ('{"chol": "secret"}', "not a number"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_without_its_values(
    task: Tabular, tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words) as refused:
        reasons.read_record(task, path)
    assert "secret" not in str(refused.value)


def test_another_model_is_refused(task: Tabular, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"1.weight": torch.zeros(1, 3).numpy()}, path)
    with pytest.raises(ConfigError, match="another model"):
        reasons.read_model(Logistic(), task, path)
    with pytest.raises(ConfigError, match="cannot read the model"):
        reasons.read_model(Logistic(), task, tmp_path / "absent")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "m", *NAMED],
        ["r", "--row", "3", "--data", "d", "--model", "m", *NAMED],
        ["r", "--model", "m", "--task", "heart"],
        ["r", "--model", "m", "--task", "heart", "--architecture", "nope"],
        ["r", "--model", "m", "--task", "digits", "--architecture", "mlp"],
        ["r", *NAMED],
    ],
)
def test_a_command_that_cannot_be_understood_changes_nothing(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="nothing was"):
        reasons.main(arguments)
