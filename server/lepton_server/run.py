"""`lepton-server run`: serve enrolment, wait for the institutions, train, write the results, stop.

A run that was interrupted, by a crash, a stop or a lost quorum, goes on when the same command is given again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.config import name_of
from lepton_fl.energy.summary import Account
from lepton_fl.errors import ConfigError, LeptonError, Stopped, TrainingFailed
from lepton_fl.evaluation.gates import Gates, ModelHeld, refuse_held
from lepton_fl.federation.contract import Contract, digest, from_bytes, to_bytes
from lepton_fl.federation.secure_grid import Cohort, SecureGrid
from lepton_fl.files import only_process
from lepton_fl.flower import Grid
from lepton_fl.link.certificates import to_pem
from lepton_fl.logs import set_up
from lepton_fl.prometheus import served
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Outcome
from lepton_fl.results.terminal import VOICES, Voice
from lepton_fl.run import Carrier, Names, Prepared, among, conduct, prepare
from lepton_fl.secure_aggregation.cohort import threshold
from lepton_fl.show import counted_institutions
from lepton_server.consent import Office
from lepton_server.disk import Records
from lepton_server.energy import OfRun
from lepton_server.enrolment import Enrolment
from lepton_server.grid import HubGrid, Least, wait_for_decisions, wait_for_members
from lepton_server.home import Home, find, open_home
from lepton_server.hub import Hub, Limits
from lepton_server.journal import Place, Reached, RunJournal
from lepton_server.log import Log, log_of
from lepton_server.metrics import Watch
from lepton_server.offering import is_offered, run_terms
from lepton_server.renewal import Renewal
from lepton_server.runs import Asked, Runs, StoredRun
from lepton_server.serving import Endpoint, Serving
from lepton_server.settings import ServerConfig, of_run, refuse_other_settings
from lepton_server.stopping import stopped_by_sigterm
from lepton_server.store import Store
from lepton_server.supervised import enter_gates

_log = logging.getLogger(__name__)


def _nothing(point: str) -> None:
    """Nobody watches the points at which a run is safe."""


def run(config: ServerConfig, reached: Reached = _nothing) -> None:
    """One `lepton-server run`, from the first connection to the goodbye.

    Args:
        reached: told each of `journal.POINTS` as it is passed.
    """
    set_up(config.log)
    home, voice = open_home(find(config.home)), VOICES[config.log]()
    limits = Limits(config.quorum_s, config.round_s, config.grace_s)
    with only_process(home.lock):
        renewal = Renewal(lambda: Store(home.database), home.authority(), _now)
        hub = Hub(lambda: _records(home), limits, renewal, _office(home), lambda: Log(home))
        with served(config.metrics_port, Watch(hub, voice).figures):
            _serve(home, hub, lambda: _train(config, home, hub, (voice, reached)))


def _serve(home: Home, hub: Hub, train: Callable[[], None]) -> None:
    """Listen while the run goes on; whatever ends it, every institution hears a goodbye."""
    serving = Serving(hub, _enrolment(home), _endpoint(home))
    serving.start()
    try:
        with stopped_by_sigterm():
            train()
    except BaseException as error:
        hub.end_run(_last_words(error))
        raise
    finally:
        serving.stop()


def _last_words(error: BaseException) -> str:
    """What institutions hear of a run that ends without results; the reason is the operator's to know."""
    if isinstance(error, Stopped):
        return "the server was stopped; the run can be continued"
    if isinstance(error, ModelHeld):
        return "the run is finished"
    if isinstance(error, LeptonError):
        return "the run ended with an error at the server"
    return "the run was stopped by the operator"


def _train(config: ServerConfig, home: Home, hub: Hub, watchers: tuple[Voice, Reached]) -> None:
    voice, reached = watchers
    runs = Runs(home.database)
    settings = of_run(config)
    unfinished = _unfinished(config, settings, home, runs)
    institutions = _gather(config, home, hub) if unfinished is None else unfinished.asked.institutions
    prepared = prepare(
        config, Names(name_of("task"), name_of("model"), name_of("strategy")), institutions, config.cohort_size
    )
    stored = unfinished or runs.begin(Asked(settings, str(_output(config, home)), institutions, config.rounds), _now())
    place = Place(stored.run_id, home.checkpoints / str(stored.run_id), reached)
    reached("run begun")
    if unfinished is not None and config.is_summed and not is_offered(home, place.run_id):
        # Killed between beginning a run and offering it: the contract pins keys that only who is here can tell.
        _gather_again(hub, institutions, len(institutions), config.grace_s)
    run = run_terms(config, prepared, (place, home, hub))
    contract = from_bytes(run.offered.content)
    energy = hub.energy.begin(
        OfRun(stored.run_id, config.rounds, Path(stored.asked.output), config.energy), is_new=unfinished is None
    )
    hub.begin_run(run)
    if runs.rounds(stored.run_id):
        agreed = hub.consent.accepted & set(institutions)
        wait_for_members(hub, lambda: agreed <= set(hub.present().values()), config.grace_s)
    else:
        # Also where a server was killed after it began a run: nobody was asked for work yet, and not all have decided.
        least = max(contract.least_cohort, _least_connected(prepared))
        _gather_again(hub, institutions, least, config.grace_s)
        wait_for_decisions(hub, institutions, least)
    outcome = _conduct(prepared, (home, hub), (runs, stored, place), (voice, contract, (energy, config.gates)))
    if outcome.verdict is not None:
        refuse_held(Path(stored.asked.output), outcome.verdict)


