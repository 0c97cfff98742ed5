"""`lepton-client run`: connect, come back after a lost connection, serve run after run until stopped."""

from __future__ import annotations

import logging
import random
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

import grpc
import torch

from lepton_client import policy
from lepton_client.agent import Agent, Own, Reached
from lepton_client.considering import Position
from lepton_client.home import Home, find, open_home
from lepton_client.ledger import Ledger
from lepton_client.ledger_command import ledger_folder
from lepton_client.metrics import figures
from lepton_client.preflight import greeted, local
from lepton_client.refused import Refused
from lepton_client.renewal import HOURLY, kept_renewed
from lepton_client.stream import Ended
from lepton_fl.config import register
from lepton_fl.errors import ConfigError
from lepton_fl.files import only_process
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.logs import set_up
from lepton_fl.prometheus import check_port, served
from lepton_fl.tasks.task import DataSource
from lepton_fl.training.device import choose, describe

_log = logging.getLogger(__name__)
# The longest is well below the server's grace, so that a server that was away finds everybody in time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0
_REASON_S = 5.0  # to find out why there is no connection


@dataclass
class AgentConfig:
    """Every setting of `lepton-client run`; `conf/client.yaml` holds the values."""

    home: str | None  # null: LEPTON_HOME, else ~/.lepton/client
    data: DataSource
    policy: str | None  # file; null: HOME/policy.yaml
    ledger: str | None  # folder, shared by all federations that use the same records; null: HOME/ledger
    device: str  # cpu, cuda, cuda:N or auto
    log: str  # text or json
    metrics_port: int | None  # for Prometheus, on 127.0.0.1; null: none

    def __post_init__(self) -> None:
        if self.log not in ("text", "json"):
            raise ConfigError(f"log must be text or json, got {self.log}")
        check_port(self.metrics_port)


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-client run` starts from."""
    register("client", AgentConfig)


def _nothing(point: str) -> None:
    """Nobody watches the points at which an answer is safe."""


def run(config: AgentConfig, reached: Reached = _nothing) -> None:
    """One `lepton-client run`: until SIGTERM, Ctrl-C, or a refusal.

    Args:
        reached: told each of `POINTS` as it is passed.
    """
    set_up(config.log)
    device = choose(config.device)
    home = open_home(find(config.home))
    if config.device == "auto":
        _say(f"device      {describe(device)}")
    signal.signal(signal.SIGTERM, _stop)
    with only_process(home.lock):
        ledger = Ledger.open(ledger_folder(home.path, config.ledger).resolve(), lambda: datetime.now(UTC), reached)
        judged_from = position(policy.place(home.path, config.policy), ledger, device)
        agent = Agent(home, Own(config.data, judged_from, ledger), reached)
        with served(config.metrics_port, lambda: figures(agent.standing)):
            _serve_run_after_run(agent, home)


def position(file: Path, ledger: Ledger, device: torch.device) -> Position:
    """What contracts are judged from; raises `ConfigError` without a policy, or with a plug-in that changed."""
    agreed = policy.read(file)
    policy.load_plugins(agreed)
    return Position(agreed, policy.approved_tasks(agreed, file), ledger, device)


def _serve_run_after_run(agent: Agent, home: Home) -> NoReturn:
    pause_s, told = _FIRST_PAUSE_S, ""
    while True:
        for address in home.addresses:
            ended = _connect(agent, home, address)
            news = _news(ended, home, address)
            agent.standing.noticed(news)
            if news != told:
                _say(news)
                told = news
            pause_s = _FIRST_PAUSE_S if ended.code is None else min(_LONGEST_PAUSE_S, 1.5 * pause_s)
        # A hundred institutions that lost one server must not come back in the same instant.
        time.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - not for a secret


def _connect(agent: Agent, home: Home, address: str) -> Ended:
    _refuse_unusable(home)
    ca, key, certificate = home.credentials()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)
    with (
        grpc.secure_channel(address, credentials) as channel,
        kept_renewed(channel, home, HOURLY, agent.asks_for_a_certificate),
    ):
        agent.standing.calls(address)
        ended = agent.connect(channel)
    if ended.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
        raise Refused(f"the server at {address} refused: {ended.detail}; nothing more was sent; ask the operator")
    if ended.stay_away:
        raise Refused(f"the server closed this stream: {ended.detail}; nothing was lost; stop one of the two")
    return ended


def _news(ended: Ended, home: Home, address: str) -> str:
    """One line about why the stream ended; the same reason is not repeated."""
    if ended.code is None:
        return f"{ended.detail}; waiting for the next"
    if ended.code == grpc.StatusCode.UNAVAILABLE:
        # gRPC tells a refused client nothing; a handshake of our own tells why.
        found = greeted(home, address, _REASON_S)
        why = found.sentence if found.state == "failed" else f"no connection to {address}"
        return f"{why}; trying on by itself"
    if ended.code == grpc.StatusCode.CANCELLED:
        return f"{ended.detail} from the server at {address}; trying on by itself"
    return f"the server at {address} closed the stream: {ended.detail}; trying on by itself"


def _refuse_unusable(home: Home) -> None:
    """What can be seen here is said here, before the server is asked."""
    for found in local(home, datetime.now(UTC)):
        if found.state == "failed":
            raise BadCertificate(found.sentence)


def _stop(number: int, frame: FrameType | None) -> None:
    _say("stopped; whatever was trained and not yet sent is kept for the next start")
    raise SystemExit(0)


def _say(line: str) -> None:
    _log.info("%s", line)
