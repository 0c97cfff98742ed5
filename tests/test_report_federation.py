"""Four hospitals' own processes, one run, its report: made, checked on both sides, opened in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from federations import HOSPITALS, Federation
from report_folder import figures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation whose run has ended, with its report in `out`."""
    made = Federation(tmp_path_factory.mktemp("federation"))
    try:
        server = made.gather(HOSPITALS, "rounds=2", "output=out")
        for hospital in HOSPITALS:
            made.client(hospital)
        assert server.wait(120) == 0, (made.folder / "server.log").read_text()
        done = made.call("lepton-server", "report", "--home", "server")
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.end()


def test_both_sides_find_the_report_as_it_was_signed(reported: Federation) -> None:
    given = ("out/log.json", "--report", "out/report.json", "--model", "out/model.safetensors")
    for command in (
        ("lepton-server", "verify", *given, "--home", "server"),
        ("lepton-client", "verify", *given, "--home", f"client {HOSPITALS[0]}"),
    ):
        done = reported.call(*command)
        assert done.returncode == 0, done.stderr
        assert "is as it was signed and entered" in done.stdout


def test_the_figures_of_the_run_stand_in_the_log(reported: Federation) -> None:
    document = json.loads((reported.folder / "out" / "report.json").read_bytes())
    found = {one.get("id"): one for one in figures(document)}
    entries = [json.loads(one) for one in json.loads((reported.folder / "out" / "log.json").read_bytes())["entries"]]
    for name, kind in (("verdict.epsilon", "run-ended"), ("model.file", "run-ended"), ("model.contract", "run")):
        assert entries[found[name]["log_index"]]["kind"] == kind
    assert found["model.file"]["value"] == reported.result()["model_sha256"]


def test_a_browser_opens_it(reported: Federation) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium here; apt-get install chromium")
    page = (reported.folder / "out" / "report.html").absolute()
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    profile = f"--user-data-dir={reported.folder / 'profile'}"
    done = subprocess.run([chromium, *flags, profile, "--dump-dom", page.as_uri()], capture_output=True, text=True,
                          timeout=120, check=True)  # fmt: skip
    assert all(hospital in done.stdout for hospital in HOSPITALS)
    assert "<script" not in done.stdout
