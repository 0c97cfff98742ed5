"""The README's commands of "Over the network", as they are printed, end in a finished run of four hospitals."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from federations import BIN, HEART, HOSPITALS, PATIENCE_S

SECTION = (Path(__file__).resolve().parent.parent / "README.md").read_text().split("## Over the network\n")[1]
BLOCKS = [block.splitlines() for block in re.findall(r"^```\n(.*?)^```$", SECTION.split("\n## ")[0], re.M | re.S)]
(CHECK,) = re.findall(r"`(\.venv/bin/lepton-client check [^`]+)`", SECTION.split("\n## ")[0])
PORTS = (9410, 9411)  # what the README's commands use


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("::", port))
        except OSError:
            return False
    return True


@dataclass
class Side:
    """One machine: a folder with the programs where the README has them, and a user of its own."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "LEPTON_HOME"}
        return {**kept, "HOME": str(self.folder)}

    def run(self, line: str) -> str:
        done = subprocess.run(
            shlex.split(line),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, line: str) -> subprocess.Popen[str]:
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                shlex.split(line),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[dict[str, Side]]:
    """The operator's machine and each hospital's; Cleveland has the whole table, the others their own rows."""
    for port in PORTS:
        if not is_free(port):
            pytest.skip(f"port {port}, which the README's commands use, is taken on this machine")
    made = {name: Side(tmp_path / name) for name in ("operator", *HOSPITALS)}
    for side in made.values():
        (side.folder / ".venv").mkdir(parents=True)
        (side.folder / ".venv" / "bin").symlink_to(BIN)
    with HEART.open() as file:
        rows = list(csv.DictReader(file))
    for hospital in HOSPITALS[1:]:
        with (made[hospital].folder / "patients.csv").open("w") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(row for row in rows if row["hospital"] == hospital)
    shutil.copy(HEART, made[HOSPITALS[0]].folder / "patients.csv")
    yield made
    for process in (process for side in made.values() for process in side.started):
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_each_side_has_three_commands() -> None:
    assert [[line.split()[:2] for line in block] for block in BLOCKS] == [
        [[".venv/bin/lepton-server", verb] for verb in ("init", "invite", "run")],
        [[".venv/bin/lepton-client", verb] for verb in ("enroll", "policy", "run")],
    ]


@pytest.mark.slow
def test_the_commands_as_printed_train_over_one_server_and_four_institutions(sides: dict[str, Side]) -> None:
    (init, invite, serve), (enroll, decide, take_part) = BLOCKS
    operator, hospitals = sides["operator"], {name: sides[name] for name in HOSPITALS}
    operator.run(init)
    assert invite.endswith(" Cleveland")
    invitations = {name: operator.run(invite.replace("Cleveland", shlex.quote(name))).strip() for name in hospitals}
    server = operator.start(serve)
    end = time.monotonic() + PATIENCE_S
    while "waiting for 4 institutions" not in operator.said() and time.monotonic() < end:
        time.sleep(0.1)

    def prepare(name: str) -> None:
        hospitals[name].run(enroll.replace("INVITATION", invitations[name]))
        hospitals[name].run(decide)

    with ThreadPoolExecutor() as pool:
        list(pool.map(prepare, hospitals))
    assert "ready       this table can be trained on" in hospitals["Cleveland"].run(CHECK)
    clients = [side.start(take_part) for side in hospitals.values()]

    assert server.wait(2 * PATIENCE_S) == 0, operator.said()
    (written,) = (operator.folder / ".lepton" / "server" / "runs").iterdir()
    result = json.loads((written / "result.json").read_text())
    assert (result["rounds"], result["institutions"]) == (10, HOSPITALS)
    assert result["private"] is True
    assert 0.9 < result["epsilon"] <= 1.0
    # No exact count left; noise decides whether the hold-out shows a figure.
    assert result["evaluation"].startswith("noised counts of the hold-out, epsilon 1 at delta 0.0001 per record")
    assert json.loads((written / "evaluation.json").read_text())["releases"] == 1
    assert "; finished, " in operator.run(".venv/bin/lepton-server status")
    for client in clients:
        client.send_signal(signal.SIGTERM)
    assert [client.wait(20) for client in clients] == [0, 0, 0, 0]
    assert "round       10 of 10 begun here, answered" in sides["Hungary"].run(".venv/bin/lepton-client status")
