"""`log export` and `verify` of both commands, on a home's own log and on files, good and bad."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from federations import call
from lepton_server.log import Log
from lepton_server.verbs import open_home
from logs import MODEL, b64, bundle, federation

from lepton_fl.evidence.log_bundle import read
from lepton_fl.link.certificates import to_pem

MADE = federation()
GOOD = bundle(MADE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("logs")
    (made / "ca.pem").write_bytes(to_pem(MADE.authority.certificate))
    (made / "good.json").write_bytes(GOOD.to_bytes())
    entries = [*GOOD.entries[:5], *GOOD.entries[6:]]
    (made / "bad.json").write_bytes(replace(GOOD, entries=tuple(entries)).to_bytes())
    (made / "model.safetensors").write_bytes(MODEL)
    return made


@pytest.mark.parametrize("name", ["lepton-server", "lepton-client"])
def test_a_good_log_is_told_with_who_signed_what(folder: Path, name: str) -> None:
    done = call(name, "verify", "good.json", "--ca", "ca.pem", "--model", "model.safetensors", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "good        11 entries, from 2026-03-01T12:00:00 to 2026-03-01T12:10:00 UTC"
    assert lines[2] == "signed      the log's own head has 11 entries and agrees"
    assert lines[-1] == "model       model.safetensors is the one that run 7 ended with"


def test_a_bad_log_ends_with_the_documented_code_and_its_first_bad_entry(folder: Path) -> None:
    done = call("lepton-client", "verify", "bad.json", "--ca", "ca.pem", cwd=folder)
    assert done.returncode == 12
    assert done.stdout == ""
    assert done.stderr.startswith("error: the log is not what was signed: entry 5: it is not the entry that was hashed")
    assert done.stderr.count("\n") == 1


def test_another_model_is_told_apart(folder: Path) -> None:
    (folder / "other.safetensors").write_bytes(MODEL + b"\0")
    done = call("lepton-client", "verify", "good.json", "--ca", "ca.pem", "--model", "other.safetensors", cwd=folder)
    assert (done.returncode, "is not a model of this log" in done.stderr) == (12, True)


def test_a_home_has_a_log_from_its_first_day_and_people_in_it_only_as_long_as_they_may(tmp_path: Path) -> None:
    made = call("lepton-server", "init", "--host", "127.0.0.1", "--home", "server", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "server" / "log.key").stat().st_mode & 0o777 == 0o600
    log = Log(open_home(tmp_path / "server"))
    by, reason = log.commit("Ada Lovelace"), log.commit("the consortium agreed")
    assert log.append("override", {"run": "7", "by": by, "reason": reason}, "override/7") == 1
    assert log.append("override", {"run": "7", "by": reason, "reason": by}, "override/7") == 1
    assert log.opened(by) == "Ada Lovelace"
    log.close()
    for code in (0, 2):  # there is nothing to forget a second time
        forgotten = call("lepton-server", "log", "forget", by, "--home", "server", cwd=tmp_path)
        assert forgotten.returncode == code, forgotten.stderr
    log = Log(open_home(tmp_path / "server"))
    assert (log.opened(by), log.opened(reason)) == (None, "the consortium agreed")
    log.close()
    exported = call("lepton-server", "log", "export", "log.json", "--home", "server", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    content = (tmp_path / "log.json").read_bytes()
    assert by.encode() in content
    for hidden in (b"Ada", b64(b"Ada Lovelace").encode(), b"consortium"):
        assert hidden not in content
    assert [len(read(content).entries), len(read(content).leaves)] == [2, 2]
    checked = call("lepton-server", "verify", "--home", "server", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("good        2 entries")
    apart = call("lepton-client", "verify", "log.json", "--ca", "server/ca/ca.pem", cwd=tmp_path)
    assert apart.returncode == 0, apart.stderr


def test_a_key_that_was_replaced_leaves_an_entry(tmp_path: Path) -> None:
    call("lepton-server", "init", "--host", "127.0.0.1", "--home", "server", cwd=tmp_path)
    first = Log(open_home(tmp_path / "server")).public
    (tmp_path / "server" / "log.key").unlink()
    assert Log(open_home(tmp_path / "server")).public != first
    assert Log(open_home(tmp_path / "server")).head().size == 2
    checked = call("lepton-server", "verify", "--home", "server", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    "arguments", [["verify", "nowhere.json"], ["verify", "good.json"], ["verify", "good.json", "--ca", "good.json"]]
)
def test_what_cannot_be_checked_is_a_mistake_of_the_caller(folder: Path, arguments: list[str]) -> None:
    done = call("lepton-client", *arguments, "--home", "nowhere", cwd=folder)
    assert (done.returncode, "nothing was checked" in done.stderr) == (2, True)


def test_what_is_no_log_is_no_good_log(folder: Path) -> None:
    done = call("lepton-client", "verify", "ca.pem", "--ca", "ca.pem", cwd=folder)
    assert (done.returncode, "this is no log" in done.stderr) == (12, True)
