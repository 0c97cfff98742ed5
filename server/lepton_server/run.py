"""`lepton-server run`: serve enrolment, wait for the institutions, train, write the results, stop."""

from __future__ import annotations

import logging
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.config import name_of
from lepton_fl.errors import ConfigError
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.terms import RunConfig, register_run, to_json
from lepton_fl.link.certificates import to_pem
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import VOICES
from lepton_fl.run import Names, Prepared, conduct, prepare
from lepton_server.enrolment import Enrolment
from lepton_server.grid import HubGrid, wait_for_members
from lepton_server.home import Home, find, open_home
from lepton_server.hub import Hub, Limits, RunTerms
from lepton_server.serving import Endpoint, Serving
from lepton_server.store import Store

_HEADER_BYTES = 4096  # of one array in a reply, besides its values


@dataclass
class ServerConfig(RunConfig):
    """Every setting of `lepton-server run`; `conf/server.yaml` holds the values."""

    home: str | None  # null: LEPTON_HOME, else ~/.lepton/server
    quorum_s: float  # wait so long for the institutions
    round_s: float  # and so long for the answers of a round
    grace_s: float  # an institution that loses its connection may come back within this time

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("quorum_s", "round_s", "grace_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be a positive number of seconds, got {getattr(self, name)}")


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-server run` starts from."""
    register_run("server", ServerConfig)


def run(config: ServerConfig) -> None:
    """One `lepton-server run`, from the first connection to the goodbye."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    home = open_home(find(config.home))
    hub = Hub(lambda: Store(home.database), Limits(config.quorum_s, config.round_s, config.grace_s))
    serving = Serving(hub, _enrolment(home), _endpoint(home))
    serving.start()
    try:
        _train(config, home, hub)
    except BaseException:
        hub.end_run("the run was stopped by the operator")
        raise
    finally:
        serving.stop()


def _train(config: ServerConfig, home: Home, hub: Hub) -> None:
    voice = VOICES[config.log]()
    members = _gather(config, home, hub)
    prepared = prepare(
        config,
        Names(name_of("task"), name_of("model"), name_of("strategy")),
        sorted(members.values()),
        config.cohort_size,
    )
    run_terms = RunTerms(secrets.randbits(62) + 2, to_json(config), members, _reply_bytes(prepared))
    path = Path(config.output) if config.output else home.path / "runs" / f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
    folder = Folder(path)
    hub.begin_run(run_terms)
    grid = HubGrid(hub, run_terms, config.strategy.least_replies)
    outcome = conduct(prepared, grid, members, (folder, voice))
    hub.end_run("the run is finished")
    voice.finished(outcome, str(path))


def _gather(config: ServerConfig, home: Home, hub: Hub) -> dict[int, str]:
    """Wait until enough institutions are connected; the run's members are those who are enrolled then."""
    store = Store(home.database)
    try:

        def wanted() -> int:
            if config.institutions is not None:
                return config.institutions
            enrolled = [one for one in store.institutions() if one.revoked_at is None]
            return len(enrolled) + len(store.open_invitations(datetime.now(UTC)))

        if wanted() == 0:
            raise ConfigError("nobody was invited yet; nothing was trained; lepton-server invite NAME")
        sys.stderr.write(f"waiting for {wanted()} institutions\n")
        wait_for_members(hub, lambda: len(hub.sessions) >= max(1, wanted()))
        with hub.changed:
            return {node_id: session.member.name for node_id, session in sorted(hub.sessions.items())}
    finally:
        store.close()


def _reply_bytes(prepared: Prepared) -> int:
    """The most that an honest reply's arrays can have."""
    template = template_of(prepared.program.model)
    return 4 * prepared.facts.parameters + _HEADER_BYTES * len(template)


def _enrolment(home: Home) -> Enrolment:
    addresses = [f"{host}:{home.addresses.port}" for host in home.addresses.hosts]
    return Enrolment(lambda: Store(home.database), home.authority(), addresses, lambda: datetime.now(UTC))


def _endpoint(home: Home) -> Endpoint:
    return Endpoint(
        federation=f"[::]:{home.addresses.port}",
        enrolment=f"[::]:{home.addresses.enrolment_port}",
        credentials=home.server_credentials(datetime.now(UTC)),
        ca=to_pem(home.authority().certificate),
    )
