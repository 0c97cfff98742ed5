"""Feedback and release, as an operator types them: kept at home, shown in the folder, in the log without a name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lepton_server import home as server_home
from lepton_server.home import Home
from lepton_server.log import Log
from lepton_server.main import main
from lepton_server.runs import Asked, Runs

from lepton_fl.evaluation.gates import HELD_MODEL, MODEL, Gates, Spent, judge, release
from lepton_fl.evidence.log_entries import read

NAME, ABOUT = "the head of cardiology", "misses women over 70"


class Place:
    """An operator's home with one finished run."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = path / "out"
        self.folder.mkdir()
        now = datetime.now(UTC)
        self.home: Home = server_home.init(
            path / "home", "cardiology", server_home.Addresses(("127.0.0.1",), 9410, 9411), now
        )
        runs = Runs(self.home.database)
        self.run = str(runs.begin(Asked("{}", str(self.folder), ("elm",), planned=1), now).run_id)
        runs.close()
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def type(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of one command."""
        self._monkeypatch.setattr("sys.argv", ["lepton-server", *arguments, "--home", str(self.home.path)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(str(stop.code))
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def logged(self, kind: str) -> list[Any]:
        """The fields of every entry of this kind."""
        log = Log(self.home)
        try:
            found = [read(content) for content in log.bundle().entries]
            assert NAME.encode() not in b"".join(log.bundle().entries)
        finally:
            log.close()
        return [one.fields for one in found if one.kind == kind]

    def hold(self) -> None:
        """The run's model fails a gate."""
        (self.folder / MODEL).write_bytes(b"a model")
        limits: dict[str, float | None] = dict.fromkeys(Gates.__dataclass_fields__, None)
        release(self.folder, judge(Gates(**{**limits, "epsilon": 0.5}), None, Spent(1.0, None)))


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, capsys, monkeypatch)


def test_feedback_is_open_until_it_is_answered(place: Place) -> None:
    opening = ("feedback", "open", place.run, "--kind", "unfair", "--about", ABOUT, "--by", NAME)
    assert place.type(*opening)[0] == 0
    assert place.type("feedback", "open", place.run[:8], "--kind", "question", "--about", "why 20 %?")[0] == 0
    assert place.type("feedback", "close", "f1", "--resolution", "trained again")[0] == 0
    listed = place.type("feedback", "list")[1].splitlines()
    assert [line.split()[:2] for line in listed] == [["f2", "open"], ["f1", "closed"]]
    assert "misses women over 70; answered: trained again" in listed[1]
    (first, second) = json.loads(place.type("feedback", "list", "--json")[1])["feedback"]
    assert (first["by"], first["run"], second["by"]) == (NAME, place.run, None)


def test_the_runs_folder_has_it_for_the_next_report_without_the_name(place: Place) -> None:
    place.type("feedback", "open", place.run, "--kind", "unfair", "--about", ABOUT, "--by", NAME)
    text = (place.folder / "feedback.json").read_text()
    (shown,) = json.loads(text)["feedback"]
    assert (shown["id"], shown["kind"], shown["about"], shown["closed_at"]) == ("f1", "unfair", ABOUT, None)
    assert NAME not in text


def test_the_log_has_what_was_done_and_neither_words_nor_names(place: Place) -> None:
    place.type("feedback", "open", place.run, "--kind", "unfair", "--about", ABOUT, "--by", NAME)
    place.type("feedback", "close", "f1", "--resolution", "trained again")
    opened, closed = place.logged("feedback")
    assert (opened["action"], opened["category"], opened["id"], opened["run"]) == ("open", "unfair", "f1", place.run)
    assert (closed["action"], closed["by"]) == ("close", None)
    log = Log(place.home)
    assert (log.opened(opened["by"]), log.opened(opened["text"])) == (NAME, ABOUT)
    log.close()


def test_what_a_crash_kept_out_of_the_log_gets_there_with_the_next_verb(place: Place) -> None:
    place.type("feedback", "open", place.run, "--kind", "unfair", "--about", ABOUT)
    path = place.home.path / "feedback.json"
    document = json.loads(path.read_text())
    document["feedback"].append({**document["feedback"][0], "id": "f2", "logged": []})
    path.write_text(json.dumps(document))
    place.type("feedback", "open", place.run, "--kind", "other", "--about", "a third")
    assert [one["id"] for one in place.logged("feedback")] == ["f1", "f2", "f3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("feedback", "open", "4711", "--kind", "unfair", "--about", "x"), "4711"),
        (("feedback", "open", "RUN", "--kind", "rude", "--about", "x"), "--kind"),
        (("feedback", "open", "RUN", "--kind", "unfair", "--about", " "), "--about"),
        (("feedback", "open", "RUN"), "--kind"),
        (("feedback", "close", "f9", "--resolution", "x"), "f9"),
        (("feedback", "close", "f9"), "--resolution"),
        (("release", "RUN", "--by", "M", "--reason", "x"), "gates.json"),
        (("release", "RUN", "--by", "M"), "--reason"),
    ],
)
def test_a_mistake_changes_nothing(place: Place, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = place.type(*(place.run if one == "RUN" else one for one in arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (place.home.path / "feedback.json").exists()


def test_a_held_model_is_released_by_a_named_person_and_the_log_says_so(place: Place) -> None:
    place.hold()
    code, _, err = place.type("release", place.run, "--by", NAME, "--reason", "for the trial alone")
    assert (code, "epsilon" in err) == (0, True)
    assert (place.folder / MODEL).read_bytes() == b"a model"
    assert not (place.folder / HELD_MODEL).exists()
    said = json.loads((place.folder / "gates.json").read_text())
    assert (said["verdict"], said["override"]["by"]) == ("overridden", NAME)
    (override,), (gate,) = place.logged("override"), place.logged("gate")
    assert (override["run"], gate["verdict"], gate["failed"]) == (place.run, "overridden", ["epsilon"])
    log = Log(place.home)
    assert log.opened(override["by"]) == NAME
    log.close()
    code, _, err = place.type("release", place.run, "--by", NAME, "--reason", "again")
    assert (code, "already" in err) == (2, True)


def test_a_release_that_was_cut_off_is_finished_by_the_same_command(place: Place) -> None:
    place.hold()
    place.type("release", place.run, "--by", NAME, "--reason", "for the trial alone")
    (place.folder / HELD_MODEL).parent.mkdir()
    (place.folder / MODEL).replace(place.folder / HELD_MODEL)  # as if the power had failed before the move
    assert place.type("release", place.run, "--by", NAME, "--reason", "for the trial alone")[0] == 0
    assert (place.folder / MODEL).exists()
    assert len(place.logged("override")) == len(place.logged("gate")) == 1
