"""A hundred institutions at once: everyone is served, and what one costs while nothing happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from alone import Served, Usage
from operators import Operator
from peers import Member, Peer, joined, reply_parts

MANY, IDLE_S = 100, 10.0
MB = 1 << 20


@dataclass(frozen=True)
class Crowd:
    """One server alone in its process, and the streams of all its members."""

    served: Served
    members: list[Member]
    peers: list[Peer]
    alone: Usage  # before the hundred, after a first stream has come and gone
    together: Usage


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    operator = Operator(tmp_path_factory.mktemp("many") / "server")
    first, *members = [operator.admit(f"institution {number}") for number in range(MANY + 1)]
    with Served(operator) as served, ExitStack() as streams:
        with joined(first, operator.port) as peer:
            assert served.works_with(first, peer)
        alone = served.usage()
        peers = [streams.enter_context(joined(member, operator.port)) for member in members]
        yield Crowd(served, members, peers, alone, served.usage())


def test_each_gets_its_own_instruction_and_every_answer_comes_back(crowd: Crowd) -> None:
    began = time.monotonic()
    asked = [crowd.served.ask(member) for member in crowd.members]
    for number, peer in enumerate(crowd.peers):
        message_id = peer.instruction()
        assert message_id == asked[number]
        peer.reply(message_id, reply_parts(number))
    assert [crowd.served.value(message_id) for message_id in asked] == list(range(MANY))
    sys.stdout.write(f"\n{MANY} instructions and {MANY} answers in {time.monotonic() - began:.2f} s\n")


def test_an_idle_institution_costs_less_than_a_megabyte(crowd: Crowd) -> None:
    each = (crowd.together.rss_bytes - crowd.alone.rss_bytes) / MANY
    sys.stdout.write(f"\n{crowd.alone.rss_bytes / MB:.1f} MB alone, {each / MB:.3f} MB more for each institution\n")
    assert crowd.together.sessions - crowd.alone.sessions in (MANY - 1, MANY)
    assert each < MB


@pytest.mark.slow
def test_a_hundred_idle_institutions_leave_the_processor_alone(crowd: Crowd) -> None:
    before = crowd.served.usage()
    time.sleep(IDLE_S)
    after = crowd.served.usage()
    used_s = after.cpu_s - before.cpu_s
    sys.stdout.write(f"\n{used_s:.2f} s of processor time in {IDLE_S:.0f} s with {MANY} idle institutions\n")
    assert after.sessions == before.sessions
    assert used_s < IDLE_S / 10
