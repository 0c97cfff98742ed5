"""Who an institution behind a SuperNode is: its home, policy, ledger and data, which it alone names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lepton_client import policy
from lepton_client.considering import Position
from lepton_client.home import Home, open_home
from lepton_client.ledger import Ledger
from lepton_client.ledger_command import ledger_folder
from lepton_client.refused import Declined
from lepton_client.run import position
from lepton_fl.config import register
from lepton_fl.errors import ConfigError
from lepton_fl.files import InUse, only_process
from lepton_fl.tasks.task import DataSource
from lepton_fl.training.device import choose

NAME = "supernode"  # of the YAML
_LOOK_S = 0.2


@dataclass
class SuperNodeConfig:
    """What an institution says of itself where Flower carries its messages; `conf/supernode.yaml` holds the values."""

    home: str | None  # folder of policy, ledger and what was agreed to; there is no default
    institution: str | None  # its name, where the home is not enrolled; null: the enrolled one
    data: DataSource
    policy: str | None  # file; null: HOME/policy.yaml
    ledger: str | None  # folder, shared by all federations that use the same records; null: HOME/ledger
    device: str  # cpu, cuda, cuda:N or auto
    log: str  # text or json
    runtime: str  # host:port of the SuperNode on this machine, of `lepton-client supernode` alone

    def __post_init__(self) -> None:
        if self.log not in ("text", "json"):
            raise ConfigError(f"log must be text or json, got {self.log}")


def register_schemas() -> None:
    """Store every dataclass that the YAML starts from."""
    register(NAME, SuperNodeConfig)


@dataclass(frozen=True)
class Site:
    """An institution behind a SuperNode."""

    home: Home
    source: DataSource
    position: Position
    ledger: Ledger


@contextmanager
def opened(config: SuperNodeConfig, wait_s: float) -> Iterator[Site]:
    """The institution, for as long as this process is the only one that works in its home.

    Args:
        wait_s: for another process to be done, which answers another message.

    Raises:
        InUse: another process does, and goes on to.
        Declined: no home is named.
        ConfigError: it is none, no name, no policy, or one that cannot be understood.
        LedgerDamaged: nothing may be read or sent until a person decides.
    """
    home = home_of(config)
    with _alone(home.lock, wait_s):
        ledger = Ledger.open(ledger_folder(home.path, config.ledger).resolve(), lambda: datetime.now(UTC))
        judged_from = position(policy.place(home.path, config.policy), ledger, choose(config.device))
        yield Site(home, config.data, judged_from, ledger)


def home_of(config: SuperNodeConfig) -> Home:
    """The institution's folder, enrolled with a lepton-server or not; raises `ConfigError` without one, or a name."""
    if not config.home:
        raise Declined(
            "this SuperNode names no home of an institution, so there is no policy and no ledger; no record was read; "
            "the institution has to name one"
        )
    path = Path(config.home).expanduser()
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder; no record was read; name the institution's home")
    enrolled = open_home(path) if (path / "client.json").exists() else None
    if enrolled is None and not config.institution:
        raise ConfigError(
            f"{path} is not enrolled and no institution is named; no record was read; give institution=NAME among the "
            "node's settings"
        )
    if enrolled is not None and config.institution not in (None, enrolled.institution):
        raise ConfigError(
            f"{path} is the home of {enrolled.institution} and institution={config.institution} is another; no record "
            "was read; leave the name out"
        )
    return enrolled or Home(path, str(config.institution), ())


@contextmanager
def _alone(lock: Path, wait_s: float) -> Iterator[None]:
    """Hold the home; the messages of a SuperNode are answered one after the other."""
    until = time.monotonic() + wait_s
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(only_process(lock))
                break
            except InUse:
                if time.monotonic() >= until:
                    raise
                time.sleep(_LOOK_S)
        yield
