"""Real federations for tests: an operator and institutions as processes on loopback, with the README's commands."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lepton_fl.federation.contract import KINDS

BIN = Path(sys.executable).parent
HEART = Path(__file__).resolve().parent.parent / "lepton_fl" / "tasks" / "data" / "heart.csv"
HOSPITALS = ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]
PUBLIC = ["policy=public.yaml"]  # for a client: whatever is asked may leave
PLAIN = "secure_aggregation=off"  # for a server: the operator sees each update, as it must of one or two institutions
PATIENCE_S = 90


def policy_text(*changes: str) -> str:
    """A policy that accepts private runs up to epsilon 1 and lets nothing exact leave, with these lines instead."""
    lines = {line.split(":")[0]: line for line in _POLICY.strip().splitlines()}
    return "\n".join((lines | {change.split(":")[0]: change for change in changes}).values()) + "\n"


_POLICY = """
data_set: heart
budget: {unit: record, epsilon: 1.0, delta: 1.0e-4}
run: {epsilon: 100.0, rounds: 1000000, holdout_share: 0.3, compute_hours: 10.0}
public_data: false
accept: by-policy
may_leave: [noised-update]
tasks: [any]
models: [any]
strategies: [any]
plugins: []
least_cohort: 1
secure_aggregation: optional
hours: null
power_w: 65.0
"""
PUBLIC_POLICY = policy_text(
    "budget: {unit: record, epsilon: 100.0, delta: 1.0e-4}",
    "public_data: true",
    f"may_leave: [{', '.join(KINDS)}]",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program, run to its end in this folder."""
    command = [str(BIN / name), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def write_rows(path: Path, hospitals: Sequence[str]) -> None:
    """The file holds these hospitals' patients."""
    with HEART.open() as file:
        rows = list(csv.DictReader(file))
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row["hospital"] in hospitals)


@dataclass
class Federation:
    """A folder with a server's home, the hospitals' own files, and the processes that were started."""

    folder: Path
    before: dict[str, list[str]] = field(default_factory=dict)  # a program's name: put before its command
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for hospital in HOSPITALS:
            write_rows(self.folder / f"{hospital.replace(' ', '_')}.csv", [hospital])
        (self.folder / "public.yaml").write_text(PUBLIC_POLICY)
        ports = ["--port", str(free_port()), "--enrolment-port", str(free_port())]
        made = self.call("lepton-server", "init", "--host", "127.0.0.1", "--home", "server", *ports)
        assert made.returncode == 0, made.stderr

    @property
    def port(self) -> int:
        """Of the federation."""
        return int(json.loads((self.folder / "server" / "server.json").read_text())["port"])

    def end(self) -> None:
        """None of its processes runs any more."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)

    def call(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A program of the federation, run to its end."""
        command = [*self.before.get(name, []), str(BIN / name), *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def start(self, log: str, name: str, *arguments: str) -> subprocess.Popen[str]:
        """A program of the federation, in the background; what it says goes to the log."""
        command = [*self.before.get(name, []), str(BIN / name), *arguments]
        with (self.folder / log).open("w") as out:
            process = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, text=True)
        self.processes.append(process)
        return process

    def serve(self, *settings: str) -> subprocess.Popen[str]:
        waits = ["quorum_s=60", "round_s=60"]
        return self.start("server.log", "lepton-server", "run", "--home", "server", "task=heart", *waits, *settings)

    def client(self, hospital: str, *settings: str) -> subprocess.Popen[str]:
        data = f"data.path={hospital.replace(' ', '_')}.csv"
        return self.start(f"{hospital}.log", "lepton-client", "run", "--home", f"client {hospital}", data, *settings)

    def wait_for(self, log: str, text: str, times: int = 1) -> str:
        """The log's text once it says this so many times."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            said = (self.folder / log).read_text() if (self.folder / log).exists() else ""
            if said.count(text) >= times:
                return said
            time.sleep(0.1)
        raise AssertionError(f"{log} never said {text!r} {times} times: {said}")

    def invite(self, hospital: str) -> str:
        done = self.call("lepton-server", "invite", hospital, "--home", "server")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def enroll(self, hospital: str, invitation: str) -> subprocess.CompletedProcess[str]:
        done = self.call("lepton-client", "enroll", invitation, "--home", f"client {hospital}")
        if done.returncode == 0:
            (self.folder / f"client {hospital}" / "policy.yaml").write_text(policy_text())
        return done

    def gather(self, hospitals: Sequence[str], *settings: str) -> subprocess.Popen[str]:
        """These are enrolled, and a server waits for as many of them as its settings say."""
        invitations = {hospital: self.invite(hospital) for hospital in hospitals}
        server = self.serve(*settings)
        self.wait_for("server.log", "waiting for ")
        for hospital, invitation in invitations.items():
            enrolled = self.enroll(hospital, invitation)
            assert enrolled.returncode == 0, enrolled.stderr
        return server

    def reroute(self, hospital: str, port: int) -> None:
        """From now on the hospital reaches the server through this port of loopback."""
        path = self.folder / f"client {hospital}" / "client.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"addresses": [f"127.0.0.1:{port}"]}))

    def rounds(self) -> list[dict[str, Any]]:
        """What the run wrote of each round to `out`."""
        lines = (self.folder / "out" / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def result(self, output: str = "out") -> dict[str, Any]:
        """What the run wrote at its end."""
        result = json.loads((self.folder / output / "result.json").read_text())
        assert isinstance(result, dict)
        return result

    def simulate(self, hospitals: Sequence[str], *settings: str) -> subprocess.Popen[str]:
        """The same run in one process, which nothing disturbs, begins; its results go to `sim`."""
        write_rows(self.folder / "simulated.csv", hospitals)
        return self.start("sim.log", "lepton-sim", "task=heart", "data.path=simulated.csv", "output=sim", *settings)

    def simulated(self, hospitals: Sequence[str], *settings: str) -> str:
        """The digest of the model that nothing disturbs."""
        assert self.simulate(hospitals, *settings).wait(PATIENCE_S) == 0, (self.folder / "sim.log").read_text()
        return str(self.result("sim")["model_sha256"])
