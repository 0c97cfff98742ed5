"""`docs/secure-aggregation.md` names tests, code and refusals that exist, and leaves none of the refusals out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lepton_fl.secure_aggregation.cohort import honest, most_corrupt, threshold
from lepton_fl.secure_aggregation.refusals import REFUSALS

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "secure-aggregation.md").read_text()
ATTACKS = [line for line in TEXT.split("## Attacks")[1].split("\n## ")[0].splitlines() if line.startswith("| ")][2:]
REFUSED = re.findall(r"^\| `([^`]+)` \| (.+) \|$", TEXT.split("## Refusals")[1], re.M)
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
CODE = re.findall(r"`(\w+)` in `(lepton_fl/[\w/]+\.py)`", TEXT)
TESTS = "".join(
    (ROOT / "tests" / "secure_aggregation" / f"test_{name}.py").read_text() for name in ("attacks", "protocol")
)


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_is_named_exists(file: str, test: str) -> None:
    functions = {
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert test in functions


@pytest.mark.parametrize(("name", "file"), CODE)
def test_the_code_that_is_named_is_where_it_is_said_to_be(name: str, file: str) -> None:
    assert re.search(rf"^\s*(def|class) {name}\b", (ROOT / file).read_text(), re.M)


def test_every_attack_has_its_defence_and_its_test() -> None:
    assert len(ATTACKS) > 20
    for row in ATTACKS:
        assert "::test_" in row.rstrip(" |").rsplit("|", 1)[1], row


def test_every_refusal_is_listed_as_the_code_has_it() -> None:
    assert dict(REFUSED) == {name: f"{happened}; {to_do}" for name, (happened, to_do) in REFUSALS.items()}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_is_brought_about_by_a_test(name: str) -> None:
    assert f'"{name}"' in TESTS or f'"^{name}: "' in TESTS


def test_the_table_of_thresholds_is_what_the_code_works_out() -> None:
    rows = {
        cells[0].strip(): [int(cell) for cell in cells[1:]]
        for cells in (
            line.strip("| ").split("|") for line in TEXT.splitlines() if re.match(r"\| (n|n_c|t|m0|may)", line)
        )
        if all(cell.strip().isdecimal() for cell in cells[1:])
    }
    n = rows["n"]
    assert rows["n_c"] == [most_corrupt(count) for count in n]
    assert rows["t"] == [threshold(count) for count in n]
    assert rows["may drop out"] == [count - threshold(count) for count in n]
    assert rows["m0"] == [honest(count) for count in n]
