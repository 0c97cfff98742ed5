"""The threat model and the deployment guide name tests, code and commands that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
THREATS = (ROOT / "docs" / "threat-model.md").read_text()
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", THREATS)))
# "`this` and `that` in `lepton_fl/file.py`"
CODE = re.findall(r"((?:`\w+`(?:, | and )?)+) in `((?:lepton_fl|server|client)/[\w/]+\.py)`", THREATS)
VERBS = {
    "lepton-server": {"init", "invite", "institutions", "log", "revoke", "run", "status", "verify"},
    "lepton-client": {"enroll", "check", "policy", "review", "run", "supernode", "status", "ledger", "verify"},
}


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_is_named_exists(file: str, test: str) -> None:
    assert test in functions(ROOT / file)


@pytest.mark.parametrize(("names", "file"), CODE)
def test_the_code_that_is_named_is_where_it_is_said_to_be(names: str, file: str) -> None:
    for name in re.findall(r"`(\w+)`", names):
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), name


def test_every_file_of_ours_that_is_named_exists() -> None:
    for file in re.findall(
        r"`((?:lepton_fl|server|client|tests|docs|deploy|conf)/[\w/.-]+\.\w+)", THREATS + DEPLOYMENT
    ):
        assert (ROOT / file).is_file(), file


def test_every_line_of_a_table_has_its_defence_and_its_test() -> None:
    rows = [line for line in THREATS.split("## Assets")[1].split("## 1.")[1].splitlines() if line.startswith("| ")]
    attacks = [row for row in rows if not re.match(r"\| (attack|against|---)", row)]
    assert len(attacks) > 40
    for row in attacks:
        assert "::test_" in row.rstrip(" |").rsplit("|", 1)[1], row


def test_every_adversary_has_what_is_not_defended() -> None:
    sections = re.split(r"^## \d\. ", THREATS, flags=re.M)[1:]
    assert len(sections) == 6
    assert all("Not defended" in section for section in sections)


@pytest.mark.parametrize("text", [THREATS, DEPLOYMENT], ids=["threat-model", "deployment"])
def test_every_command_in_the_text_is_one_that_the_program_has(text: str) -> None:
    used = re.findall(r"\b(lepton-server|lepton-client) ([a-z]+)\b(?!-)", re.sub(r"(?:-u|User=) ?lepton-\w+", "", text))
    for program, verb in used:
        assert verb in VERBS[program], f"{program} {verb}"


@pytest.mark.parametrize("text", [THREATS, DEPLOYMENT], ids=["threat-model", "deployment"])
def test_every_link_leads_to_a_file_and_a_heading(text: str) -> None:
    for target, _, heading in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", text)):
        place = ROOT / "docs" / target
        assert place.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", place.read_text(), re.M)
            assert heading in {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings}


def printed_settings(program: str, folder: Path, guide: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """What the program would run with, with this file of the guide."""
    name, content = guide
    (folder / f"{name}.yaml").write_text(content)
    command = [str(Path(sys.executable).parent / program), "run", "--config-dir", str(folder), "--config-name", name]
    return subprocess.run([*command, "--cfg", "job"], capture_output=True, text=True, check=False)


def test_the_settings_of_the_guide_compose(tmp_path: Path) -> None:
    found = re.findall(r"^```yaml\n# /etc/lepton/(\w+)\.yaml\n(.*?)^```$", DEPLOYMENT, re.M | re.S)
    assert [name for name, _ in found] == ["federation", "institution"]
    programs = {"federation": "lepton-server", "institution": "lepton-client"}
    with ThreadPoolExecutor() as pool:
        printed = pool.map(lambda one: printed_settings(programs[one[0]], tmp_path, one), found)
    for done, port in zip(printed, (9412, 9413), strict=True):
        assert done.returncode == 0, done.stderr
        assert f"metrics_port: {port}" in done.stdout
        assert "log: json" in done.stdout
