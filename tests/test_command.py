"""`--help` of a verb is what its program's help says about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from federations import call

from lepton_fl.command import help_of

TEXT = """\
prog: does things.

  prog make THING [--home DIR]
                 makes it
  prog make list
  prog break THING
                 and this

--home DIR   where
"""


def test_a_verbs_help_is_its_own_lines() -> None:
    assert help_of(TEXT, "prog make") == "".join(TEXT.splitlines(keepends=True)[2:5])
    assert help_of(TEXT, "prog break").splitlines()[-1].strip() == "and this"


def test_of_an_unknown_verb_everything_is_said() -> None:
    assert help_of(TEXT, "prog sing") == TEXT


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("lepton-client", ["ledger"]),
        ("lepton-client", ["ledger", "accept"]),
        ("lepton-client", ["policy"]),
        ("lepton-client", ["review"]),
        ("lepton-server", ["invite"]),
    ],
)
def test_a_verb_explains_itself_and_does_nothing(tmp_path: Path, program: str, arguments: list[str]) -> None:
    done = call(program, *arguments, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"  {program} {arguments[0]}")
    assert list(tmp_path.iterdir()) == []
