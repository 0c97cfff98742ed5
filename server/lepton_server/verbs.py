"""The verbs that need no running server: init, invite, revoke, institutions, status, log, verify, report."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.errors import ConfigError
from lepton_fl.evidence import log_bundle
from lepton_fl.evidence.checking import Asked, checked, read_bundle, read_ca
from lepton_fl.files import replace_file
from lepton_fl.link import invitation
from lepton_fl.link.invitation import Invitation
from lepton_fl.show import Look, at, show
from lepton_server.home import Addresses, Home, find, open_home
from lepton_server.home import init as init_home
from lepton_server.log import Log, log_of
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
    Log(home).close()
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
    """List members, former members and open invitations, each with the end of its certificate."""
    home = open_home(find(chosen.home))
    store = Store(home.database)
    try:
        ends = store.certificate_ends()
        rows = [
            (one.name, "revoked" if one.revoked_at else "member", one.revoked_at or one.enrolled_at, ends.get(one.name))
            for one in store.institutions()
        ]
        rows += [
            (one.institution, "invited until", one.expires_at, None)
            for one in store.open_invitations(datetime.now(UTC))
        ]
    finally:
        store.close()
    if chosen.json:
        said = [
            {"institution": name, "state": state, "at": when.isoformat(), "certificate_ends": end and end.isoformat()}
            for name, state, when, end in rows
        ]
        sys.stdout.write(json.dumps(said) + "\n")
        return
    width = max((len(row[0]) for row in rows), default=0)
    for name, state, when, end in rows:
        certificate = "" if end is None else f"  certificate until {at(end)}"
        sys.stdout.write(f"{name:<{width}}  {state:<13}  {at(when)}{certificate}\n")


def status(chosen: argparse.Namespace) -> None:
    """Show who is connected, the run, and what it has spent."""
    from lepton_server.status import lines, look

    home = open_home(find(chosen.home))
    show(Look(lambda now: look(home, now), lines), chosen.json, chosen.watch)


def report(chosen: argparse.Namespace) -> None:
    """Write the transparency report of a run."""
    from lepton_server.report import make

    make(chosen)


def log(chosen: argparse.Namespace) -> None:
    """Write the whole log to a file, or forget what a commitment in it stands for."""
    home = open_home(find(chosen.home))
    if chosen.action == "forget":
        _forget(home, chosen.what)
        return
    path = Path(chosen.what)
    try:
        replace_file(path, log_of(home))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; nothing was exported") from error
    sys.stderr.write("exported; anyone with the federation's CA certificate can check it: lepton-client verify FILE\n")


def _forget(home: Home, commitment: str) -> None:
    opened = Log(home)
    try:
        was_known = opened.forget(commitment)
    finally:
        opened.close()
    if not was_known:
        raise ConfigError("no text is kept for this commitment; nothing was changed; log export shows those in the log")
    sys.stderr.write("forgotten; the entry stays, and nobody can tell any more what it stood for\n")


def verify(chosen: argparse.Namespace) -> None:
    """Check a log, this home's or the one in a file."""
    ca = Path(chosen.ca) if chosen.ca else find(chosen.home) / "ca" / "ca.pem"
    given = (chosen.heads, chosen.model, chosen.report)
    asked = Asked(read_ca(ca), *(None if name is None else Path(name) for name in given))
    if chosen.bundle:
        bundle = read_bundle(Path(chosen.bundle))
    else:
        bundle = log_bundle.read(log_of(open_home(find(chosen.home))))
    sys.stdout.write("\n".join(checked(bundle, asked)) + "\n")


def feedback(chosen: argparse.Namespace) -> None:
    """Note, answer or list what people found wrong with a model."""
    from lepton_server import supervised

    supervised.feedback(chosen)


def release(chosen: argparse.Namespace) -> None:
    """Let a person put a held model out."""
    from lepton_server import supervised

    supervised.release(chosen)
