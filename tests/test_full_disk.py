"""A full disk: a process ends with one line, loses nothing, and goes on once there is room; with a small tmpfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federations import HOSPITALS, PATIENCE_S, PLAIN, PUBLIC, Federation

PAGE = os.sysconf("SC_PAGE_SIZE")
TWO = HOSPITALS[:2]
# A reply takes 173 pages, more than everything else that is written.
SETTINGS = [PLAIN, "rounds=4", "seed=1", "model=mlp", "model.hidden=[400,400]"]
REPLY_BYTES = 700_000
MOUNT = 'mount -t tmpfs -o size=32m tmpfs "$0" && echo ready && exec sleep infinity'


class SmallDisk:
    """A tmpfs over a folder, for those processes alone that are started with `enter` before their command."""

    def __init__(self, folder: Path, working: Path) -> None:
        folder.mkdir()
        unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
        if unshare is None or nsenter is None:
            pytest.skip("no unshare and nsenter, with which a process gets a disk of its own")
        self._keeper = subprocess.Popen(
            [unshare, "--map-root-user", "--mount", "sh", "-c", MOUNT, folder], stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        self.is_there = self._keeper.stdout.readline() == "ready\n"
        pid = self._keeper.pid
        own = [nsenter, f"--target={pid}", "--user", "--mount", "--preserve-credentials"]
        self.enter = [*own, "sh", "-c", 'cd "$0" && exec "$@"', str(working)]
        self.folder = Path(f"/proc/{pid}/root{folder}")

    def fill(self, left: int = 0) -> None:
        """So many bytes are left."""
        free = os.statvfs(self.folder)
        with (self.folder / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()

    def end(self) -> None:
        self._keeper.kill()
        with self._keeper:
            pass


Make = Callable[[str, str], tuple[Federation, SmallDisk]]


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[Make]:
    """Makes a federation in which one folder is a disk of its own, for the processes of one program."""
    disks: list[SmallDisk] = []
    federations: list[Federation] = []

    def make(program: str, folder: str) -> tuple[Federation, SmallDisk]:
        disks.append(SmallDisk(tmp_path / folder, tmp_path))
        if not disks[0].is_there:
            pytest.skip("no process here may mount a disk of its own")
        federations.append(Federation(tmp_path, {program: disks[0].enter}))
        return federations[0], disks[0]

    yield make
    for made in (*federations, *disks):
        made.end()


def gave_up(process: subprocess.Popen[str], log: Path) -> str:
    """The one line with which it ended."""
    assert process.wait(PATIENCE_S) == 9
    said = log.read_text()
    assert "Traceback" not in said
    assert said.count("error:") == 1
    last = said.splitlines()[-1]
    assert last.startswith("error: ")
    assert "; make room" in last
    assert last.endswith(", then run the same command again")
    return last


def ended_well(federation: Federation, server: subprocess.Popen[str]) -> None:
    assert server.wait(PATIENCE_S) == 0
    assert all(one["replied"] == one["cohort"] == TWO for one in federation.rounds())
    assert federation.result()["model_sha256"] == federation.simulated(TWO, *SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("rounds_before", [0, 2], ids=["before the run", "in its middle"])
def test_a_server_whose_disk_is_full_stops_and_goes_on_once_there_is_room(
    on_a_small_disk: Make, rounds_before: int
) -> None:
    federation, disk = on_a_small_disk("lepton-server", "server")
    run, log = [*SETTINGS, "output=out", "round_s=300"], federation.folder / "server.log"
    server = federation.gather(TWO, *run)
    if not rounds_before:
        disk.fill()
    for hospital in TWO:
        federation.client(hospital, *PUBLIC)
    if rounds_before:
        federation.wait_for("server.log", f"round {rounds_before}/")
        disk.fill()
    gave_up(server, log)
    gave_up(federation.serve(*run), log)  # there is no room yet
    disk.make_room()
    ended_well(federation, federation.serve(*run))


# A release that cannot be noted is the ledger's matter: tests/test_ledger.py.
@pytest.mark.slow
@pytest.mark.parametrize("left", [0, PAGE], ids=["no round is noted", "no answer is kept"])
def test_an_institution_whose_disk_is_full_stops_and_goes_on_once_there_is_room(
    on_a_small_disk: Make, left: int
) -> None:
    hospital, other = TWO
    federation, disk = on_a_small_disk("lepton-client", f"client {hospital}")
    server = federation.gather(TWO, *SETTINGS, "output=out", "round_s=300", "grace_s=90")
    client, log = federation.client(hospital, *PUBLIC), federation.folder / f"{hospital}.log"
    federation.wait_for("server.log", f"{hospital} connected")
    disk.fill(left)
    federation.client(other, *PUBLIC)
    assert "nothing was released" in gave_up(client, log)
    assert not [path for path in (disk.folder / "spool").glob("*") if path.stat().st_size > REPLY_BYTES]
    gave_up(federation.client(hospital, *PUBLIC), log)  # there is no room yet
    disk.make_room()
    federation.client(hospital, *PUBLIC)
    ended_well(federation, server)
