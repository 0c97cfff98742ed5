"""Lepton FL as a Flower app: a simulation by `flwr run`, and a refusal on every SuperNode."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from federations import BIN, PATIENCE_S, free_port
from test_ray_engine import needs_ray, sha256, simulate

from lepton_fl.errors import BudgetSpent, ConfigError
from lepton_fl.federation.local_grid import LocalGrid, node_id_of
from lepton_fl.federation.named_grid import IDENTITY, INSTITUTION, NamedGrid, named
from lepton_fl.flower import ConfigRecord, Context, Message, RecordDict
from lepton_fl.flower_app import SETTINGS, InContext, answer, institution_of, settings_of

APP = Path(__file__).resolve().parent.parent / "deploy" / "flower"
NAMES = ("ash", "elm", "oak")


def says_who(message: Message, context: Context) -> Message:
    """A node that names itself."""
    identity = ConfigRecord({INSTITUTION: context.node_config["institution"]})
    return Message(RecordDict({IDENTITY: identity}), reply_to=message)


def at_once(seconds: float) -> None:
    """No time passes."""


def test_a_node_outside_a_simulation_answers_with_a_refusal_whatever_its_settings_say() -> None:
    grid = LocalGrid(says_who, NAMES)
    message = grid.create_message(RecordDict({"config": ConfigRecord({})}), "train", node_id_of("ash"), "1")
    node: dict[str, Any] = {"partition-id": 0, "num-partitions": 4, "lepton-home": "/srv/lepton"}
    reply = answer(message, Context(1, 2, node, RecordDict(), {SETTINGS: "secure_aggregation=off"}))
    assert "no record was read; run deploy/supernode on SuperNodes" in reply.error.reason


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("", "choose secure_aggregation=off and noise=own, or lepton-sim"),
        ("secure_aggregation=off engine=ray", "choose engine=local, or lepton-sim"),
        ("secure_aggregation=off executor=lowered", "choose executor=auto chunk=null workers=null"),
        ("secure_aggregation=off energy.stop_below=1.0", r"choose energy\.stop_below=null"),
        ("secure_aggregation=off strategy=afl privacy=none", "choose another, or lepton-sim"),
        ("secure_aggregation=off fairness=local_rw holdout.tune=0.1", "choose another, or lepton-sim"),
        ("secure_aggregation=off roundz=3", "there is no setting roundz"),
        ("secure_aggregation=off output='/half", "correct its quotes"),
    ],
)
def test_what_flower_could_not_uphold_is_refused_in_a_line(settings: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as raised:
        settings_of(settings)
    assert "\n" not in str(raised.value)


def test_settings_are_what_would_be_typed_after_lepton_sim() -> None:
    composed = settings_of("secure_aggregation=off rounds=7 task=digits 'output=/a folder'")
    assert (composed.settings.rounds, composed.settings.output) == (7, "/a folder")
    assert (composed.choices["task"], composed.choices["strategy"]) == ("digits", "fedavg")


@pytest.mark.parametrize(
    "node", [{}, {"partition-id": 3, "num-partitions": 3}, {"partition-id": 0, "num-partitions": 2}]
)
def test_a_node_is_an_institution_only_among_as_many_as_there_are(node: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="none of 3 institutions"):
        institution_of(NAMES, node)
    assert institution_of(NAMES, {"partition-id": 1, "num-partitions": 3}) == "elm"


def test_a_round_that_a_nodes_context_notes_is_not_begun_again() -> None:
    context, spent = Context(1, 2, {}, RecordDict(), {}), InContext()
    spent.of(context)
    spent.begin("ash", 1, 2)
    spent.begin("ash", 1, 2, "evaluation")
    fresh = InContext()  # another process, to which Flower brought what it keeps for the node
    fresh.of(context)
    with pytest.raises(BudgetSpent, match="begun before"):
        fresh.begin("ash", 1, 2)
    fresh.begin("ash", 2, 2)
    with pytest.raises(BudgetSpent, match="past the 2 rounds"):
        fresh.begin("ash", 3, 2)


def test_nodes_are_named_by_what_they_say_and_come_in_the_order_of_names() -> None:
    grid = named(LocalGrid(says_who, ("oak", "ash", "elm")), NAMES, 0.0, at_once)
    assert isinstance(grid, NamedGrid)
    assert [grid.names[node] for node in grid.get_node_ids()] == [*NAMES]


@pytest.mark.parametrize(
    ("there", "why"), [(("ash", "elm"), "num-supernodes=3"), (("ash", "elm", "fir"), "the same settings")]
)
def test_other_nodes_than_the_runs_institutions_are_refused(there: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        named(LocalGrid(says_who, there), NAMES, 0.0, at_once)


@contextmanager
def running(folder: Path, *command: str) -> Iterator[None]:
    """A program of Flower's, ended by its id."""
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen([str(BIN / command[0]), *command[1:]], stdout=log, stderr=log, env=closed(folder))
        try:
            wait_for_port(int(command[command.index("--port") + 1]))
            yield
        finally:
            process.terminate()
            process.wait(30)


