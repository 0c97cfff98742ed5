"""What an administrator meets: logs for machines, metrics, and SIGTERM, with real processes."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from base64 import b64encode

import pytest
from federations import PATIENCE_S, PLAIN, PUBLIC, Federation, free_port
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[str, float]


def scrape(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def scrape_until(port: int, name: str, least: float) -> Samples:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            got = scrape(port)
        except OSError:
            got = {}
        if got.get(name, -1) >= least:
            return got
        time.sleep(0.1)
    raise AssertionError(f"{name} never reached {least}: {got}")


def joined(federation: Federation, *settings: str) -> None:
    """A server was started with these settings and Cleveland takes part, alone."""
    invitation = federation.invite("Cleveland")
    server = federation.serve(PLAIN, *settings)
    federation.wait_for("server.log", "waiting for 1 institution")
    assert server.poll() is None
    assert federation.enroll("Cleveland", invitation).returncode == 0


def secrets_of(federation: Federation, invitation: str) -> list[str]:
    files = {path.name: path for path in federation.folder.rglob("*.key")}
    own_forms = {"ledger.key", "identity.key", "log.key"}
    assert {*files} == {"ca.key", "server.key", "operator.key", "institution.key"} | own_forms
    of_the_ledger = files.pop("ledger.key").read_bytes()
    in_hex = [files.pop(name).read_text().strip() for name in ("identity.key", "log.key")]
    keys = [path.read_text().splitlines()[1] for path in files.values()]
    own = [of_the_ledger, *map(bytes.fromhex, in_hex)]
    return [invitation, "PRIVATE KEY", *(key.hex() for key in own), *(b64encode(key).decode() for key in own), *keys]


@pytest.mark.slow
def test_with_log_json_both_daemons_say_nothing_but_objects_and_no_secret(federation: Federation) -> None:
    invitation = federation.invite("Cleveland")
    server = federation.serve("rounds=2", PLAIN, "output=out", "log=json")
    federation.wait_for("server.log", "waiting for 1 institution")
    assert federation.enroll("Cleveland", invitation).returncode == 0
    client = federation.client("Cleveland", "log=json")
    assert server.wait(PATIENCE_S) == 0
    federation.wait_for("Cleveland.log", "the run is finished")
    client.send_signal(signal.SIGTERM)
    assert client.wait(PATIENCE_S) == 0

    texts = {log: (federation.folder / log).read_text() for log in ("server.log", "Cleveland.log")}
    lines = {log: [json.loads(line) for line in text.splitlines()] for log, text in texts.items()}
    records = [one for one in lines["server.log"] if "event" not in one] + lines["Cleveland.log"]
    for one in records:
        assert {"time", "level", "logger", "message"} <= one.keys()
    assert [one["institution"] for one in records if one["message"] == "Cleveland connected"] == ["Cleveland"]
    assert [one["institution"] for one in records if one["message"].startswith("joined a run")] == ["Cleveland"]
    assert [one["event"] for one in lines["server.log"] if "event" in one] == ["started", "round", "round", "finished"]
    for secret in secrets_of(federation, invitation):
        assert not any(secret in text for text in texts.values())


@pytest.mark.slow
def test_both_daemons_tell_prometheus_how_the_run_stands(federation: Federation) -> None:
    ports = free_port(), free_port()
    joined(federation, "rounds=5000", "output=out", f"metrics_port={ports[0]}")
    waiting = scrape(ports[0])
    assert (waiting["lepton_connected_institutions"], waiting["lepton_sent_bytes_total"]) == (0, 0)
    assert "lepton_round" not in waiting
    client = federation.client("Cleveland", f"metrics_port={ports[1]}")

    server = scrape_until(ports[0], "lepton_round", 3)
    assert server["lepton_connected_institutions"] == server["lepton_run_institutions"] == 1
    assert server["lepton_rounds_planned"] == 5000
    assert server["lepton_replies_used_total"] == server["lepton_round"]
    assert server["lepton_replies_refused_total"] == 0
    assert 0 < server["lepton_epsilon_spent"] < server["lepton_epsilon_budget"] == 1
    assert min(server["lepton_sent_bytes_total"], server["lepton_received_bytes_total"]) > 1000
    institution = scrape_until(ports[1], "lepton_round", 3)
    assert institution["lepton_connected"] == institution["lepton_epsilon_budget"] == 1
    assert 0 <= institution["lepton_last_heard_seconds"] < 60
    assert institution["lepton_rounds_planned"] == 5000
    assert institution["lepton_sent_bytes_total"] > 1000

    client.send_signal(signal.SIGTERM)
    assert client.wait(PATIENCE_S) == 0
    end = time.monotonic() + PATIENCE_S
    while scrape(ports[0])["lepton_connected_institutions"] and time.monotonic() < end:
        time.sleep(0.1)
    assert scrape(ports[0])["lepton_connected_institutions"] == 0


@pytest.mark.slow
def test_a_run_that_is_not_private_tells_no_epsilon(federation: Federation) -> None:
    port = free_port()
    joined(federation, "rounds=5000", "seed=1", "output=out", f"metrics_port={port}")
    federation.client("Cleveland", *PUBLIC)
    assert not [name for name in scrape_until(port, "lepton_round", 1) if "epsilon" in name]


def test_a_taken_metrics_port_stops_the_server_before_it_listens(federation: Federation) -> None:
    federation.invite("Cleveland")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert federation.serve("rounds=1", f"metrics_port={port}").wait(PATIENCE_S) == 2
    said = (federation.folder / "server.log").read_text()
    assert said.startswith(f"error: cannot serve metrics on 127.0.0.1:{port}")
    assert len(said.splitlines()) == 1


def test_a_second_server_on_one_home_is_refused_and_the_first_goes_on(federation: Federation) -> None:
    federation.invite("Cleveland")
    first = federation.serve("rounds=1")
    federation.wait_for("server.log", "waiting for 1 institution")
    second = federation.start("second.log", "lepton-server", "run", "--home", "server")
    assert second.wait(PATIENCE_S) == 9
    said = (federation.folder / "second.log").read_text()
    assert said.startswith(f"error: server is in use by process {first.pid}; nothing was started")
    assert first.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
def test_sigterm_ends_a_run_with_a_goodbye_whole_files_and_one_line(federation: Federation, times: int) -> None:
    joined(federation, "rounds=5000", "output=out")
    federation.client("Cleveland")
    federation.wait_for("server.log", "round    3/5000")
    server = federation.processes[0]
    for _ in range(times):
        server.send_signal(signal.SIGTERM)
        time.sleep(0.05)

    assert server.wait(PATIENCE_S) == 11
    said = (federation.folder / "server.log").read_text()
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("error:")] == [said.splitlines()[-1]]
    assert said.splitlines()[-1].startswith("error: stopped by SIGTERM; files already written are whole")
    federation.wait_for("Cleveland.log", "the server was stopped; the run can be continued")
    rounds = [
        json.loads(line)["round"] for line in (federation.folder / "out" / "rounds.jsonl").read_text().splitlines()
    ]
    assert rounds == list(range(1, len(rounds) + 1))
    assert (federation.folder / "out" / "model.safetensors").stat().st_size > 0
    assert not (federation.folder / "out" / "result.json").exists()


def test_sigterm_ends_a_server_that_still_waits_for_institutions(federation: Federation) -> None:
    federation.invite("Cleveland")
    server = federation.serve("rounds=1", "log=json")
    federation.wait_for("server.log", "waiting for 1 institution")
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE_S) == 11
    last = json.loads((federation.folder / "server.log").read_text().splitlines()[-1])
    assert (last["level"], last["exit_code"]) == ("error", 11)
