"""`lepton-client status`: the agent, its connection, the certificate, the run it takes part in. Nothing is sent.

Read from the home, so it also answers while no agent runs, and after one was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from lepton_client.home import Home
from lepton_client.ledger import Ledger
from lepton_client.ledger_view import own_epsilon
from lepton_client.renewal import renews_at
from lepton_client.standing import Joined, Known, Promise, read
from lepton_fl.files import Holder, holder
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.accounting import Segment, epsilon_of_history
from lepton_fl.privacy.books import Run
from lepton_fl.privacy.budget import AccountState
from lepton_fl.privacy.spent import Spent
from lepton_fl.show import ago, at, printable


@dataclass(frozen=True)
class CertificateStatus:
    """This institution's certificate."""

    ends: datetime
    renews: datetime  # by itself, while the agent runs and the server answers


@dataclass(frozen=True)
class Found:
    """What was looked up."""

    institution: str
    holder: Holder | None
    known: Known
    certificate: CertificateStatus | None
    run: Run | None  # the run joined last, as the ledger has it
    account: AccountState | None  # that it pays from
    replies_waiting: int


@dataclass(frozen=True)
class AgentStatus:
    """The process that serves this institution."""

    is_running: bool
    process: int | None
    since: datetime | None


@dataclass(frozen=True)
class ConnectionStatus:
    """The stream to the server."""

    is_connected: bool
    since: datetime | None
    address: str | None  # of this stream, or where the server was looked for last
    last_heard: datetime | None
    news: str  # why there is none


@dataclass(frozen=True)
class RunStatus:
    """The run that was joined last."""

    title: str
    rounds_planned: int
    round: int  # the last that was begun here
    is_answered: bool  # the answer to that round was released
    spent: Spent | None  # of this run's own budget, by the rounds that were begun here; None: not private
    account: AccountState | None  # of all runs on the same records


@dataclass(frozen=True)
class Status:
    """All of it."""

    at: datetime
    institution: str
    agent: AgentStatus
    connection: ConnectionStatus
    certificate: CertificateStatus | None  # None: it cannot be read
    run: RunStatus | None
    replies_waiting: int  # finished here, and not yet taken by the server


def look(home: Home, now: datetime) -> Status:
    """The status as the home says now.

    Raises:
        LedgerDamaged: what was spent is unknown.
    """
    known, spool = read(home.path), home.path / "spool"
    run, account = _from_ledger(known)
    found = Found(
        institution=home.institution,
        holder=holder(home.lock),
        known=known,
        certificate=_certificate(home),
        run=run,
        account=account,
        # Looked at only where it is: a folder made by another account would be in the agent's way.
        replies_waiting=len(Spool(spool).holds()) if spool.is_dir() else 0,
    )
    return status(found, now)


def status(found: Found, now: datetime) -> Status:
    """What the home's files mean: an agent that does not run is not connected."""
    known, running = found.known, found.holder
    since = known.connected_at
    is_connected = running is not None and since is not None and since >= running.since
    return Status(
        at=now,
        institution=found.institution,
        agent=AgentStatus(True, running.process, running.since) if running else AgentStatus(False, None, None),
        connection=ConnectionStatus(
            is_connected=is_connected,
            since=since if is_connected else None,
            address=known.address,
            last_heard=known.heard_at,
            news="" if is_connected or running is None else printable(known.news),
        ),
        certificate=found.certificate,
        run=None if known.run is None else _run(known.run, found.run, found.account),
        replies_waiting=found.replies_waiting,
    )


def _from_ledger(known: Known) -> tuple[Run | None, AccountState | None]:
    """The run joined last and its account; looked at only where a ledger is, so that none is made by looking."""
    if known.run is None or known.ledger is None or not Path(known.ledger).is_dir():
        return None, None
    ledger = Ledger.open(Path(known.ledger), lambda: datetime.now(UTC))
    run = ledger.run(str(known.run.run_id))
    return run, None if run is None else ledger.spent(*run.declared.account)


def _run(joined: Joined, run: Run | None, account: AccountState | None) -> RunStatus:
    last = None if run is None else run.last
    return RunStatus(
        title=printable(joined.title),
        rounds_planned=joined.rounds,
        round=0 if last is None else last.round,
        is_answered=last is not None and last.has_left,
        spent=None if joined.promise is None else _spent(joined.promise, 0 if run is None else run.rounds),
        account=account,
    )


def _spent(promise: Promise, rounds: int) -> Spent:
    steps = rounds * promise.local_steps
    step = Segment(promise.noise_multiplier, promise.sampling_rate, steps, promise.law)
    epsilon = epsilon_of_history((step,), promise.delta)
    return Spent(promise.unit, epsilon, promise.epsilon, promise.delta)


def _certificate(home: Home) -> CertificateStatus | None:
    try:
        certificate = x509.load_pem_x509_certificate(home.certificate.read_bytes())
    except (OSError, ValueError):
        return None
    return CertificateStatus(certificate.not_valid_after_utc, renews_at(certificate))


def lines(status: Status) -> list[str]:
    """The status for people, one fact a line."""
    return [
        f"institution {status.institution}",
        f"agent       {_agent(status.agent)}",
        f"connected   {_connection(status)}",
        f"certificate {_validity(status)}",
        *_run_lines(status.run),
        f"replies     {status.replies_waiting or 'none'} waiting to be sent",
    ]


def _agent(agent: AgentStatus) -> str:
    if agent.since is None:
        return "not running"
    return f"running as process {agent.process or 'unknown'} since {at(agent.since)}"


def _connection(status: Status) -> str:
    here, heard = status.connection, f"last heard {ago(status.connection.last_heard, status.at)}"
    if here.since is not None:
        return f"to {here.address} since {at(here.since)}; {heard}"
    return f"no; {here.news}; {heard}" if here.news else f"no; {heard}"


def _validity(status: Status) -> str:
    certificate = status.certificate
    if certificate is None:
        return "cannot be read; lepton-client check says more"
    if certificate.ends <= status.at:
        return f"ended {at(certificate.ends)}; ask the operator for a new invitation and enroll again"
    return f"until {at(certificate.ends)}; renews by itself from {at(certificate.renews)}"


def _run_lines(run: RunStatus | None) -> list[str]:
    if run is None:
        return ["run         none yet"]
    if run.round == 0:
        begun = f"none of {run.rounds_planned} begun here"
    else:
        begun = f"{run.round} of {run.rounds_planned} begun here, {'answered' if run.is_answered else 'not answered'}"
    return [
        f"run         {run.title}",
        f"round       {begun}",
        f"epsilon     {'not private' if run.spent is None else f'{run.spent}, this run'}",
        *_account_lines(run.account),
    ]


def _account_lines(account: AccountState | None) -> list[str]:
    if account is None:
        return []
    if not account.is_covered:
        return [f"budget      {account.data_set}: a round left that no epsilon covers"]
    spent = Spent(account.unit, account.epsilon_pld, account.cap, account.delta)
    lines = [f"budget      {spent}, all runs on {account.data_set}"]
    if account.epsilon_own is not None:
        own = own_epsilon(account.epsilon_own)
        lines.append(f"            {own} against an operator with more colluders than assumed")
    return lines
