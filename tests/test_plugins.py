"""A plug-in runs only from the bytes that were approved, brings what it says, and replaces nothing that ships."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton_fl.errors import ConfigError
from lepton_fl.federation.terms import from_document, table, to_document
from lepton_fl.models.shape import Shape
from lepton_fl.plugins import admit, admitted_sha256, named_in, snapshot

_numbers = itertools.count()
MODEL = '''
"""A model of one's own."""
from dataclasses import dataclass
from pkgutil import get_data

from torch import nn
from lepton_fl.models.shape import Model, Shape
from NAME.widths import scaled

PRINTED = get_data("NAME", "width.txt")

@dataclass
class Narrow(Model):
    hidden: int

    def build(self, shape: Shape) -> nn.Module:
        width = scaled(self.hidden, int(PRINTED))
        return nn.Sequential(nn.Linear(shape.inputs, width), nn.Tanh(), nn.Linear(width, shape.outputs))
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed package with a model, a module beside it and a data file; its name is new in each test."""
    name = f"plugin_{next(_numbers)}"
    write(tmp_path, name, "{'model': {'NAME_narrow': 'NAME.model:Narrow'}}")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def write(folder: Path, name: str, brings: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "__init__.py").write_text(f"LEPTON_FL = {brings.replace('NAME', name)}\n")
    (folder / name / "model.py").write_text(MODEL.replace("NAME", name))
    (folder / name / "widths.py").write_text("def scaled(hidden: int, by: int) -> int:\n    return hidden * by\n")
    (folder / name / "width.txt").write_text("2\n")


def approve(name: str) -> None:
    admit(name, snapshot(name).sha256)


def test_what_an_approved_plugin_brings_can_be_named(package: str) -> None:
    approve(package)
    model = from_document("model", {"kind": f"{package}_narrow", "hidden": 3})
    assert model.build(Shape((4,), 1))[0].out_features == 6
    assert to_document("model", model) == {"hidden": 3, "kind": f"{package}_narrow"}
    assert admitted_sha256(package) == snapshot_again(package)


def snapshot_again(package: str) -> str:
    """Of the files, by a process that never loaded them."""
    code = f"from lepton_fl.plugins import snapshot; print(snapshot({package!r}).sha256)"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_hash_is_taken_without_running_anything_of_the_module(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('it was run')\n")
    assert len(snapshot(package).sha256) == 64
    assert package not in sys.modules


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte of code": lambda folder: (folder / "widths.py").write_text("def scaled(hidden, by):\n    return 1\n"),
    "a data file": lambda folder: (folder / "width.txt").write_text("3\n"),
    "a new file": lambda folder: (folder / "new.py").write_text(""),
    "a new file in a folder": lambda folder: ((folder / "more").mkdir(), (folder / "more" / "new").write_text("")),
    "a file gone": lambda folder: (folder / "width.txt").unlink(),
    "a file renamed": lambda folder: (folder / "width.txt").rename(folder / "widths.txt"),
    "what one file loses another gains": lambda folder: (
        (folder / "width.txt").write_text("2"),
        (folder / "widths.py").write_text("\n" + (folder / "widths.py").read_text()),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_after_the_approval_is_refused_before_anything_is_run(
    package: str, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    approved = snapshot(package).sha256
    change(tmp_path / package)
    with pytest.raises(ConfigError, match=f"policy.plugins approves {approved}; nothing of it was run"):
        admit(package, approved)
    assert package not in sys.modules


def test_compiled_files_are_neither_hashed_nor_run(package: str, tmp_path: Path) -> None:
    approved = snapshot(package).sha256
    cache = tmp_path / package / "__pycache__"
    cache.mkdir()
    (cache / f"widths.{sys.implementation.cache_tag}.pyc").write_bytes(b"planted")
    admit(package, approved)
    assert from_document("model", {"kind": f"{package}_narrow", "hidden": 3}).build(Shape((4,), 1))
    assert [path.name for path in cache.iterdir()] == [f"widths.{sys.implementation.cache_tag}.pyc"]


def test_what_is_run_is_what_was_hashed_though_the_file_changes_in_between(package: str, tmp_path: Path) -> None:
    """The plug-in's first module rewrites the second one before it is imported; the bytes read before count."""
    first, second = tmp_path / package / "__init__.py", tmp_path / package / "widths.py"
    attack = f"import pathlib\npathlib.Path({str(second)!r}).write_text('raise SystemExit(1)')\n"
    first.write_text(attack + first.read_text())
    approve(package)
    assert second.read_text() == "raise SystemExit(1)"
    assert from_document("model", {"kind": f"{package}_narrow", "hidden": 3}).build(Shape((4,), 1))[0].out_features == 6


