"""YAML that a program relies on holds nothing that a reader could overlook."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_fl.errors import ConfigError
from lepton_fl.plain_yaml import LARGEST, read_yaml


def test_plain_fields_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: 1\ntwo: {three: [a, 2.5, null, true]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"one": 1, "two": {"three": ["a", 2.5, None, True]}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: 1\nb: 2\na: 3\n", "line 3: a is there twice"),
        (b"a: {b: 1, b: 2}\n", "line 1: b is there twice"),
        (b"a: &x [1]\nb: *x\n", "line 2: aliases"),
        (b"a: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
        (b"a: [1\n", "line 2"),
        (b"\xff\xfe", "no plain text"),
        (b"- 1\n", "holds no fields"),
        (b"1: 2\n", "holds no fields"),
        (b"", "holds no fields"),
        (b"a: " + b"[" * 20_000, "no plain text"),
        (b"#" * (LARGEST + 1), "more than 1048576 bytes"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert reason in str(caught.value)
    assert "nothing was run" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml \(No such file"):
        read_yaml(tmp_path / "a.yaml")
