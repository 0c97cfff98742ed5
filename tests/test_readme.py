"""The README's own example runs as it is printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SECTION = README.split("## Bring your own table")[1].split("\n## ")[0]


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's two rows, and 298 more that follow its YAML."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    rows = blocks("")[0].strip().splitlines()
    for number in range(3, 301):
        age, smokes, glucose = rng.integers(18, 90), rng.random() < 0.3, rng.uniform(3, 12)
        ill = glucose + 0.03 * age + smokes + rng.normal() > 10
        clinic = rng.choice(["North", "South", "West"])
        rows.append(
            f"P{number:03d},{clinic},{age},{'yes' if smokes else 'no'},{glucose:.1f},{'ill' if ill else 'healthy'}"
        )
    (folder / "clinics.csv").write_text("\n".join(rows) + "\n")
    (folder / "my" / "task").mkdir(parents=True)
    (folder / "my" / "task" / "diabetes.yaml").write_text(blocks("yaml")[0])
    return folder


def test_the_example_has_its_table_its_task_and_its_commands() -> None:
    assert len(blocks("yaml")) == 1
    assert len(blocks("")) == 2


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", blocks("")[1].strip().splitlines())
def test_the_commands_run_as_printed(line: str, folder: Path) -> None:
    program, *arguments = shlex.split(line)
    command = [str(Path(sys.executable).with_name(Path(program).name)), *arguments]
    variants = [[], ["privacy=none"]] if "lepton-sim" in line else [[]]
    with ThreadPoolExecutor() as pool:  # side by side
        done, *plain = pool.map(lambda more: run([*command, *more], folder), variants)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if plain:
        assert "epsilon 1.00 of 1.00" in done.stdout.splitlines()[-2]
        # Noise decides how good a private model of 300 records is; without it the table can be learned.
        assert plain[0].returncode == 0, plain[0].stderr
        assert float(re.findall(r"auc (\d\.\d+)", plain[0].stdout)[-1]) > 0.8
    else:
        assert "rows        300 in the file, 300 usable" in done.stdout


def test_every_file_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