def test_a_module_that_was_not_among_the_files_is_not_found_later(package: str, tmp_path: Path) -> None:
    late = tmp_path / package / "late.py"
    (tmp_path / package / "__init__.py").write_text(
        f"import pathlib\npathlib.Path({str(late)!r}).write_text('')\nimport {package}.late\n"
    )
    with pytest.raises(ConfigError, match=r"ModuleNotFoundError: .*late is not among the files"):
        approve(package)
    assert package not in sys.modules


def test_a_single_file_can_be_a_plugin(package: str, tmp_path: Path) -> None:
    text = MODEL.replace("from NAME.widths import scaled", "").replace('get_data("NAME", "width.txt")', "b'1'")
    text = text.replace("scaled(self.hidden, int(PRINTED))", "self.hidden")
    (tmp_path / f"{package}_alone.py").write_text(
        text + f"\nLEPTON_FL = {{'model': {{'{package}_alone': '{package}_alone:Narrow'}}}}\n"
    )
    approve(f"{package}_alone")
    assert from_document("model", {"kind": f"{package}_alone", "hidden": 5}).build(Shape((4,), 1))[0].out_features == 5


@pytest.mark.parametrize(
    ("brings", "reason"),
    [
        ("{'model': {'logistic': 'NAME.model:Narrow'}}", "which is there already"),
        ("{'privacy': {'weak': 'NAME.model:Narrow'}}", "only task, model, strategy may be brought"),
        ("{'model': {'a': 'NAME.model:Narrow'}, 'strategy': {'a': 'NAME.model:Narrow'}}", "no dataclass of a strategy"),
        ("{'model': {'a': 'lepton_fl.models.mlp:Mlp'}}", "no dataclass of a model in"),
        ("{'model': {'a': 'NAME.model:scaled'}}", "no dataclass of a model in"),
        ("{'model': {'a': 'NAME.absent:Narrow'}}", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("None", "AttributeError"),
    ],
)
def test_a_plugin_that_brings_something_else_brings_nothing(
    package: str, tmp_path: Path, brings: str, reason: str
) -> None:
    before = {group: dict(table(group)) for group in ("task", "model", "strategy", "privacy")}
    write(tmp_path, package, brings)
    with pytest.raises(ConfigError, match=reason) as caught:
        approve(package)
    assert str(caught.value).count(";") == 2
    assert {group: table(group) for group in before} == before
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("name", "reason"),
    [("os.path", "without a dot"), ("../x", "without a dot"), ("json", "loaded already"), ("nowhere", "not installed")],
)
def test_only_an_installed_module_that_nobody_uses_yet_is_a_plugin(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"{reason}.*; nothing was loaded"):
        snapshot(name)


def test_a_link_is_refused(package: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("")
    (tmp_path / package / "link.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(ConfigError, match="is a link"):
        snapshot(package)


def test_an_unknown_kind_in_someones_terms_is_named_with_what_would_be_needed() -> None:
    with pytest.raises(ConfigError, match=r"no model of the kind 'secret'.*installed here and approved in policy.plug"):
        from_document("model", {"kind": "secret"})


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        (["rounds=1"], []),
        (["plugins=[one]"], ["one"]),
        (["plugins=[one, two]", "rounds=1"], ["one", "two"]),
        (["plugins=one"], ["one"]),
        (["plugins=[]"], []),
        (["plugins=[one]", "plugins=['two']"], ["two"]),
    ],
)
def test_plugins_are_read_from_the_command_line(arguments: list[str], modules: list[str]) -> None:
    assert named_in(arguments) == modules


@pytest.mark.slow
def test_a_simulation_trains_the_model_of_a_plugin(package: str, tmp_path: Path) -> None:
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "narrow.yaml").write_text(f"defaults: [{package}_narrow_schema]\n\nhidden: 2\n")
    settings = [f"plugins=[{package}]", "model=narrow", "rounds=1", "output=out", "log=json", "--config-dir", "my"]
    paths = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    done = subprocess.run(
        [Path(sys.executable).with_name("lepton-sim"), *settings],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["parameters"] == 38 * 4 + 4 + 4 + 1


def test_a_plugin_that_is_set_elsewhere_than_on_the_command_line_is_told() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lepton-sim"), "+plugins=[one]"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "plugins=[one] on the command line" in done.stderr
