"""`lepton-client ledger`: what a privacy officer sees, and that it adds up."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledgers import SHA256, declared, message
from lepton_client.ledger import Ledger
from lepton_client.ledger_command import ledger_folder, main

from lepton_fl.errors import ConfigError
from lepton_fl.privacy.books import Left, Sent, Step

Say = Callable[..., str]


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """What the command prints about the ledger in this test's home."""

    def said(*arguments: str) -> str:
        main([*arguments, "--home", str(tmp_path)])
        return capsys.readouterr().out

    return said


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Two runs of two operators on one data set, over two days."""
    days = iter([datetime(2026, 3, 1, 23, 59, tzinfo=UTC)] * 6 + [datetime(2026, 3, 2, tzinfo=UTC)] * 2000)
    made = Ledger.open(tmp_path / "ledger", lambda: next(days))
    made.declare(declared("one"))
    made.declare(replace(declared("two", Step(6.0, 0.1)), operator="=elsewhere\x1b[31m"))
    made.reserve("one", 1, "a")
    made.left(message("one", 1, "a", size=1000, epsilon=0.25))
    made.settle("one", 1, 2.4)
    made.left(Left("one", 1, "b", "evaluation", 50, SHA256, None, "messages.evaluation"))
    made.closed("one", "first", [Sent("update", 3, 1000), Sent("evaluation", 1, 30), Sent("heartbeat", 2, 8)])
    made.reserve("two", 1, "c")
    made.left(message("two", 1, "c", size=700, epsilon=0.5))
    return made


def test_a_new_home_has_no_ledger_and_looking_makes_none(tmp_path: Path, say: Say) -> None:
    with pytest.raises(ConfigError, match="no ledger yet"):
        say()
    assert not (tmp_path / "ledger").exists()


def test_every_account_is_shown_with_its_unit_relation_delta_cap_and_runs(ledger: Ledger, say: Say) -> None:
    spent = ledger.spent("heart", "record")
    lines = say().splitlines()
    assert lines[0].endswith("9 entries, whole")
    assert lines[2:7] == [
        "data set    heart, per record (add or remove one record)",
        f"epsilon     {spent.epsilon_pld:.2f} of 3.00 at delta 1e-05",
        f"hard stop   {spent.epsilon_rdp:.2f} of 3.00, by the filter that decides from the second run on",
        "spent by    2 rounds of 2 runs, 20 steps",
        "uncovered   1 message left that no epsilon covers",
    ]
    one = ledger.price(declared("three")).epsilon_now
    assert one == spent.epsilon_pld
    assert [line.split()[0] for line in lines[8:]] == ["run", "one", "two"]


def test_what_no_epsilon_covers_is_said_plainly(ledger: Ledger, say: Say) -> None:
    ledger.declare(replace(declared("open", None), unit="none", neighbouring_relation=None))
    ledger.reserve("open", 1, "d")
    assert say().count("epsilon     none covers it: a round was released without a promise") == 2
    accounts = json.loads(say("--json"))["accounts"]
    assert [each["account"]["epsilon_pld"] for each in accounts] == [None, None]


def test_text_of_others_steers_neither_a_terminal_nor_a_spreadsheet(ledger: Ledger, say: Say) -> None:
    ledger.left(replace(message("two", 1, "c"), kind="=cmd()\x1b[2J"))
    assert "\x1b" not in say() + say("--left") + say("--left", "--csv")
    kinds = [row["kind"] for row in csv.DictReader(io.StringIO(say("--left", "--csv")))]
    assert kinds[-1] == "'=cmd()?[2J"


def test_what_left_adds_up_to_what_the_transport_counted(ledger: Ledger, say: Say) -> None:
    """1,000 and 30 of 50 announced bytes, 8 of heartbeats; run two's connection is still open."""
    rows = json.loads(say("--left", "--run", "one", "--json"))
    assert [row["bytes"] for row in rows["left"]] == [1000, 50, 1000 + 30 + 8 - 1050]
    assert (rows["bytes"], rows["bytes_unsettled"]) == (1038, 0)
    everything = json.loads(say("--left", "--json"))
    assert (everything["bytes"], everything["bytes_unsettled"]) == (1738, 700)
    assert "sum         1738 bytes in 3 messages" in say("--left")
    assert "of these 700 at most" in say("--left")


