"""A federation on this machine: the product's server in this process, institutions in processes of their own.

Everything is real: certificates, mutual TLS on loopback, the database, spools and fsyncs.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lepton_client import home as client_home
from lepton_server import home as server_home
from lepton_server.agreements import Offered
from lepton_server.consent import Office
from lepton_server.disk import Records
from lepton_server.enrolment import Enrolment, enrol
from lepton_server.grid import wait_for_members
from lepton_server.hub import Hub, Limits, RunTerms
from lepton_server.journal import Inbox, Place
from lepton_server.renewal import Renewal
from lepton_server.runs import Asked, Runs, StoredRun
from lepton_server.serving import Endpoint, Serving
from lepton_server.store import Store

from lepton_fl.link import certificates, invitation
from lepton_fl.link.certificates import to_pem
from lepton_fl.link.signature import Signed
from lepton_fl.v1.enrolment_pb2 import EnrollRequest

_INSTITUTION = Path(__file__).with_name("institution.py")


@dataclass(frozen=True)
class Open:
    """A run that was begun."""

    runs: Runs
    stored: StoredRun
    place: Place


class Loopback:
    """One operator and its institutions, connected; from `federation` alone."""

    def __init__(self, folder: Path, institutions: int) -> None:
        addresses = server_home.Addresses(("127.0.0.1",), free_port(), free_port())
        self.home = server_home.init(folder / "server", "bench", addresses, now())
        self.names = tuple(f"institution {number}" for number in range(1, institutions + 1))
        self.homes = [self._enrolled(folder / name, name) for name in self.names]
        renewal = Renewal(self._store, self.home.authority(), now)
        office = Office(self.home.signer(now()), self.home.authority().certificate, now)
        records = lambda: Records.of(self.home.database)  # noqa: E731 - one expression, called once
        self.hub = Hub(records, Limits(quorum_s=60.0, round_s=600.0, grace_s=60.0), renewal, office)
        self.credentials, self.ca = self.home.server_credentials(now()), to_pem(self.home.authority().certificate)

    def begin(self, rounds: int, reply_bytes: int) -> Open:
        """Tell every institution of a run whose replies have at most so many bytes."""
        runs = Runs(self.home.database)
        stored = runs.begin(Asked("{}", "", self.names, rounds), now())
        place = Place(stored.run_id, self.home.checkpoints / str(stored.run_id), lambda point: None)
        inbox = lambda: Inbox(Runs(self.home.database), place)  # noqa: E731 - one expression, called once
        self.hub.begin_run(RunTerms(stored.run_id, Offered(b"{}", Signed(b"", b"")), reply_bytes, inbox))
        return Open(runs, stored, place)

    def end(self, run: Open) -> None:
        """The run is over and its files are gone; the streams stay open for the next."""
        run.runs.end(run.stored.run_id, "finished", "", now())
        run.runs.close()
        shutil.rmtree(run.place.folder)

    def _enrolled(self, path: Path, name: str) -> client_home.Home:
        secret, key = invitation.new_secret(), certificates.new_key()
        request = EnrollRequest(secret=secret, certificate_request=certificates.request_certificate(key))
        store = self._store()
        try:
            store.invite(name, secret, now() + timedelta(hours=1), now())
            _, certificate = enrol(store, self.home.authority(), request, now())
        finally:
            store.close()
        home = client_home.Home(path, name, (f"127.0.0.1:{self.home.addresses.port}",))
        path.mkdir()
        certificates.write_key(home.key, key)
        client_home.save(home, to_pem(self.home.authority().certificate), certificate)
        return home

    def _store(self) -> Store:
        return Store(self.home.database)


@contextmanager
def federation(folder: Path, institutions: int) -> Iterator[Loopback]:
    """A federation with every institution connected, from `with` to its end."""
    made = Loopback(folder, institutions)
    enrolment = Enrolment(lambda: Store(made.home.database), made.home.authority(), [], now)
    addresses = made.home.addresses
    endpoint = Endpoint(
        f"127.0.0.1:{addresses.port}", f"127.0.0.1:{addresses.enrolment_port}", made.credentials, made.ca
    )
    serving = Serving(made.hub, enrolment, endpoint)
    serving.start()
    try:
        with processes([[str(_INSTITUTION), str(home.path)] for home in made.homes]):
            wait_for_members(made.hub, lambda: len(made.hub.sessions) == institutions)
            yield made
    finally:
        serving.stop()


@contextmanager
def processes(commands: list[list[str]]) -> Iterator[None]:
    """Python programs that run beside this one, from `with` to its end."""
    started = [subprocess.Popen([sys.executable, *command]) for command in commands]  # noqa: S603
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(10)


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def now() -> datetime:
    """UTC."""
    return datetime.now(UTC)
