"""Lepton FL on a SuperLink with SuperNodes: `flwr run deploy/supernode`; docs/flower.md.

The ServerApp asks every node who it is, offers all of them one contract, and begins when each has taken it. What an
institution answers with is `lepton_client.supernode`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.federation.contract import Contract, Parties, Purpose, offer
from lepton_fl.federation.flower_offer import FEDERATION, agreed_by_all
from lepton_fl.federation.journal import NoJournal
from lepton_fl.federation.named_grid import gathered
from lepton_fl.flower import Context, Grid, ServerApp
from lepton_fl.flower_app import SETTINGS, settings_of, with_whole_output
from lepton_fl.logs import say_last
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import VOICES
from lepton_fl.run import Carrier, Names, Prepared, conduct, prepare

_PURPOSE, _RETENTION, _CONTACT, _LEAST_COHORT = "purpose", "retention-days", "contact", "least-cohort"
_WAIT_S = 300.0  # for nodes to come, to say who they are, and to consider a contract

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that Flower's run config names; Flower marks the run as failed if it ends with an error."""
    try:
        federate(grid, context.run_config)
    except LeptonError as error:
        say_last(" ".join(str(error).split()), error.exit_code)
        raise


def federate(grid: Grid, run_config: Mapping[str, object]) -> None:
    """Carry the run out among the institutions whose nodes are there; raises `LeptonError` before or after a round."""
    composed = settings_of(str(run_config[SETTINGS]))
    config, output = composed.settings, with_whole_output(composed.settings)
    if config.institutions is None:
        raise ConfigError(
            "nobody said how many institutions take part; nothing was trained; give institutions=N among the settings"
        )
    carried = gathered(grid, config.institutions, _WAIT_S, time.sleep)
    names = Names(*(composed.choices[group] for group in ("task", "model", "strategy")))
    prepared = prepare(config, names, sorted(carried.names.values()), config.cohort_size)
    contract = contract_of(prepared, grid.run.run_id, run_config)
    agreed_by_all(carried, contract, _WAIT_S)
    journal = NoJournal(prepared.program.randomness)
    carrier = Carrier(carried, carried.names, journal, contract, None, config.gates)
    voice = VOICES[config.log]()
    outcome = conduct(prepared, carrier, (Folder(Path(output)), voice))
    voice.finished(outcome, output)


def contract_of(prepared: Prepared, run_id: int, run_config: Mapping[str, object]) -> Contract:
    """What every institution is asked to take part under; nobody signs it.

    Raises:
        ConfigError: the purpose or the least cohort is not one.
    """
    days, least = run_config.get(_RETENTION), run_config.get(_LEAST_COHORT)
    if type(days) is not int or type(least) is not int or not 1 <= least <= prepared.federation.cohort_size:
        raise ConfigError(
            f"{_RETENTION} must be whole days and {_LEAST_COHORT} lie between 1 and the "
            f"{prepared.federation.cohort_size} asked in a round; nothing was trained; correct them"
        )
    purpose = Purpose(str(run_config.get(_PURPOSE) or "") or None, days, str(run_config.get(_CONTACT) or ""))
    parties = Parties(prepared.facts.institutions, least, {})
    return offer(prepared.terms, run_id, FEDERATION, parties, purpose)
