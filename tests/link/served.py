"""An operator whose federation service listens on loopback, over mutual TLS, on a clock that a test can move."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import grpc
from federations import policy_text
from lepton_client import home as client_home
from lepton_server import home as server_home
from lepton_server.consent import Office
from lepton_server.disk import Records
from lepton_server.enrolment import enrol
from lepton_server.hub import Hub, Limits
from lepton_server.renewal import Renewal
from lepton_server.store import Store

from lepton_fl.link import certificates, invitation
from lepton_fl.link.certificates import to_pem
from lepton_fl.v1.enrolment_pb2 import EnrollRequest
from lepton_fl.v1.federation_pb2_grpc import FederationStub, add_FederationServicer_to_server

WAIT_S = 20.0
DAY = timedelta(days=1)


class Recording(Hub):
    """The server's hub, and the certificate with which each stream was opened."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.shown = []

    async def Connect(self, request_iterator, context):  # noqa: N802 - gRPC's name
        self.shown.append(context.auth_context()["x509_pem_cert"][0])
        await super().Connect(request_iterator, context)


class Operator:
    """One federation."""

    def __init__(self, loop, path, hosts=("127.0.0.1",), start=None):
        self._loop = loop
        self.ahead = timedelta(0)
        start = start or datetime.now(UTC)
        self.home = server_home.init(path, "cardiology", server_home.Addresses(tuple(hosts), 7444, 0), start)
        self.authority = self.home.authority()
        renewal = Renewal(self.open_store, self.authority, self.now)
        office = Office(self.home.signer(start), self.authority.certificate, self.now)
        self.hub = Recording(self.open_records, Limits(30.0, 30.0, 30.0), renewal, office)
        self._pair = self.home.server_credentials(start)
        self._servers = []
        self.port = self.serve(self.hub)

    def now(self):
        return datetime.now(UTC) + self.ahead

    def open_store(self):
        return Store(self.home.database)

    def open_records(self):
        return Records.of(self.home.database)

    def rows(self, query):
        """What an operator's own SQLite sees in the file."""
        with closing(sqlite3.connect(self.home.database)) as db:
            return db.execute(query).fetchall()

    def with_store(self, act):
        store = self.open_store()
        try:
            return act(store)
        finally:
            store.close()

    def serve(self, servicer, add=add_FederationServicer_to_server, mutual=True):
        """Listen with the server's certificate until `stop`; returns the port."""
        ca = to_pem(self.authority.certificate) if mutual else None

        async def listen():
            if servicer is self.hub:
                self.hub.begin_serving()
            server = grpc.aio.server()
            add(servicer, server)
            credentials = grpc.ssl_server_credentials([self._pair], ca, require_client_auth=mutual)
            port = server.add_secure_port("127.0.0.1:0", credentials)
            await server.start()
            self._servers.append(server)
            return port

        return self._run(listen())

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    def stop(self):
        for server in self._servers:
            self._run(server.stop(grace=None))
        self._run(self.hub.end_serving())

    def member(self, path, name="st-elm", age=timedelta(0), host="127.0.0.1"):
        """An institution's home, enrolled so long ago by this operator's own code."""
        then, secret, key = self.now() - age, invitation.new_secret(), certificates.new_key()
        request = EnrollRequest(secret=secret, certificate_request=certificates.request_certificate(key))

        def admit(store):
            store.invite(name, secret, then + DAY, then)
            return enrol(store, self.authority, request, then)

        _, certificate = self.with_store(admit)
        home = client_home.Home(path, name, (f"{host}:{self.port}",))
        path.mkdir()
        certificates.write_key(home.key, key)
        client_home.save(home, to_pem(self.authority.certificate), certificate)
        (path / "policy.yaml").write_text(policy_text())
        return home


def channel_of(home):
    """A secure channel with what the home holds now."""
    ca, key, certificate = home.credentials()
    return grpc.secure_channel(home.addresses[0], grpc.ssl_channel_credentials(ca, key, certificate))


def status_of(home, ask):
    """The code and sentence with which the server refuses; `ask` gets the stub of a new connection."""
    with channel_of(home) as channel:
        try:
            ask(FederationStub(channel))
        except grpc.RpcError as error:
            return error.code(), error.details()
    raise AssertionError("the server did not refuse")


def until(is_so):
    """Wait for something that another thread or process does."""
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
