"""Imports run downwards, and each framework enters through its one door."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up; a module imports only from its own layer's package and from lower layers.
LAYERS = [
    {"lepton_fl.compiled", "lepton_fl.garbage", "lepton_fl.logs", "lepton_fl.v1"},
    {"lepton_fl.errors"},
    {"lepton_fl.files"},
    {"lepton_fl.energy"},
    {"lepton_fl.link", "lepton_fl.prometheus", "lepton_fl.secure_aggregation"},
    {"lepton_fl.command", "lepton_fl.config", "lepton_fl.flower", "lepton_fl.plain_yaml", "lepton_fl.show"},
    {"lepton_fl.flower_node", "lepton_fl.flower_ray"},
    {"lepton_fl.privacy", "lepton_fl.models"},
    {"lepton_fl.training"},
    {"lepton_fl.tasks", "lepton_fl.strategies"},
    {"lepton_fl.evaluation"},
    {"lepton_fl.explanation"},
    {"lepton_fl.fairness"},
    {"lepton_fl.federation"},
    {"lepton_fl.plugins"},
    {"lepton_fl.results"},
    {"lepton_fl.evidence"},
    {"lepton_fl.run"},
    {"lepton_fl.explained"},
    {"lepton_fl.engines"},
    {"lepton_fl.simulation"},
    {"lepton_fl.audit"},
    {"lepton_fl.flower_app", "lepton_fl.sim_command"},
    {"lepton_fl.flower_deployment"},
    {"lepton_server", "lepton_client"},
]

# A framework's name, and the only places that may import it.
DOORS = {
    "flwr": {"lepton_fl.flower", "lepton_fl.flower_node", "lepton_fl.flower_ray"},
    "ray": {"lepton_fl.flower_ray"},
    "omegaconf": {"lepton_fl.config"},
    "hydra": {"lepton_fl.config"},
    "dp_accounting": {"lepton_fl.privacy.accounting"},
    "opacus": {"lepton_fl.training.clipped_sum"},
    "pyarrow": {"lepton_fl.tasks.table"},
    "matplotlib": {"lepton_fl.results.curve"},
    "prometheus_client": {"lepton_fl.prometheus"},
    "jinja2": {"lepton_fl.evidence.report_page"},
    "rfc8785": {"lepton_fl.evidence.canonical"},
}

NEVER = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for base in (ROOT, ROOT / "server", ROOT / "client"):
        for package in ("lepton_fl", "lepton_server", "lepton_client"):
            for path in sorted((base / package).rglob("*.py")):
                name = ".".join(path.relative_to(base).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports(path: Path) -> frozenset[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return frozenset(found)


def layer_of(module: str) -> int:
    for height, members in enumerate(LAYERS):
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return height
    raise AssertionError(f"{module} belongs to no layer; give it one")


def room_of(module: str) -> str:
    """A package of the library; a shell is one room as a whole."""
    return ".".join(module.split(".")[: 2 if module.startswith("lepton_fl.") else 1])


@pytest.mark.parametrize("module", [name for name in modules() if name != "lepton_fl"])
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    own = [name for name in imports(modules()[module]) if name.startswith("lepton_") and name != "lepton_fl"]
    for name in own:
        if room_of(name) != room_of(module):
            assert layer_of(name) < layer_of(module), f"{module} imports {name} from its own height or above"


@pytest.mark.parametrize("framework", sorted(DOORS))
def test_a_framework_enters_through_its_door_alone(framework: str) -> None:
    users = {m for m, path in modules().items() if any(i.split(".")[0] == framework for i in imports(path))}
    assert users == DOORS[framework]


def test_nothing_that_runs_code_from_data_is_imported() -> None:
    for module, path in modules().items():
        assert not {name.split(".")[0] for name in imports(path)} & NEVER, module


def test_initialisers_hold_a_docstring_or_a_table_and_import_nothing() -> None:
    for module, path in modules().items():
        if path.name == "__init__.py" and ".v1" not in module:
            assert not imports(path), module
