"""`lepton-server status`: who is connected, how far the run is, what it has spent. Nothing that its log has not said.

Read from the operator's records, so it also answers while no server runs, and after one was killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lepton_fl.config import look_up
from lepton_fl.federation.journal import RoundReport
from lepton_fl.files import Holder, holder
from lepton_fl.privacy import units
from lepton_fl.privacy.spent import Spent
from lepton_fl.show import ago, at
from lepton_server.home import Addresses, Home
from lepton_server.presence import Presence, Seen
from lepton_server.runs import Runs, StoredRound, StoredRun
from lepton_server.store import Institution, Invited, Store


@dataclass(frozen=True)
class Members:
    """Everybody the records name."""

    institutions: list[Institution]
    seen: list[Seen]
    certificate_ends: dict[str, datetime]
    invitations: list[Invited]  # that could still be used


@dataclass(frozen=True)
class Found:
    """What was looked up."""

    holder: Holder | None
    addresses: Addresses
    members: Members
    run: StoredRun | None  # the one that is open, else the last
    rounds: list[StoredRound]


@dataclass(frozen=True)
class ServerStatus:
    """The process that serves."""

    is_running: bool
    process: int | None
    since: datetime | None
    addresses: list[str]
    enrolment_addresses: list[str]


@dataclass(frozen=True)
class RunStatus:
    """The run that is open, else the last one."""

    task: str
    model: str
    strategy: str
    state: str  # running, interrupted, finished, failed or abandoned
    began_at: datetime
    ended_at: datetime | None
    detail: str  # of a run that failed
    output: str
    round: int  # the last that was begun
    rounds_done: int
    rounds_planned: int
    cohort: int | None  # institutions asked in the last round that is done
    replied: int | None
    spent: Spent | None  # in the rounds done, by the institution that was asked most often; None: not private
    not_private_because: str | None


@dataclass(frozen=True)
class MemberStatus:
    """One institution."""

    institution: str
    state: str  # connected, away, invited or revoked
    since: datetime | None  # in this state, where that is known
    last_seen: datetime | None
    certificate_ends: datetime | None
    invited_until: datetime | None
    rounds_answered: int
    has_answered: bool  # the last round that is done
    refused: str | None  # why a reply of its to that round was not used: to training, or to the evaluation after it


@dataclass(frozen=True)
class Status:
    """All of it."""

    at: datetime
    server: ServerStatus
    run: RunStatus | None
    institutions: list[MemberStatus]


def look(home: Home, now: datetime) -> Status:
    """The status as the records say now."""
    store, presence, runs = Store(home.database), Presence(home.database), Runs(home.database)
    try:
        run = runs.unfinished() or next(iter(runs.all()), None)
        members = Members(store.institutions(), presence.all(), store.certificate_ends(), store.open_invitations(now))
        rounds = [] if run is None else runs.rounds(run.run_id)
        return status(Found(holder(home.lock), home.addresses, members, run, rounds), now)
    finally:
        for opened in (store, presence, runs):
            opened.close()


def status(found: Found, now: datetime) -> Status:
    """What the records mean: nobody is connected to a server that does not run."""
    # A round that is not over yet has no epsilon and has not been reported anywhere.
    reports = [one.evaluated for one in found.rounds if one.evaluated is not None]
    last = reports[-1] if reports else RoundReport(0)
    run = None if found.run is None else _run(found.run, found.rounds, last, found.holder is not None)
    seen = {one.institution: one for one in found.members.seen}
    members = [_member(one, seen.get(one.name), found) for one in found.members.institutions]
    known = {one.name for one in found.members.institutions}
    members += [
        MemberStatus(one.institution, "invited", None, None, None, one.expires_at, 0, False, None)
        for one in found.members.invitations
        if one.institution not in known
    ]
    return Status(
        now,
        _server(found.holder, found.addresses),
        run,
        [_with_rounds(one, reports, last) for one in sorted(members, key=lambda one: one.institution)],
    )


def _server(holder: Holder | None, addresses: Addresses) -> ServerStatus:
    return ServerStatus(
        is_running=holder is not None,
        process=holder.process if holder else None,
        since=holder.since if holder else None,
        addresses=[f"{host}:{addresses.port}" for host in addresses.hosts],
        enrolment_addresses=[f"{host}:{addresses.enrolment_port}" for host in addresses.hosts],
    )


def _run(run: StoredRun, rounds: list[StoredRound], last: RoundReport, is_served: bool) -> RunStatus:
    settings = json.loads(run.asked.settings)
    why_not = _not_private(settings)
    state = run.state if run.state != "open" else "running" if is_served else "interrupted"
    return RunStatus(
        task=settings["task"]["title"],
        model=settings["model"]["kind"],
        strategy=settings["strategy"]["kind"],
        state=state,
        began_at=run.began_at,
        ended_at=run.ended_at,
        detail=run.detail,
        output=run.asked.output,
        round=max((one.round for one in rounds), default=0),
        rounds_done=sum(one.evaluated is not None for one in rounds),
        rounds_planned=run.asked.planned,
        cohort=len(last.cohort) if last.round else None,
        replied=len(last.replied) if last.round else None,
        spent=_spent(settings["privacy"], last) if why_not is None else None,
        not_private_because=why_not,
    )


def _not_private(settings: Mapping[str, Any]) -> str | None:
    if settings["privacy"]["kind"] == "none":
        return "privacy=none"
    return None if settings["seed"] is None else f"seed={settings['seed']}"


def _spent(privacy: Mapping[str, Any], last: RoundReport) -> Spent:
    unit = look_up(units.TABLE, privacy["kind"]).unit
    return Spent(unit, last.epsilon or 0.0, privacy["epsilon"], privacy["delta"])


def _member(one: Institution, seen: Seen | None, found: Found) -> MemberStatus:
    state, since = _state(one, seen, found.holder)
    return MemberStatus(
        institution=one.name,
        state=state,
        since=since,
        last_seen=None if seen is None else seen.last_heard_at,
        certificate_ends=found.members.certificate_ends.get(one.name),
        # A member whose certificate ended may be invited again.
        invited_until={one.institution: one.expires_at for one in found.members.invitations}.get(one.name),
        rounds_answered=0,
        has_answered=False,
        refused=None,
    )


def _state(one: Institution, seen: Seen | None, holder: Holder | None) -> tuple[str, datetime | None]:
    if one.revoked_at is not None:
        return "revoked", one.revoked_at
    if seen is None:
        return "away", None
    if _is_connected(seen, holder):
        return "connected", seen.connected_at
    # Nobody noted when a killed server's streams ended.
    return "away", None if seen.is_connected else seen.disconnected_at


def _is_connected(seen: Seen, holder: Holder | None) -> bool:
    """A stream to a server that was killed is over, even where nobody was left to write that down."""
    if holder is None or seen.connected_at is None:
        return False
    return seen.is_connected and seen.connected_at >= holder.since


def _with_rounds(one: MemberStatus, reports: list[RoundReport], last: RoundReport) -> MemberStatus:
    answered = sum(one.institution in report.replied for report in reports)
    refused = last.refused.get(one.institution, last.not_evaluated.get(one.institution))
    return replace(one, rounds_answered=answered, has_answered=one.institution in last.replied, refused=refused)


def lines(status: Status) -> list[str]:
    """The status for people: the server, the run, one line for each institution."""
    return [_server_line(status), *_run_lines(status), *_table(status)]


def _server_line(status: Status) -> str:
    server, run = status.server, status.run
    if not server.is_running or server.since is None:
        return f"server      not running; institutions would reach it at {', '.join(server.addresses)}"
    line = (
        f"server      running as process {server.process or 'unknown'} since {at(server.since)}, at "
        f"{', '.join(server.addresses)}, enrolment at {', '.join(server.enrolment_addresses)}"
    )
    is_waiting = run is None or (run.ended_at is not None and run.ended_at < server.since)
    return f"{line}; waiting for institutions" if is_waiting else line


def _run_lines(status: Status) -> list[str]:
    run = status.run
    if run is None:
        return ["run         none yet"]
    state = f"{run.state}, begun {at(run.began_at)}"
    if run.ended_at is not None:
        state += f", ended {at(run.ended_at)}"
    if run.state == "interrupted":
        state += "; the same lepton-server run continues it"
    replied = "" if run.cohort is None else f"; in the last of them {run.replied} of {run.cohort} replied"
    spent = "not private" if run.spent is None else f"{run.spent}"
    return [
        f"run         {run.task}: {run.model}, {run.strategy}; {state}",
        *([f"            {run.detail}"] if run.detail else []),
        f"round       {run.round} of {run.rounds_planned} begun, {run.rounds_done} done{replied}",
        f"epsilon     {spent}" + (f" ({run.not_private_because})" if run.spent is None else ""),
        f"results     {run.output}",
    ]


def _table(status: Status) -> list[str]:
    if not status.institutions:
        return ["nobody was invited yet; lepton-server invite NAME"]
    width = max(len("institution"), *(len(one.institution) for one in status.institutions))
    rows = [("institution", "state", "last seen", "certificate ends", "answered", "")]
    rows += [_row(one, status.at) for one in status.institutions]
    return [
        f"{name:<{width}}  {state:<9}  {seen:<10}  {ends:<20}  {answered:>8}  {note}".rstrip()
        for name, state, seen, ends, answered, note in rows
    ]


def _row(one: MemberStatus, now: datetime) -> tuple[str, str, str, str, str, str]:
    notes = []
    if one.state == "revoked" and one.since is not None:
        notes.append(f"revoked {at(one.since)}")
    if one.invited_until is not None:
        notes.append(f"invitation until {at(one.invited_until)}")
    if one.certificate_ends is not None and one.certificate_ends <= now and one.state != "revoked":
        notes.append("certificate ended")
    if one.refused is not None:
        notes.append(f"{'not evaluated' if one.has_answered else 'left out'}: {one.refused}")
    ends = "" if one.certificate_ends is None else at(one.certificate_ends)
    return (one.institution, one.state, ago(one.last_seen, now), ends, str(one.rounds_answered), "; ".join(notes))
