"""Tasks by name, as this machine has them: what a policy compares an operator's task with."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError
from lepton_fl.federation.terms import from_document, to_document
from lepton_fl.plain_yaml import read_yaml

Document = Mapping[str, Any]
"""A task as it stands in the terms of a run."""


def installed_task(name: str, own: Path) -> Document:
    """The task that `task=NAME` means on this machine, as the terms of a run would have it.

    Args:
        own: a folder with tasks of one's own, `NAME.yaml`; it need not be there.

    Raises:
        ConfigError: there is no such task, or a shipped one and one of one's own.
    """
    places = [path for folder in _folders(own) if (path := folder / f"{name}.yaml").is_file()]
    if len(places) != 1:
        raise ConfigError(_no_such(name, own) if not places else _two_of(name, own))
    values = read_yaml(places[0])
    schemas = values.pop("defaults", None)
    if not isinstance(schemas, list) or len(schemas) != 1 or not str(schemas[0]).endswith("_schema"):
        raise ConfigError(
            f"{places[0]} does not begin with one schema, say `defaults: [tabular_schema]`; nothing was run; write all "
            "of the task there"
        )
    task = from_document("task", {**values, "kind": str(schemas[0]).removesuffix("_schema")})
    return to_document("task", task)


def sha256_of(document: Document) -> str:
    """Hex SHA-256 of a task's one form: its JSON without spaces, in the order of its fields and columns."""
    return hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()


def _folders(own: Path) -> Sequence[Path]:
    return (config_dir() / "task", own)


def _no_such(name: str, own: Path) -> str:
    names = sorted({path.stem for folder in _folders(own) for path in folder.glob("*.yaml")})
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"write it as {own / f'{name}.yaml'}, or take {', '.join(names)}"
    return f"there is no task {name} on this machine; nothing was run; {hint}"


def _two_of(name: str, own: Path) -> str:
    return f"{own / f'{name}.yaml'} has the name of a task that ships with Lepton FL; nothing was run; give it another"
