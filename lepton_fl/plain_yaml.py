"""YAML that a person wrote and a program relies on: plain values, and every key once."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lepton_fl.errors import ConfigError

LARGEST = 1 << 20  # bytes


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's fields by name.

    Refused is what a reader could overlook: a key that is there twice, of which YAML would keep the last one without
    a word, and an alias, which stands for what is written elsewhere.

    Raises:
        ConfigError: no such file, larger than 1 MiB, not UTF-8, no YAML, no fields, or one of the above; with the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}); nothing was run; correct its place") from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, origin: str) -> dict[str, Any]:
    """As `read_yaml`, of bytes that came from `origin`."""
    if len(content) > LARGEST:
        raise ConfigError(f"{origin} has more than {LARGEST} bytes; nothing was run; is it the right file?")
    try:
        document = yaml.load(content.decode(), _Plain)  # noqa: S506 - a SafeLoader, and stricter
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin} cannot be read: {_reason(error)}; nothing was run; correct it") from error
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise ConfigError(f"{origin} holds no fields; nothing was run; write each as NAME: VALUE")
    return document


class _Plain(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Builds numbers, texts, lists and mappings, and nothing else."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not taken here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(key.value)
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    what = str(getattr(error, "problem", None) or "it is no plain text in YAML")
    return what if mark is None else f"line {mark.line + 1}: {what}"