def test_what_left_can_be_asked_for_by_run_and_by_day(ledger: Ledger, say: Say) -> None:
    def of(*choice: str) -> list[int]:
        return [row["n"] for row in json.loads(say("--left", "--json", *choice))["left"]]

    assert of() == [4, 6, 7, 9]
    assert of("--run", "two") == [9]
    assert of("--day", "2026-03-01") == [4, 6]
    assert of("--day", "2026-03-02", "--run", "one") == [7]
    assert of("--run", "three") == []
    assert say("--left", "--day", "2025-01-01") == "nothing left\n"


def test_the_table_is_short_and_the_csv_whole(ledger: Ledger, say: Say) -> None:
    row = say("--left").splitlines()[1].split()
    assert row == ["2026-03-01", "23:59:00", "one", "1", "update", "1000", SHA256[:12], "0.25", "messages.update"]
    rows = list(csv.DictReader(io.StringIO(say("--left", "--csv"))))
    assert rows[0] == {
        "n": "4",
        "at": "2026-03-01T23:59:00+00:00",
        "run": "one",
        "round": "1",
        "kind": "update",
        "message_id": "a",
        "bytes": "1000",
        "sha256": SHA256,
        "epsilon": "0.25",
        "rule": "messages.update",
    }
    assert (rows[1]["epsilon"], rows[2]["kind"]) == ("", "connection")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--run", "one"],
        ["--csv"],
        ["--left", "--day", "1 March"],
        ["--left", "--day", "20260301"],
        ["--left", "--csv", "--json"],
        ["mend"],
        ["verify", "--left"],
        ["accept"],
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_done(ledger: Ledger, say: Say, arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="nothing was"):
        say(*arguments)


def test_the_ledger_is_in_the_home_or_where_it_is_said_to_be(tmp_path: Path) -> None:
    assert ledger_folder(tmp_path, None) == tmp_path / "ledger"
    assert ledger_folder(tmp_path, "/srv/shared") == Path("/srv/shared")


def test_looking_changes_nothing_also_where_a_killed_process_left_a_torn_line(
    tmp_path: Path, ledger: Ledger, say: Say
) -> None:
    lines = tmp_path / "ledger" / "ledger.jsonl"
    torn = lines.read_bytes() + b'{"n":10,'
    lines.write_bytes(torn)
    assert "9 entries, whole" in say()
    assert lines.read_bytes() == torn


def test_verify_ends_with_0_or_with_3_and_the_first_bad_entry(tmp_path: Path, ledger: Ledger) -> None:
    command = [Path(sysconfig.get_path("scripts")) / "lepton-client", "ledger", "verify", "--ledger", "ledger"]
    call = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60, "env": dict(os.environ)}
    whole = subprocess.run(command, check=False, **call)  # type: ignore[call-overload]
    assert (whole.returncode, whole.stdout) == (0, "whole: 9 entries in ledger, each as it was written\n")
    lines = tmp_path / "ledger" / "ledger.jsonl"
    lines.write_bytes(lines.read_bytes().replace(b'"bytes":50', b'"bytes":51'))
    damaged = subprocess.run(command, check=False, **call)  # type: ignore[call-overload]
    assert damaged.returncode == 3
    assert damaged.stderr.startswith("error: the ledger in ledger is damaged: entry 6 was changed; nothing is trained")
    assert damaged.stderr.count("\n") == 1


def test_a_thousand_entries_are_counted(tmp_path: Path, ledger: Ledger, say: Say) -> None:
    for number in range(1000):
        ledger.left(message("one", 1, "a", size=number))
    assert "1009 entries" in say()
