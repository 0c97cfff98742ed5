"""`status` on both sides: what real processes left in their homes, while they run and after they ended."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from federations import BIN, PATIENCE_S, PLAIN, PUBLIC, Federation, call
from lepton_client.home import Home as ClientHome
from lepton_client.ledger import Ledger
from lepton_client.standing import Joined, Known, Promise, Standing, read
from lepton_client.status import Found as ClientFound
from lepton_client.status import lines as client_lines
from lepton_client.status import look as client_look
from lepton_client.status import status as client_status
from lepton_server.home import Addresses
from lepton_server.presence import Seen
from lepton_server.runs import Asked, StoredRound, StoredRun
from lepton_server.status import Found, Members, lines, status
from lepton_server.store import Institution, Invited

from lepton_fl.federation.journal import RoundReport
from lepton_fl.files import Holder, holder, is_in_use, only_process
from lepton_fl.show import ago

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def said(federation: Federation, name: str, home: str, *options: str) -> str:
    done = call(name, "status", "--home", home, *options, cwd=federation.folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def server_says(federation: Federation) -> Any:
    return json.loads(said(federation, "lepton-server", "server", "--json"))


def client_says(federation: Federation, hospital: str) -> Any:
    return json.loads(said(federation, "lepton-client", f"client {hospital}", "--json"))


def until(look: Any, is_so: Any) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if is_so(found):
            return found
    raise AssertionError(f"it never was so: {found}")


def states(found: Any) -> dict[str, str]:
    return {one["institution"]: one["state"] for one in found["institutions"]}


def recent(text: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(minutes=5)


def enrolled(federation: Federation, *hospitals: str) -> None:
    for hospital in hospitals:
        assert federation.enroll(hospital, federation.invite(hospital)).returncode == 0


def test_before_anything_happened_there_is_nobody_and_no_run(federation: Federation) -> None:
    found = server_says(federation)
    assert (found["run"], found["institutions"]) == (None, [])
    assert (found["server"]["is_running"], found["server"]["process"]) == (False, None)
    table = said(federation, "lepton-server", "server")
    assert "not running" in table
    assert "nobody was invited yet; lepton-server invite NAME" in table
    for name in ("lepton-server", "lepton-client"):
        nowhere = call(name, "status", "--home", "nowhere", cwd=federation.folder)
        assert nowhere.returncode == 2
        assert nowhere.stderr.startswith("error: nowhere is not a")
    assert not (federation.folder / "nowhere").exists()


def test_who_looks_at_a_server_waits_for_no_heavy_library() -> None:
    loaded = "import sys, lepton_server.verbs, lepton_server.status, lepton_server.report, lepton_server.feedback"
    told = "print(*{'torch', 'flwr', 'hydra', 'omegaconf', 'pyarrow', 'dp_accounting'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{loaded}; {told}"], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def shows_a_run_at_hungary(found: Any, process: int) -> None:
    assert (found["institution"], found["agent"]["process"]) == ("Hungary", process)
    assert found["connection"]["is_connected"]
    assert found["connection"]["address"].startswith("127.0.0.1:")
    assert recent(found["connection"]["since"])
    assert recent(found["connection"]["last_heard"])
    assert found["certificate"]["renews"] < found["certificate"]["ends"]
    run = found["run"]
    assert (run["title"], run["rounds_planned"]) == ("heart disease, four hospitals", 5000)
    assert run["round"] >= 3
    assert 0 < run["spent"]["epsilon"] < run["spent"]["epsilon_budget"] == 1


@pytest.mark.slow
def test_a_run_is_seen_from_both_sides_until_its_server_is_killed(federation: Federation) -> None:
    server = federation.serve("rounds=5000", "institutions=2", PLAIN, "output=out")
    federation.wait_for("server.log", "waiting for 2 institutions")
    assert said(federation, "lepton-server", "server").splitlines()[0].endswith("; waiting for institutions")
    enrolled(federation, "Cleveland", "Hungary", "VA Long Beach")
    assert "run         none yet" in said(federation, "lepton-client", "client Hungary")
    federation.invite("Switzerland")
    assert call("lepton-server", "revoke", "VA Long Beach", "--home", "server", cwd=federation.folder).returncode == 0
    clients = {hospital: federation.client(hospital) for hospital in ("Cleveland", "Hungary")}
    federation.wait_for("server.log", "round    3/5000")

    found = server_says(federation)
    assert (found["server"]["is_running"], found["server"]["process"]) == (True, server.pid)
    run = found["run"]
    assert (run["task"], run["state"]) == ("heart disease, four hospitals", "running")
    assert (run["model"], run["strategy"]) == ("logistic", "fedavg")
    assert 3 <= run["rounds_done"] <= run["round"] <= run["rounds_planned"] == 5000
    assert (run["cohort"], run["replied"], run["not_private_because"]) == (2, 2, None)
    assert (run["spent"]["unit"], run["spent"]["epsilon_budget"], run["spent"]["delta"]) == ("record", 1.0, 1e-4)
    assert 0 < run["spent"]["epsilon"] < 1
    assert states(found) == {
        "Cleveland": "connected", "Hungary": "connected", "Switzerland": "invited", "VA Long Beach": "revoked",
    }  # fmt: skip
    members = {one["institution"]: one for one in found["institutions"]}
    assert all(recent(members[name]["last_seen"]) for name in clients)
    assert all(members[name]["rounds_answered"] >= 3 for name in clients)
    assert members["Switzerland"]["certificate_ends"] is None
    assert datetime.fromisoformat(members["Cleveland"]["certificate_ends"]) > datetime.now(UTC) + 29 * DAY

    found = client_says(federation, "Hungary")
    shows_a_run_at_hungary(found, clients["Hungary"].pid)
    before = found["run"]["round"]
    assert (federation.folder / "client Hungary" / "status.json").stat().st_mode & 0o777 == 0o600

    clients["Hungary"].send_signal(signal.SIGTERM)
    assert clients["Hungary"].wait(PATIENCE_S) == 0
    found = until(lambda: server_says(federation), lambda found: states(found)["Hungary"] == "away")
    assert states(found)["Cleveland"] == "connected"
    found = client_says(federation, "Hungary")
    assert (found["agent"]["is_running"], found["connection"]["is_connected"]) == (False, False)
    assert found["run"]["round"] >= before

    os.kill(server.pid, signal.SIGKILL)
    server.wait(PATIENCE_S)
    found = server_says(federation)
    assert (found["server"]["is_running"], found["run"]["state"]) == (False, "interrupted")
    assert set(states(found).values()) == {"away", "invited", "revoked"}
    table = said(federation, "lepton-server", "server")
    assert "server      not running" in table
    assert "the same lepton-server run continues it" in table
    found = until(
        lambda: client_says(federation, "Cleveland"), lambda found: "trying on by itself" in found["connection"]["news"]
    )
    assert (found["agent"]["is_running"], found["connection"]["is_connected"]) == (True, False)


@pytest.mark.slow
def test_after_a_run_both_sides_say_what_it_cost(federation: Federation) -> None:
    server = federation.serve("rounds=2", "institutions=1", PLAIN, "output=out")
    federation.wait_for("server.log", "waiting for 1 institution")
    enrolled(federation, "Cleveland")
    client = federation.client("Cleveland")
    assert server.wait(PATIENCE_S) == 0
    federation.wait_for("Cleveland.log", "the run is finished")
    client.kill()
    client.wait(PATIENCE_S)
    result = json.loads((federation.folder / "out" / "result.json").read_text())

    run = server_says(federation)["run"]
    assert (run["state"], run["round"], run["rounds_done"]) == ("finished", 2, 2)
    assert run["spent"]["epsilon"] == result["epsilon"]
    assert run["output"] == str(federation.folder / "out")
    found = client_says(federation, "Cleveland")
    assert (found["agent"]["is_running"], found["connection"]["is_connected"]) == (False, False)
    assert (found["run"]["round"], found["run"]["is_answered"], found["replies_waiting"]) == (2, True, 0)
    assert found["run"]["spent"]["epsilon"] == result["epsilon"]
    table = said(federation, "lepton-client", "client Cleveland")
    assert "agent       not running" in table
    assert "round       2 of 2 begun here, answered" in table
    reason = "not evaluated: it declined: noised-counts may not leave"
    assert reason in said(federation, "lepton-server", "server")
    assert f"epsilon     {result['epsilon']:.2f} of 1.00 per record at delta 0.0001, this run" in table
    assert f"budget      {result['epsilon']:.2f} of 1.00 per record at delta 0.0001, all runs on heart" in table


@pytest.mark.slow
def test_a_seeded_run_has_no_epsilon_on_either_side(federation: Federation) -> None:
    server = federation.serve("rounds=2", "institutions=1", "seed=1", PLAIN, "output=out")
    federation.wait_for("server.log", "waiting for 1 institution")
    enrolled(federation, "Cleveland")
    federation.client("Cleveland", *PUBLIC)
    assert server.wait(PATIENCE_S) == 0
    assert server_says(federation)["run"]["spent"] is None
    assert "epsilon     not private (seed=1)\n" in said(federation, "lepton-server", "server")
    assert client_says(federation, "Cleveland")["run"]["spent"] is None
    assert "epsilon     not private\n" in said(federation, "lepton-client", "client Cleveland")
    listed = call("lepton-server", "institutions", "--home", "server", cwd=federation.folder).stdout
    end = server_says(federation)["institutions"][0]["certificate_ends"]
    assert f"certificate until {datetime.fromisoformat(end):%Y-%m-%d %H:%M} UTC" in listed


def heed_ctrl_c() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, the suite and its children included."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_watched_status_is_looked_up_again_until_ctrl_c(federation: Federation) -> None:
    command = [str(BIN / "lepton-server"), "status", "--home", "server", "--watch", "--json"]
    with subprocess.Popen(
        command,
        cwd=federation.folder,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509
    ) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline())]
        federation.invite("Cleveland")
        while not seen[-1]["institutions"]:
            seen.append(json.loads(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_S) == 0
    assert states(seen[-1]) == {"Cleveland": "invited"}
    assert seen[-1]["at"] > seen[0]["at"]


def test_on_a_terminal_a_watched_table_is_drawn_in_place(federation: Federation) -> None:
    ours, theirs = pty.openpty()
    command = [str(BIN / "lepton-server"), "status", "--home", "server", "--watch"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    watching = subprocess.Popen(
        command,
        cwd=federation.folder,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509
    )
    os.close(theirs)
    drawn = b""
    while drawn.count(b"not running") < 2:
        drawn += os.read(ours, 4096)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(PATIENCE_S) == 0
    os.close(ours)
    assert b"\x1b[2K" in drawn  # the lines of before are erased
    assert b"\x1b[3" not in drawn  # and nothing is coloured


# What the records mean, without processes

SETTINGS = {
    "task": {"title": "heart"},
    "model": {"kind": "logistic"},
    "strategy": {"kind": "fedavg"},
    "privacy": {"kind": "record", "epsilon": 1.0, "delta": 1e-4},
    "seed": None,
}
RUN = StoredRun(7, Asked(json.dumps(SETTINGS), "/out", ("elm", "oak"), 10), "open", NOW - 9 * MINUTE, None, "")


def found(**changes: Any) -> Found:
    """Elm and oak connected eight minutes ago to a server that runs for nine, and answered one round."""
    institutions = [Institution(name, 5, NOW - DAY, None) for name in ("elm", "oak")]
    seen = [Seen(name, NOW - 8 * MINUTE, None, NOW - timedelta(seconds=3)) for name in ("elm", "oak")]
    members = Members(institutions, seen, {"elm": NOW + DAY, "oak": NOW + DAY}, [])
    report = RoundReport(1, ("elm", "oak"), ("elm",), {"oak": "its update is not finite"}, epsilon=0.42)
    rounds = [
        StoredRound(0, {}, b"", RoundReport(0), None),
        StoredRound(1, {}, b"", report, report),
        StoredRound(2, {}, None, None, None),
    ]
    whole = Found(Holder(12, NOW - 9 * MINUTE), Addresses(("fl",), 9410, 9411), members, RUN, rounds)
    return replace(whole, **changes)


def test_the_table_has_a_line_for_each_institution_and_why_it_was_left_out() -> None:
    text = lines(status(found(), NOW))
    assert text[1:4] == [
        "run         heart: logistic, fedavg; running, begun 2026-03-01 11:51 UTC",
        "round       2 of 10 begun, 1 done; in the last of them 1 of 2 replied",
        "epsilon     0.42 of 1.00 per record at delta 0.0001",
    ]
    assert text[-3:] == [
        "institution  state      last seen   certificate ends      answered",
        "elm          connected  3 s ago     2026-03-02 12:00 UTC         1",
        "oak          connected  3 s ago     2026-03-02 12:00 UTC         0  left out: its update is not finite",
    ]


def test_a_stream_to_an_earlier_server_does_not_count_as_connected() -> None:
    killed = status(found(holder=Holder(13, NOW - 7 * MINUTE)), NOW)
    assert {(one.state, one.since) for one in killed.institutions} == {("away", None)}
    nobody = status(found(holder=None), NOW)
    assert {one.state for one in nobody.institutions} == {"away"}


def test_a_member_whose_certificate_ended_shows_its_new_invitation() -> None:
    members = found().members
    invited = replace(
        members,
        seen=[Seen("elm", NOW - DAY, NOW - DAY + MINUTE, NOW - DAY), Seen("oak", None, None, None)],
        certificate_ends={"elm": NOW - MINUTE, "oak": NOW + DAY},
        invitations=[Invited("ash", NOW + DAY, None), Invited("elm", NOW + DAY, None)],
    )
    text = lines(status(found(members=invited), NOW))
    assert [line.split()[:2] for line in text[-3:]] == [["ash", "invited"], ["elm", "away"], ["oak", "away"]]
    assert "invitation until 2026-03-02 12:00 UTC; certificate ended" in text[-2]


def test_a_run_without_privacy_says_so_instead_of_an_epsilon() -> None:
    asked = replace(RUN.asked, settings=json.dumps({**SETTINGS, "privacy": {"kind": "none"}}))
    shown = status(found(run=replace(RUN, asked=asked)), NOW)
    assert shown.run is not None
    assert shown.run.spent is None
    assert "epsilon     not private (privacy=none)" in lines(shown)


@pytest.mark.parametrize(
    ("past", "said"),
    [(-5, "0 s ago"), (3, "3 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (86400, "1 d ago"), (10**6, "11 d ago")],
)
def test_how_long_ago_is_said_in_one_unit(past: int, said: str) -> None:
    assert ago(NOW - timedelta(seconds=past), NOW) == said
    assert ago(None, NOW) == "never"


JOINED = Joined(7, "heart", 10, Promise("record", 1.0, 1e-4, 17.45, 1.0, 3))


def ledger_in(folder: Path) -> Ledger:
    return Ledger.open(folder / "ledger", lambda: NOW)


def test_what_an_agent_knew_outlives_it_but_not_its_connection(tmp_path: Path) -> None:
    standing = Standing(tmp_path, ledger_in(tmp_path))
    standing.calls("fl:9410")
    standing.heard()
    standing.joined(JOINED)
    assert read(tmp_path) == standing.known
    after = Standing(tmp_path, ledger_in(tmp_path)).known
    assert (after.connected_at, after.run, after.address) == (None, JOINED, "fl:9410")
    assert after.heard_at == standing.known.heard_at


def test_being_heard_is_not_written_down_each_time_and_the_end_of_a_stream_is(tmp_path: Path) -> None:
    standing = Standing(tmp_path, ledger_in(tmp_path))
    standing.calls("fl:9410")
    standing.heard()
    written = (tmp_path / "status.json").stat().st_ino, (tmp_path / "status.json").read_text()
    for _ in range(100):
        standing.heard()
    assert ((tmp_path / "status.json").stat().st_ino, (tmp_path / "status.json").read_text()) == written
    standing.left()
    standing.heard()  # a last frame, read when the stream was over
    assert read(tmp_path).connected_at is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"run": 3}', '{"run": null, "connected_at": 5, "heard_at": 1}'])
def test_a_damaged_status_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    assert read(tmp_path) == Known()


def test_looking_at_a_home_changes_nothing_in_it(tmp_path: Path) -> None:
    shown = client_look(ClientHome(tmp_path, "elm", ("fl:9410",)), NOW)
    assert list(tmp_path.iterdir()) == []
    assert client_lines(shown)[:4] == [
        "institution elm",
        "agent       not running",
        "connected   no; last heard never",
        "certificate cannot be read; lepton-client check says more",
    ]


def test_a_title_from_the_operator_cannot_steer_the_terminal() -> None:
    known = Known(run=replace(JOINED, title="heart\x1b[2Jof\n"), news="gone\x07")
    shown = client_status(ClientFound("elm", Holder(1, NOW), known, None, None, None, 0), NOW)
    assert all(line.isprintable() for line in client_lines(shown))


def test_looking_keeps_no_process_from_starting(tmp_path: Path) -> None:
    lock, is_over = tmp_path / "lock", threading.Event()

    def look() -> None:
        while not is_over.is_set():
            is_in_use(lock)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(200):
            with only_process(lock):
                found = holder(lock)
                assert found is not None
                assert found.process == os.getpid()
    finally:
        is_over.set()
        looking.join()
