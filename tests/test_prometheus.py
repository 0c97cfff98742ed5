"""Figures for Prometheus: on loopback, read when asked for, gone with the block."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lepton_fl.errors import ConfigError
from lepton_fl.prometheus import Figure, check_port, served


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_figures_are_read_at_each_request(port: int) -> None:
    now = {"round": 1.0}

    def read() -> Iterator[Figure]:
        yield Figure("lepton_round", "the last round", now["round"])

    with served(port, read):
        assert "\nlepton_round 1.0\n" in scrape(port)
        now["round"] = 2.0
        assert "\nlepton_round 2.0\n" in scrape(port)


def test_names_labels_and_kinds_are_prometheus_own(port: int) -> None:
    figures = [
        Figure("lepton_sent_bytes_total", "sent", 3),
        Figure("lepton_epsilon_spent", "spent", 0.5, {"unit": 'rec"ord'}),
    ]
    with served(port, lambda: figures):
        families = {family.name: family for family in text_string_to_metric_families(scrape(port))}
    assert families["lepton_sent_bytes"].type == "counter"
    assert families["lepton_epsilon_spent"].type == "gauge"
    (sample,) = families["lepton_epsilon_spent"].samples
    assert (sample.labels, sample.value) == ({"unit": 'rec"ord'}, 0.5)
    assert families["lepton_info"].samples[0].labels["version"]
    assert "process_resident_memory_bytes" in families
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in families)


def test_a_taken_port_is_refused_before_the_block(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match=r"nothing was started; choose another metrics_port"), served(port, list):
            pytest.fail("the block was entered")


def test_after_the_block_nobody_answers(port: int) -> None:
    with served(port, list):
        scrape(port)
    with pytest.raises(urllib.error.URLError):
        scrape(port)


def test_nothing_outside_of_this_machine_can_ask(port: int) -> None:
    with served(port, list), socket.socket() as probe:
        # Another address of this machine: loopback is a whole /8, and 127.0.0.1 alone was bound.
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_without_a_port_nothing_listens() -> None:
    with served(None, list):
        pass


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="metrics_port"):
        check_port(port)
