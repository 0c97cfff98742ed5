"""The verbs that need no run: init, invite, revoke, institutions."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime

from lepton_fl.errors import ConfigError
from lepton_fl.link import invitation
from lepton_fl.link.invitation import Invitation
from lepton_server.home import Addresses, find, open_home
from lepton_server.home import init as init_home
from lepton_server.store import Store


def init(chosen: argparse.Namespace) -> None:
    """Make the CA, the server's certificate and the database."""
    for port in (chosen.port, chosen.enrolment_port):
        if not 0 < port < 65536:
            raise ConfigError(f"a port lies between 1 and 65535, got {port}; nothing was made")
    path = find(chosen.home)
    addresses = Addresses(tuple(chosen.host), chosen.port, chosen.enrolment_port)
    home = init_home(path, chosen.name, addresses, datetime.now(UTC))
    Store(home.database).close()
    sys.stderr.write(f"{path} is ready; keep {path / 'ca'} safe: whoever has it can admit anyone\n")


def invite(chosen: argparse.Namespace) -> None:
    """Print one invitation, and nothing else, on stdout."""
    home = open_home(find(chosen.home))
    now = datetime.now(UTC)
    name = invitation.check_name(chosen.institution)
    secret = invitation.new_secret()
    expires_at = now + invitation.LIFETIME
    addresses = tuple(f"{host}:{home.addresses.enrolment_port}" for host in home.addresses.hosts)
    made = Invitation(name, addresses, home.authority().certificate, secret, expires_at)
    store = Store(home.database)
    try:
        store.invite(name, secret, expires_at, now)
    finally:
        store.close()
    sys.stdout.write(made.to_text() + "\n")
    sys.stderr.write(f"for {name}, once, until {expires_at:%Y-%m-%d %H:%M} UTC; send it over a channel you trust\n")


def revoke(chosen: argparse.Namespace) -> None:
    """Keep an institution out from now on."""
    home = open_home(find(chosen.home))
    store = Store(home.database)
    try:
        store.revoke(chosen.institution, datetime.now(UTC))
    finally:
        store.close()
    sys.stderr.write(f"{chosen.institution} is revoked; an open stream is cut within seconds\n")


def institutions(chosen: argparse.Namespace) -> None:
    """List members, former members and open invitations."""
    home = open_home(find(chosen.home))
    store = Store(home.database)
    try:
        rows = [
            (one.name, "revoked" if one.revoked_at else "member", one.revoked_at or one.enrolled_at)
            for one in store.institutions()
        ]
        rows += [
            (one.institution, "invited until", one.expires_at) for one in store.open_invitations(datetime.now(UTC))
        ]
    finally:
        store.close()
    if chosen.json:
        keys = ("institution", "state", "at")
        sys.stdout.write(
            json.dumps([dict(zip(keys, (*row[:2], row[2].isoformat()), strict=True)) for row in rows]) + "\n"
        )
        return
    width = max((len(row[0]) for row in rows), default=0)
    sys.stdout.writelines(f"{name:<{width}}  {state:<13}  {at:%Y-%m-%d %H:%M} UTC\n" for name, state, at in rows)