def wait_for_port(port: int) -> None:
    """Somebody listens there."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


def closed(folder: Path) -> dict[str, str]:
    """What docs/flower.md says to set: nothing is reported, and Ray listens on this machine alone."""
    switches = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    own = {"FLWR_HOME": str(folder), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}
    return os.environ | switches | own | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def flower_config(folder: Path) -> str:
    """A home for Flower's commands, and the address of a SuperLink on this machine."""
    address = f"127.0.0.1:{free_port()}"
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "{address}"\ninsecure = true\n'
    )
    return address


def superlink(address: str, *more: str) -> tuple[str, ...]:
    host, _, port = address.partition(":")
    return ("flower-superlink", "--insecure", "--host", host, "--port", port, *more)


def flwr_run(folder: Path, settings: str, *more: str) -> str:
    """The log of a run that Flower carried out to its end."""
    command = [str(BIN / "flwr"), "run", str(APP), "local", "--stream", "--run-config", f'settings="{settings}"', *more]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=closed(folder))
    return ended.stdout + ended.stderr


@pytest.mark.slow
@needs_ray
def test_flwr_run_ends_with_the_model_of_lepton_sim(tmp_path: Path) -> None:
    address, chosen = flower_config(tmp_path), ("secure_aggregation=off", "rounds=2", "seed=3")
    chosen = (*chosen, "training.local_steps=2", "training.sampling_rate=0.5")
    nodes = ("--federation-config", "num-supernodes=4 client-resources-num-cpus=1")
    with running(tmp_path, *superlink(address, "--simulation")):
        log = flwr_run(tmp_path, " ".join([*chosen, f"output={tmp_path / 'flower'}"]), *nodes)
    assert "round 2/2" in log, log
    assert simulate(tmp_path / "local", "secure_aggregation=off").returncode == 0
    assert sha256(tmp_path / "flower") == sha256(tmp_path / "local")


@pytest.mark.slow
@needs_ray
def test_a_supernode_refuses_and_no_model_is_made(tmp_path: Path) -> None:
    address = flower_config(tmp_path)
    listens = ("--port", str(free_port()))
    node = ("flower-supernode", "--insecure", *listens, "--superlink", address)
    settings_of_node = ("--node-config", "partition-id=0 num-partitions=1")
    settings = f"task=digits institutions=1 secure_aggregation=off privacy=none output={tmp_path / 'out'}"
    with running(tmp_path, *superlink(address)), running(tmp_path, *node, *settings_of_node):
        log = flwr_run(tmp_path, settings)
    assert "no record was read; run deploy/supernode on SuperNodes" in " ".join(log.split()), log
    assert not (tmp_path / "out").exists()
