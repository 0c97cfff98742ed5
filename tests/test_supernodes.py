"""Real processes of Flower's: a SuperLink, two SuperNodes, `flwr run`; each institution's policy and ledger decide."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from federations import BIN, PATIENCE_S, free_port
from ledgers import clock
from lepton_client.ledger import Ledger
from proposals import POLICY, write

APP = Path(__file__).resolve().parent.parent / "deploy" / "supernode"
NAMES = ("Cleveland", "Hungary")
ALLOWS: dict[str, Any] = {"hours": None, "least_cohort": 2, "may_leave": ["noised-update", "noised-counts"]}
NARROW: dict[str, Any] = {"budget": {"unit": "record", "epsilon": 1.2, "delta": 1e-4}}


def home(folder: Path, name: str, **fields: Any) -> Path:
    """A home that is not enrolled, with a policy that allows one run of the demo."""
    path = folder / name.lower()
    path.mkdir()
    write(path, POLICY | ALLOWS | NARROW | fields)
    return path


def closed(folder: Path) -> dict[str, str]:
    """Nothing is reported, and Flower's own files lie in this folder."""
    switches = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | switches | {"FLWR_HOME": str(folder), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def running(folder: Path, log: str, *command: str) -> Iterator[None]:
    """A program with a port, from when it listens; ended by its id."""
    with (folder / f"{log}.log").open("w") as written:
        program = [str(BIN / command[0]), *command[1:]]
        process = subprocess.Popen(program, stdout=written, stderr=written, env=closed(folder))
        try:
            if "--port" in command:
                wait_for_port(int(command[command.index("--port") + 1]))
            yield
        finally:
            process.terminate()
            process.wait(60)


def wait_for_port(port: int) -> None:
    """Somebody listens there."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


class Link:
    """A SuperLink on this machine, and what is started beside it."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.folder, self._held = folder, held
        self.port = str(free_port())
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        listens = ("--insecure", "--host", "127.0.0.1", "--port", self.port)
        self._start("superlink", "flower-superlink", *listens, "--disable-runtime-dependency-installation")

    def node(self, name: str, config: str, *more: str) -> str:
        """A SuperNode with this node config; returns where it talks to what answers for it."""
        port = str(free_port())
        at = ("--insecure", "--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1", "--port", port)
        self._start(name, "flower-supernode", *at, "--node-config", config, *more)
        return f"127.0.0.1:{port}"

    def _start(self, log: str, *command: str) -> None:
        self._held.enter_context(running(self.folder, log, *command))

    def client(self, name: str, path: Path, runtime: str) -> None:
        """An institution's own program, which answers in place of the run's."""
        given = ("--home", str(path), f"institution={name}", f"runtime={runtime}")
        self._start(f"{name}-client", "lepton-client", "supernode", *given)

    def run(self, output: str, rounds: int, institutions: int = 2, app: Path = APP) -> str:
        """The log of a run that ended, one way or the other."""
        settings = (
            f"secure_aggregation=off institutions={institutions} rounds={rounds} training.local_steps=1 "
            f"training.sampling_rate=1.0 evaluation.every={rounds} output={self.folder / output}"
        )
        chosen = f'settings="{settings}" least-cohort={institutions}'
        command = [str(BIN / "flwr"), "run", str(app), "local", "--stream", "--run-config", chosen]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=560, check=False, env=closed(self.folder)
        )
        return " ".join((ended.stdout + ended.stderr).split())


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    with ExitStack() as held:
        yield Link(tmp_path, held)


def rounds_paid(folder: Path) -> list[int]:
    """By the runs of an institution's ledger that trained."""
    ledger = Ledger.open(folder / "ledger", clock)
    lines = (folder / "ledger" / "ledger.jsonl").read_text().splitlines()
    runs = {line.split('"run":"')[1].split('"')[0] for line in lines if '"reserved"' in line}
    known = [ledger.run(run) for run in runs if "/" not in run]
    return [one.rounds for one in known if one is not None]


@pytest.mark.slow
def test_each_institution_pays_for_a_run_and_refuses_the_one_beyond_its_budget(link: Link, tmp_path: Path) -> None:
    homes = [home(tmp_path, name) for name in NAMES]
    for name, path in zip(NAMES, homes, strict=True):
        link.node(name, f'lepton-home="{path}" lepton-settings="institution={name}"')
    first = link.run("first", 1)
    assert "round 1/1" in first, first
    assert (tmp_path / "first" / "model.safetensors").exists()
    assert [rounds_paid(path) for path in homes] == [[1], [1]]
    second = link.run("second", 1)
    assert "Cleveland: policy.budget.epsilon refuses" in second, second
    assert not (tmp_path / "second").exists()
    assert [rounds_paid(path) for path in homes] == [[1], [1]]


@pytest.mark.slow
def test_no_run_begins_where_a_policy_refuses_or_a_node_names_no_home(link: Link, tmp_path: Path) -> None:
    path = home(tmp_path, "Cleveland", tasks=["adult"])
    link.node("Cleveland", f'lepton-home="{path}" lepton-settings="institution=Cleveland"')
    refused = link.run("refused", 1, institutions=1)
    assert "Cleveland: policy.tasks refuses" in refused, refused
    link.node("nobody", "partition-id=0")
    unnamed = link.run("unnamed", 1)
    assert "this SuperNode names no home of an institution" in unnamed, unnamed
    assert rounds_paid(path) == []


@pytest.mark.slow
def test_beside_a_supernode_installed_code_answers_and_what_came_with_the_run_is_not_executed(
    link: Link, tmp_path: Path
) -> None:
    app, executed = tmp_path / "app", tmp_path / "executed"
    app.mkdir()
    shipped = (APP / "pyproject.toml").read_text()
    named = shipped.replace("lepton_client.supernode_app:client_app", "brought:client_app")
    assert named != shipped
    (app / "pyproject.toml").write_text(named)
    (app / "brought.py").write_text(f"open({str(executed)!r}, 'w').close()\nclient_app = None\n")
    homes = [home(tmp_path, name) for name in NAMES]
    for name, path in zip(NAMES, homes, strict=True):
        link.client(name, path, link.node(name, "partition-id=0", "--isolation", "process"))
    log = link.run("first", 2, app=app)
    assert "round 2/2" in log, log
    assert [rounds_paid(path) for path in homes] == [[2], [2]]
    assert not executed.exists()
