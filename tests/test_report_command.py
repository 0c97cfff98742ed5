"""`lepton-server report` from the command line: files, log, and every mistake in one line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import report_folder
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from lepton_client.main import main as client_main
from lepton_server.home import Addresses, Home, init
from lepton_server.log import Log
from lepton_server.main import main
from lepton_server.runs import Asked, Runs
from lepton_server.store import Store
from report_folder import NAMES

from lepton_fl.evidence import log_bundle, log_entries, model_facts
from lepton_fl.evidence.report_check import Files, check, check_with, read

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = init(tmp_path / "home", "test", Addresses(("localhost",), 9410, 9411), NOW)
    Store(made.database).close()
    return made


@pytest.fixture
def folder(tmp_path: Path, home: Home) -> Path:
    """The results of a run that ended."""
    path = report_folder.write(tmp_path / "run")
    runs = Runs(home.database)
    run = runs.begin(Asked("{}", str(path), NAMES, 2), NOW)
    runs.end(run.run_id, "finished", "", NOW)
    runs.close()
    return path


def report(monkeypatch: pytest.MonkeyPatch, home: Home, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["lepton-server", "report", "--home", str(home.path), *arguments])
    main()


def files(folder: Path, log: Path) -> Files:
    names = ("report.json", "report.json.sig", "report.html", "model_card.md")
    content, signature, page, card = ((folder / name).read_bytes() for name in names)
    return Files(content, signature, page, card, report_folder.MODEL, log.read_bytes())


def key(home: Home) -> Ed25519PublicKey:
    log = Log(home)
    try:
        return Ed25519PublicKey.from_public_bytes(log.public)
    finally:
        log.close()


def test_both_editions_are_written_signed_and_entered_in_the_log(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, home, "--final")
    report(monkeypatch, home, "--edition", "public")
    said = capsys.readouterr().out.splitlines()
    assert "consortium edition, final" in said[0]
    assert "public edition, draft" in said[1]
    for made in (folder, folder / "public"):
        assert check(files(made, folder / "log.json"), key(home)) == []
    entries = [json.loads(one) for one in log_bundle.read((folder / "log.json").read_bytes()).entries]
    reports = [one["fields"] for one in entries if one["kind"] == "report"]
    assert [(one["edition"], one["status"]) for one in reports] == [("consortium", "final"), ("public", "draft")]


def test_a_report_whose_hash_is_not_in_the_log_is_found(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path
) -> None:
    log = Log(home)
    before = log.bundle().to_bytes()
    log.close()
    report(monkeypatch, home, "--run", str(_run(home)))
    (folder / "before.json").write_bytes(before)
    found = check(files(folder, folder / "before.json"), key(home))
    assert [(one.file, one.what) for one in found] == [("log.json", "none of them is of this report")]


def test_with_a_verified_log_the_report_is_checked_against_the_key_that_signed_then(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path
) -> None:
    report(monkeypatch, home, "--edition", "public")
    (home.path / "log.key").unlink()
    report(monkeypatch, home)  # another key, which the log tells everybody
    content = (folder / "log.json").read_bytes()
    entries = [log_entries.read(one) for one in log_bundle.read(content).entries]
    assert [one.kind for one in entries].count("log-key") == 2
    for made in (folder, folder / "public"):
        assert check_with(read(made / "report.json", content), entries) == []
    (folder / "model.safetensors").write_bytes(report_folder.MODEL[:-1] + b"\0")
    found = check_with(read(folder / "public" / "report.json", content), entries)
    assert [str(one) for one in found] == [
        "model.safetensors, tensor linear.weight: it is not the model that the report is about"
    ]


def _run(home: Home) -> int:
    runs = Runs(home.database)
    try:
        return runs.all()[0].run_id
    finally:
        runs.close()


def test_the_figures_name_the_entry_of_the_log_they_stand_in(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path
) -> None:
    run = str(_run(home))
    log = Log(home)
    released = {"run": run, "round": 2, "what": "evaluation", "of": "held-out", "epsilon": 0.9876, "delta": 1e-4}
    index = log.append("release", {**released, "sha256": None})
    log.append("release", {**released, "run": "77", "sha256": None})
    log.close()
    (folder / "contract.json").write_text(json.dumps({"run_id": int(run), "terms": {}, "purpose": {}}))
    report(monkeypatch, home)
    found = {one.get("id"): one for one in report_folder.figures(json.loads((folder / "report.json").read_bytes()))}
    assert found["verdict.accuracy"]["log_index"] == index


def test_a_folder_of_a_simulation_is_reported_but_not_logged(
    monkeypatch: pytest.MonkeyPatch, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = report_folder.write(tmp_path / "simulated")
    report(monkeypatch, home, "--folder", str(folder))
    assert "not in the log: it is of no run of this server" in capsys.readouterr().out
    assert not (folder / "log.json").exists()
    names = ("report.json", "report.json.sig", "report.html", "model_card.md")
    assert check(Files(*((folder / name).read_bytes() for name in names)), key(home)) == []


def test_the_template_is_written_once(monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path) -> None:
    (folder / model_facts.NAME).unlink()
    report(monkeypatch, home, "--facts")
    assert (folder / model_facts.NAME).read_text() == model_facts.template()
    with pytest.raises(SystemExit, match="2"):
        report(monkeypatch, home, "--facts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--final"], "are empty; nothing was written; fill in"),
        (["--run", "7"], "there is no run 7; nothing was written; "),
        (["--folder", "nowhere"], "there is no folder nowhere; nothing was written; "),
        (["--edition", "secret"], "invalid choice"),
        (["--run", "7", "--folder", "x"], "not allowed with"),
        (["--final", "--facts"], "not allowed with"),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_no_report(
    monkeypatch: pytest.MonkeyPatch,
    home: Home,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    (folder / model_facts.NAME).unlink()
    with pytest.raises(SystemExit, match="2"):
        report(monkeypatch, home, *arguments)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (folder / "report.json").exists()


def test_verify_takes_a_report_and_names_the_first_place_that_was_changed(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, home)
    command = ["lepton-server", "verify", str(folder / "log.json"), "--home", str(home.path)]
    monkeypatch.setattr("sys.argv", [*command, "--report", str(folder / "report.json")])
    main()
    said = capsys.readouterr().out
    assert "is as it was signed and entered; so is what lies beside it: report.html, model_card.md" in said
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").write_bytes(page.replace(b"0.800", b"0.900", 1))
    with pytest.raises(SystemExit, match="12"):
        main()
    assert f"report.html, byte {page.index(b'0.800') + 2}: it is not what was signed" in capsys.readouterr().err


def test_whoever_has_no_log_checks_a_report_against_a_key(
    monkeypatch: pytest.MonkeyPatch, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(monkeypatch, home, "--edition", "public")
    hex_key = key(home).public_bytes_raw().hex()
    assert hex_key in (folder / "public" / "report.json").read_text()
    capsys.readouterr()
    command = ["lepton-client", "verify", "--report", str(folder / "public" / "report.json"), "--key"]
    monkeypatch.setattr("sys.argv", [*command, hex_key])
    client_main()
    assert "is as the holder of this key signed it" in capsys.readouterr().out
    for other, code in ((bytes(32).hex(), "12"), ("ab", "2")):
        monkeypatch.setattr("sys.argv", [*command, other])
        with pytest.raises(SystemExit, match=code):
            client_main()
