"""Lepton FL as a Flower app: `flwr run deploy/flower`; docs/flower.md.

Under Flower's simulation the nodes are made-up institutions, as under `lepton-sim`. On a SuperNode every message is
refused: real institutions answer `lepton_fl.flower_deployment`.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lepton_fl.config import Composed, compose
from lepton_fl.engines import LOCAL
from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.federation.client_app import client_app as institutions_app
from lepton_fl.federation.flower_offer import unkept, who_am_i
from lepton_fl.federation.journal import NoJournal
from lepton_fl.federation.named_grid import INSTITUTION, named
from lepton_fl.federation.terms import register_run
from lepton_fl.flower import (
    CLIENT_APP_RAISED,
    ClientApp,
    ConfigRecord,
    Context,
    Error,
    Grid,
    Message,
    RecordDict,
    ServerApp,
)
from lepton_fl.flower_ray import is_a_worker
from lepton_fl.logs import say_last
from lepton_fl.plugins import admit_installed, named_in
from lepton_fl.privacy.rounds_spent import refuse_unplanned
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import VOICES
from lepton_fl.run import Carrier, Names, conduct
from lepton_fl.simulation import Plan, SimConfig, plan
from lepton_fl.training.cohort.plan import AUTO

SETTINGS = "settings"  # in Flower's run config: what would be typed after `lepton-sim`
_NUMBER, _OF = "partition-id", "num-partitions"
_SPENT = "rounds-spent"
_WAIT_S = 120.0  # for nodes to come and say who they are

_log = logging.getLogger(__name__)

server_app = ServerApp()
client_app = ClientApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that Flower's run config names; Flower marks the run as failed if it ends with an error."""
    try:
        _conduct(grid, str(context.run_config[SETTINGS]))
    except LeptonError as error:
        say_last(" ".join(str(error).split()), error.exit_code)
        raise


def _conduct(grid: Grid, settings: str) -> None:
    composed = settings_of(settings)
    config = composed.settings
    output = with_whole_output(config)
    planned = _planned(composed)
    carried = named(grid, planned.run.facts.institutions, _WAIT_S, time.sleep)
    carrier = Carrier(carried, carried.names, NoJournal(planned.run.program.randomness), None, None, planned.gates)
    voice = VOICES[config.log]()
    voice.noticed(planned.loaded.warnings)
    outcome = conduct(planned.run, carrier, (Folder(Path(output)), voice))
    voice.finished(outcome, output)


def with_whole_output(config: SimConfig) -> str:
    """The folder of the results; raises `ConfigError` unless it is named from the root on."""
    if config.output is None or not Path(config.output).is_absolute():
        raise ConfigError(
            "output must name a folder from the root on, since Flower runs the app in a folder of its own; nothing was "
            "trained; give output=/FOLDER among the settings"
        )
    return config.output


def settings_of(text: str) -> Composed[SimConfig]:
    """The settings that `lepton-sim` would have with these arguments, refused where Flower cannot uphold them.

    Raises:
        ConfigError: saying what to choose.
    """
    try:
        overrides = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{SETTINGS} cannot be read ({error}); nothing was trained; correct its quotes") from error
    admit_installed(named_in(overrides))
    register_run("sim", SimConfig)
    composed = compose(SimConfig, "sim", overrides)
    config = composed.settings
    reason = unkept(config)
    if reason is None and config.engine != LOCAL:
        reason = "Flower runs the institutions itself", "engine=local"
    elif reason is None and (config.executor, config.chunk, config.workers) != (AUTO, None, None):
        reason = "Flower calls each institution by itself", "executor=auto chunk=null workers=null"
    elif reason is None and config.energy.stop_below is not None:
        reason = "Flower's simulation tells no energy to stop by", "energy.stop_below=null"
    if reason is not None:
        raise ConfigError(f"{reason[0]}; nothing was trained; choose {reason[1]}, or lepton-sim or lepton-server")
    return composed


def _planned(composed: Composed[SimConfig]) -> Plan:
    return plan(composed.settings, Names(*(composed.choices[group] for group in ("task", "model", "strategy"))))


class InContext:
    """See `RoundsSpent`: in what Flower keeps for a node from one message to the next."""

    def __init__(self) -> None:
        self._kept = RecordDict()

    def of(self, context: Context) -> None:
        """From now on it is this node's."""
        self._kept = context.state

    def begin(self, institution: str, round: int, planned: int, of: str = "") -> None:
        """See `RoundsSpent.begin`."""
        noted = self._kept.config_records.get(_SPENT) or ConfigRecord()
        what = f"round {of}".strip()
        refuse_unplanned(round, int(str(noted.get(what, 0))), planned)
        noted[what] = round
        self._kept[_SPENT] = noted


@dataclass(frozen=True)
class _Institutions:
    """Every made-up institution, in one worker process."""

    names: tuple[str, ...]  # sorted: a node's number says which one it is
    app: ClientApp
    spent: InContext


@lru_cache(maxsize=1)
def _institutions(settings: str) -> _Institutions:
    planned = _planned(settings_of(settings))
    sites, spent = {site.institution: site for site in planned.loaded.sites}, InContext()
    program = planned.run.program.on(planned.device)
    return _Institutions(tuple(sorted(sites)), institutions_app(program, sites, spent), spent)


def institution_of(names: tuple[str, ...], node_config: Mapping[str, object]) -> str:
    """Which made-up institution a node is.

    Raises:
        ConfigError: it has no number among as many nodes as there are institutions.
    """
    number, count = (node_config.get(key) for key in (_NUMBER, _OF))
    if not isinstance(number, int) or count != len(names) or not 0 <= number < len(names):
        raise ConfigError(f"node {number} of {count} is none of {len(names)} institutions; nothing was trained")
    return names[number]


def answer(message: Message, context: Context) -> Message:
    """A made-up institution's answer; on a SuperNode a refusal."""
    try:
        if not is_a_worker():
            raise ConfigError(
                "this node is no part of a simulation, and here an institution's policy and ledger would not be "
                "upheld; no record was read; run deploy/supernode on SuperNodes, or take part with lepton-client"
            )
        made = _institutions(str(context.run_config[SETTINGS]))
        name = institution_of(made.names, context.node_config)
        if message.metadata.message_type == "query":
            return Message(who_am_i(name), reply_to=message)
        context.node_config[INSTITUTION] = name
        made.spent.of(context)
        return made.app(message, context)
    except LeptonError as error:
        reason = str(error)
    except Exception as error:
        _log.exception("the node could not answer")
        reason = type(error).__name__
    # An answer, so that Flower keeps what was noted as spent.
    return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)


client_app.train()(answer)
client_app.evaluate()(answer)
client_app.query()(answer)