def _enter_gates(home: Home, stored: StoredRun, outcome: Outcome) -> None:
    """The log has the verdict of the gates, if there were any."""
    if outcome.verdict is None or not outcome.verdict.gates:
        return
    log = Log(home)
    try:
        enter_gates(log, str(stored.run_id), Path(stored.asked.output), outcome.verdict)
    finally:
        log.close()


def _conduct(
    prepared: Prepared,
    served_by: tuple[Home, Hub],
    kept: tuple[Runs, StoredRun, Place],
    told: tuple[Voice, Contract, tuple[Account, Gates]],
) -> Outcome:
    """Run the rounds; afterwards the run has its results, or an error that says why it can be continued or not."""
    (home, hub), (runs, stored, place), (voice, contract, (energy, gates)) = served_by, kept, told
    folder = Folder(Path(stored.asked.output))
    began_with = runs.node_ids(tuple(hub.consent.accepted & {*stored.asked.institutions}))
    prepared = among(prepared, len(began_with))
    randomness = prepared.program.randomness
    journal = RunJournal(runs, place, randomness, lambda: began_with | hub.present())
    least = Least(_least_connected(prepared), contract.least_cohort)
    folder.add_file("contract.json", to_bytes(contract))
    grid: Grid = HubGrid(hub, stored.run_id, journal.members, least)
    if prepared.sums is not None:
        identities = {name: bytes.fromhex(key) for name, key in contract.identities.items()}
        cohort = Cohort(stored.run_id, bytes.fromhex(digest(contract)), identities, journal.members)
        grid = SecureGrid(grid, cohort, prepared.sums, journal.decisions.decide)
    try:
        outcome = conduct(prepared, Carrier(grid, journal.members, journal, contract, energy, gates), (folder, voice))
    except TrainingFailed as error:
        # Deterministic: the same command would fail again in the same place.
        journal.ended(error)
        raise
    hub.energy.end()
    _enter_gates(home, stored, outcome)
    place.reached("results written")
    journal.ended(None, outcome.model_sha256)
    folder.add_file("log.json", log_of(home))
    shutil.rmtree(place.folder, ignore_errors=True)
    hub.end_run("the run is finished")
    voice.finished(outcome, stored.asked.output)
    return outcome


def _least_connected(prepared: Prepared) -> int:
    """Members without whom no round is worth beginning."""
    if prepared.sums is not None:
        return threshold(len(prepared.facts.institutions))
    return prepared.terms.strategy.least_replies


def _unfinished(config: ServerConfig, settings: str, home: Home, runs: Runs) -> StoredRun | None:
    """The run to continue, if there is one; one with other settings is given up or refused."""
    found = runs.unfinished()
    _sweep(home, None if found is None else found.run_id)
    if found is None or found.asked.settings == settings:
        return found
    if not config.abandon:
        refuse_other_settings(found, settings, len(runs.rounds(found.run_id)))
    runs.end(found.run_id, "abandoned", "", _now())
    shutil.rmtree(home.checkpoints / str(found.run_id), ignore_errors=True)
    return None


def _sweep(home: Home, unfinished: int | None) -> None:
    """Remove what a server that was killed after the end of its run left behind."""
    for folder in home.checkpoints.glob("*"):
        if folder.name != str(unfinished):
            shutil.rmtree(folder, ignore_errors=True)


def _gather(config: ServerConfig, home: Home, hub: Hub) -> tuple[str, ...]:
    """Wait until enough institutions are connected; the run begins with those."""
    store = Store(home.database)
    try:

        def enrolled() -> set[str]:
            # By name: a member whose certificate ended can be invited again, and is still one institution.
            return {one.name for one in store.institutions() if one.revoked_at is None}

        def wanted() -> int:
            if config.institutions is not None:
                return config.institutions
            return len(enrolled() | {one.institution for one in store.open_invitations(_now())})

        def here() -> set[str]:
            # The stream of one that was revoked a moment ago may be open still.
            return enrolled() & {session.member.name for session in hub.sessions.values()}

        if wanted() == 0:
            raise ConfigError("nobody was invited yet; nothing was trained; lepton-server invite NAME")
        _log.info("waiting for %s", counted_institutions(wanted()))
        wait_for_members(hub, lambda: len(here()) >= max(1, wanted()))
        with hub.owing.changed:
            return tuple(sorted(here()))
    finally:
        store.close()


def _gather_again(hub: Hub, institutions: tuple[str, ...], least: int, grace_s: float) -> None:
    """All of the run's institutions are connected, or as many as it needs after this time."""

    def here() -> int:
        return len({session.member.name for session in hub.sessions.values()} & {*institutions})

    wait_for_members(hub, lambda: here() == len(institutions), grace_s)
    wait_for_members(hub, lambda: here() >= least)


def _office(home: Home) -> Office:
    return Office(home.signer(_now()), home.authority().certificate, _now)


def _output(config: ServerConfig, home: Home) -> Path:
    """Absolute, so that a run continued from another folder writes where it began."""
    if config.output:
        return Path(config.output).absolute()
    return (home.path / "runs" / f"{_now():%Y-%m-%d-%H%M%S}").absolute()


def _records(home: Home) -> Records:
    records = Records.of(home.database)
    records.presence.nobody(_now())
    return records


def _enrolment(home: Home) -> Enrolment:
    addresses = [f"{host}:{home.addresses.port}" for host in home.addresses.hosts]
    return Enrolment(lambda: Store(home.database), home.authority(), addresses, _now)


def _endpoint(home: Home) -> Endpoint:
    return Endpoint(
        federation=f"[::]:{home.addresses.port}",
        enrolment=f"[::]:{home.addresses.enrolment_port}",
        credentials=home.server_credentials(_now()),
        ca=to_pem(home.authority().certificate),
    )


def _now() -> datetime:
    return datetime.now(UTC)
