"""`engine=ray`, with Ray itself: the same model as in one process, doors closed, and nothing left when it ends."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lepton_fl.errors import ConfigError
from lepton_fl.flower_ray import Resources, ray_workers, refuse_without_ray

IS_HERE = not subprocess.run(  # the suite's own process never loads Ray
    [sys.executable, "-c", "import ray"], capture_output=True, check=False
).returncode
needs_ray = pytest.mark.skipif(not IS_HERE, reason="Ray is not installed: pip install '.[ray]'")
SETTINGS = ["rounds=2", "seed=3", "training.local_steps=2", "training.sampling_rate=0.5"]

LISTENING = """
import os
from pathlib import Path
from lepton_fl.flower_ray import Resources, ray_workers

def family(root):
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more

def sockets(pid):
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            yield os.readlink(link)
        except OSError:
            pass

with ray_workers(Resources(1.0, 0.0)) as workers:
    mine = {link for pid in family(os.getpid()) for link in sockets(pid)}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = row.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in mine:
                print("listens", cells[1].partition(":")[0])
    print("workers", workers.count, os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["RAY_AUTH_MODE"])
print("left", len(family(os.getpid())))
"""


def simulate(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    command = ["from lepton_fl.sim_command import main; main()", *SETTINGS, *settings, f"output={folder}"]
    single = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": tempfile.gettempdir()}
    return subprocess.run(
        [sys.executable, "-c", *command], capture_output=True, text=True, timeout=200, check=False, env=single
    )


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.skipif(IS_HERE, reason="Ray is installed here")
def test_without_ray_the_engine_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'lepton-fl\[ray\]'"):
        refuse_without_ray()
    with pytest.raises(ConfigError, match="nothing was trained"), ray_workers(Resources(1.0, 0.0)):
        pass


@pytest.mark.parametrize(("cpus", "gpus"), [(0.0, 0.0), (-1.0, 0.0), (1.0, -0.5)])
def test_an_institution_needs_some_of_a_processor(cpus: float, gpus: float) -> None:
    with pytest.raises(ConfigError, match=r"ray\.num_cpus must be above 0"):
        Resources(cpus, gpus)


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize(("masked", "privacy"), [("on", "record"), ("off", "record"), ("on", "none")])
def test_a_seeded_run_on_ray_ends_with_the_model_of_one_process(tmp_path: Path, masked: str, privacy: str) -> None:
    chosen = [f"secure_aggregation={masked}", f"privacy={privacy}"]
    there = simulate(tmp_path / "ray", "engine=ray", *chosen)
    here = simulate(tmp_path / "local", *chosen)
    assert (there.returncode, here.returncode) == (0, 0), there.stderr + here.stderr
    assert sha256(tmp_path / "ray") == sha256(tmp_path / "local")
    told, expected = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("ray", "local"))
    assert told == expected
    assert {json.loads(line)["phase"] for line in (tmp_path / "ray" / "energy.jsonl").read_text().splitlines()} == {
        "train",
        "evaluate",
        "communicate",
        "aggregate",
    }


@pytest.mark.slow
@needs_ray
def test_ray_listens_on_this_machine_alone_and_leaves_nothing(tmp_path: Path) -> None:
    before = {*Path(tempfile.gettempdir()).glob("lepton-*")}
    ended = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    addresses = {line.split()[1] for line in lines if line.startswith("listens")}
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert addresses
    assert addresses <= loopback
    assert any(line.startswith("workers") and line.endswith("0 token") for line in lines)
    assert lines[-1] == "left 1"
    assert {*Path(tempfile.gettempdir()).glob("lepton-*")} == before


@pytest.mark.slow
@needs_ray
def test_more_than_the_machine_has_and_what_workers_would_lose_are_refused_in_a_line(tmp_path: Path) -> None:
    for settings, why in (
        (["ray.num_cpus=10000"], "lower ray.num_cpus or ray.num_gpus"),
        (["device=cuda"], "cuda with more"),
        (["executor=vmap", "secure_aggregation=off"], "choose engine=local, or leave them out"),
        (["strategy=afl", "privacy=none"], "choose engine=local"),
    ):
        ended = simulate(tmp_path, "engine=ray", *settings)
        assert (ended.returncode, len(ended.stderr.strip().splitlines()[-1:])) == (2, 1), ended.stderr
        assert why in ended.stderr
        assert "Traceback" not in ended.stderr
