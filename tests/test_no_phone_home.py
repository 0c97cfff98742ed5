"""A run connects nowhere: no telemetry, no update check, no download. Nor does it load what it has no use for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WATCHED = """
import sys

attempts = []


def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "unix"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if host not in ("unix", None, "localhost", "127.0.0.1", "::1"):
        attempts.append(f"{event} {host}")
        raise ConnectionRefusedError(f"{event} to {host}")


sys.addaudithook(watch)
"""

RUN = """
from lepton_fl.sim_command import main

main()
"""

TELL = """
import atexit
atexit.register(lambda: sys.stderr.write(f"attempts: {attempts}\\n"))
atexit.register(lambda: sys.stderr.write(f"compiler: {'torch._dynamo' in sys.modules}\\n"))
"""


def watched(code: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WATCHED + TELL + code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run of one round said on stderr."""
    folder = tmp_path_factory.mktemp("run")
    # What a careless environment might ask for.
    environment = {"FLWR_TELEMETRY_ENABLED": "1", "FLWR_DISABLE_UPDATE_CHECK": "0"}
    done = watched(RUN, "rounds=1", "privacy=none", f"output={folder}", environment=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "result.json").read_text())["rounds"] == 1
    return done.stderr


def test_a_whole_run_connects_nowhere(whole_run: str) -> None:
    assert "attempts: []" in whole_run


def test_a_whole_run_loads_no_compiler(whole_run: str) -> None:
    """Torch's takes over a second to load, in each process, and a run compiles nothing."""
    assert "compiler: False" in whole_run


def test_the_watch_sees_a_connection_and_a_look_up() -> None:
    done = watched(
        """
import socket

for act in (lambda: socket.create_connection(("192.0.2.1", 443), 1), lambda: socket.getaddrinfo("example.org", 443)):
    try:
        act()
    except ConnectionRefusedError:
        pass
"""
    )
    assert done.returncode == 0, done.stderr
    assert "192.0.2.1" in done.stderr
    assert "example.org" in done.stderr


def test_telemetry_is_off_whatever_the_environment_says() -> None:
    done = watched(
        """
import os

import lepton_fl.flower

print(os.environ["FLWR_TELEMETRY_ENABLED"], os.environ["FLWR_DISABLE_UPDATE_CHECK"])
from flwr.supercore import telemetry

print(telemetry.FLWR_TELEMETRY_ENABLED)
""",
        environment={"FLWR_TELEMETRY_ENABLED": "1", "FLWR_DISABLE_UPDATE_CHECK": "0"},
    )
    assert done.stdout.split() == ["0", "1", "0"], done.stderr
