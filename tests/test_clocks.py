"""A federation whose sides do not agree on the time, as real processes; one side's clock is shifted for it alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federations import PATIENCE_S, PLAIN, PUBLIC, Federation

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("shifted_clock.c")
HOUR_S = 3600
COMPILER = shutil.which("cc")

Shifted = Callable[[str, int], Federation]


@pytest.fixture
def shifted(tmp_path: Path) -> Iterator[Shifted]:
    """Makes a federation in which one program's clock is so many seconds ahead, from the first command on."""
    if COMPILER is None:
        pytest.skip("no C compiler, with which a process gets a clock of its own")
    library = tmp_path / "shifted_clock.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    made: list[Federation] = []

    def make(program: str, ahead_s: int) -> Federation:
        own_clock = ["env", f"LD_PRELOAD={library}", f"SHIFT_S={ahead_s}"]
        asked = subprocess.check_output([*own_clock, sys.executable, "-c", "import time; print(time.time())"])
        if abs(float(asked) - time.time() - ahead_s) > 60:
            pytest.skip("this Python does not ask the C library for the time")
        made.append(Federation(tmp_path, {program: own_clock}))
        return made[0]

    yield make
    for federation in made:
        federation.end()


@pytest.mark.parametrize("program", ["lepton-server", "lepton-client"])
def test_with_one_side_an_hour_ahead_enrolment_and_a_run_work(shifted: Shifted, program: str) -> None:
    federation = shifted(program, HOUR_S)
    server = federation.gather(["Cleveland"], "rounds=2", "seed=1", PLAIN, "output=out")
    federation.client("Cleveland", *PUBLIC)
    assert server.wait(PATIENCE_S) == 0
    assert federation.result()["model_sha256"] == federation.simulated(["Cleveland"], "rounds=2", "seed=1", PLAIN)


def test_an_enrolment_with_clocks_three_hours_apart_says_that_the_clock_is_wrong(shifted: Shifted) -> None:
    federation = shifted("lepton-server", 3 * HOUR_S)
    invitation = federation.invite("Cleveland")
    federation.serve("rounds=1")
    federation.wait_for("server.log", "waiting for 1 institution")
    enrolled = federation.enroll("Cleveland", invitation)
    assert enrolled.returncode == 8
    assert enrolled.stderr.startswith("error: the certificate of the server at 127.0.0.1:")
    assert "not valid at this machine's time; the secret was not sent; compare" in enrolled.stderr
    assert len(enrolled.stderr.splitlines()) == 1
