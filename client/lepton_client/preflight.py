"""Before a run: can this institution take part? Local files first, then the server, then what it thinks of us.

gRPC tells a client whose certificate was refused nothing, so each cause is looked for on its own, in the order in
which they hide one another. Nothing of the data is read, and nothing but the certificate is sent.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Literal

import grpc
from cryptography import x509

from lepton_client.certificate_check import has_key, is_for_institution, is_issued_by
from lepton_client.home import Home
from lepton_client.renewal import is_due, renews_at, said
from lepton_fl.errors import LeptonError
from lepton_fl.link import frames
from lepton_fl.link.certificates import BadCertificate, key_hash, read_key
from lepton_fl.v1.federation_pb2 import ProbeReply, ProbeRequest
from lepton_fl.v1.federation_pb2_grpc import FederationStub

CLOCK_WARNING, CLOCK_FAILURE = timedelta(seconds=60), timedelta(hours=1)
WAIT_S = 10.0
_REFUSAL_S = 2.0  # a server that refuses a certificate closes at once; one that accepts it may stay silent
# OpenSSL's numbers for what is wrong with a certificate.
_NOT_YET_VALID, _HAS_EXPIRED, _OTHER_HOST, _OTHER_IP = 9, 10, 62, 64


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warning", "failed"]
    sentence: str


class NotReady(LeptonError):
    """This institution could not take part in a run now."""

    exit_code = 7


def preflight(home: Home, now: datetime, wait_s: float = WAIT_S) -> list[Finding]:
    """What stands between this home and a run, in the order in which to mend it.

    Looks no further than the local files if there is no key or certificate to show. At the first address where the
    right server answers, it is asked what it thinks of this certificate.

    Args:
        now: this machine's time when the check begins.
        wait_s: so long for each answer from the network.
    """
    started = time.monotonic()

    def clock() -> datetime:
        return now + timedelta(seconds=time.monotonic() - started)

    found = list(local(home, now))
    if any(one.state == "failed" and one.name in ("key", "certificate", "ca") for one in found):
        return found
    reached = None
    for address in home.addresses:
        found.append(greeted(home, address, wait_s))
        if reached is None and found[-1].state == "ok":
            reached = address
    if reached is not None:
        found += _asked(home, reached, clock, wait_s)
    return found


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """The findings for people, one a line."""
    yield from (f"{one.name:<11} {one.state:<8} {one.sentence}" for one in findings)


# Local files


def local(home: Home, now: datetime) -> Iterator[Finding]:
    """What can be seen without the network: key, certificate, CA, dates, purpose."""
    try:
        identity = key_hash(read_key(home.key).public_key())
    except BadCertificate as error:
        yield Finding("key", "failed", str(error))
        return
    yield Finding("key", "ok", "can be read by its owner alone")
    try:
        certificate = x509.load_pem_x509_certificate(home.certificate.read_bytes())
        ca = x509.load_pem_x509_certificate(home.ca.read_bytes())
    except (OSError, ValueError):
        sentence = f"{home.certificate} or {home.ca} cannot be read; nothing was sent; restore them from a backup"
        yield Finding("certificate", "failed", sentence)
        return
    if not has_key(certificate, identity):
        sentence = f"is for another key than {home.key}; nothing was sent; restore both from one backup"
        yield Finding("certificate", "failed", sentence)
        return
    yield Finding("certificate", "ok", "is for this key")
    if is_issued_by(ca, certificate):
        yield Finding("ca", "ok", "signed this certificate")
    else:
        sentence = f"{home.ca} did not sign this certificate; nothing was sent; restore both from one backup"
        yield Finding("ca", "failed", sentence)
    yield _validity(certificate, now)
    if is_for_institution(certificate, home.institution):
        yield Finding("purpose", "ok", f"the certificate is for {home.institution}, as a client")
    else:
        sentence = (
            f"the certificate is not for {home.institution} as a client; nothing was sent; ask the operator for a "
        )
        sentence += "new invitation"
        yield Finding("purpose", "failed", sentence)


def _validity(certificate: x509.Certificate, now: datetime) -> Finding:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        sentence = f"the certificate begins at {_at(start)}, and this machine says {_at(now)}; nothing was sent; set "
        sentence += "the clock"
        return Finding("validity", "failed", sentence)
    if now >= end:
        sentence = f"this certificate ended at {_at(end)}; nothing was sent; ask the operator for a new invitation and "
        return Finding("validity", "failed", f"{sentence}enroll again, or check this machine's clock")
    left = f"{(end - now) / timedelta(days=1):.1f} days left, until {_at(end)}"
    if is_due(certificate, now):
        sentence = f"{left}; renewal is due since {_at(renews_at(certificate))}; lepton-client run renews it by itself"
        return Finding("validity", "warning", sentence)
    return Finding("validity", "ok", f"{left}; renews by itself from {_at(renews_at(certificate))}")


# The server, by the standard library's TLS


def greeted(home: Home, address: str, wait_s: float) -> Finding:
    """Whether the right server answers at an address, and takes this certificate."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        plain = socket.create_connection((host, int(port)), timeout=wait_s)
    except (socket.gaierror, ValueError, OverflowError, UnicodeError):
        sentence = (
            f"the name of {address} cannot be found from this machine; nothing was sent; ask who runs its network"
        )
        return Finding("server", "failed", sentence)
    except OSError as error:
        why = "did not answer in time" if isinstance(error, TimeoutError) else "nothing listens there"
        sentence = f"{address} cannot be reached ({why}); the server listens only while lepton-server run is up"
        return Finding("server", "warning", sentence)
    with plain:
        try:
            with _context(home).wrap_socket(plain, server_hostname=host) as wrapped:
                return _taken(wrapped, address)
        except ssl.SSLCertVerificationError as error:
            return Finding("server", "failed", _wrong_server(error, address))
        except (ssl.SSLError, OSError) as error:
            return Finding("server", "failed", _no_tls(error, address))


def _context(home: Home) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(home.ca)
    context.load_cert_chain(home.certificate, home.key)
    context.set_alpn_protocols(["h2"])
    return context


def _taken(wrapped: ssl.SSLSocket, address: str) -> Finding:
    """With TLS 1.3 a server looks at the client's certificate after the client believes to be done: read on."""
    wrapped.settimeout(_REFUSAL_S)
    try:
        is_open = wrapped.recv(1) != b""
    except TimeoutError:
        is_open = True
    except OSError:
        is_open = False
    if is_open:
        return Finding("server", "ok", f"{address} is this federation's server")
    return Finding("server", "failed", _not_taken(address))


def _not_taken(address: str) -> str:
    return (
        f"{address} is this federation's server and refused this certificate: it ended there, or is of another CA; "
        "compare this machine's clock with the operator's"
    )


def _wrong_server(error: ssl.SSLCertVerificationError, address: str) -> str:
    if error.verify_code in (_OTHER_HOST, _OTHER_IP):
        return (
            f"the certificate of the server at {address} is for other names; nothing was sent; ask the operator for "
            "the right address"
        )
    if error.verify_code in (_NOT_YET_VALID, _HAS_EXPIRED):
        what = "has ended" if error.verify_code == _HAS_EXPIRED else "has not begun"
        return (
            f"the certificate of the server at {address} {what} at this machine's time; nothing was sent; compare "
            "this machine's clock with the operator's"
        )
    return (
        f"whoever answers at {address} is not of this federation's CA; nothing was sent; ask the operator for the "
        "right address, and whether something in between opens TLS"
    )


def _no_tls(error: OSError, address: str) -> str:
    if isinstance(error, TimeoutError):
        return f"{address} took the connection and did not answer TLS in time; is it another service?"
    if "ALERT" in str(getattr(error, "reason", "")):
        return _not_taken(address)  # TLS 1.2: the server says so within the handshake
    return f"{address} does not speak TLS, or something in between cut it off; is it another service, or a proxy?"


# What the server thinks of us


def _asked(home: Home, address: str, clock: Callable[[], datetime], wait_s: float) -> Iterator[Finding]:
    ca, key, certificate = home.credentials()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)
    request = ProbeRequest(protocol=frames.PROTOCOL, lepton_version=version("lepton-fl"))
    with grpc.secure_channel(address, credentials) as channel:
        stub: Any = FederationStub(channel)
        before = clock()
        try:
            reply: ProbeReply = stub.Probe(request, timeout=wait_s)
        except grpc.RpcError as error:
            yield _refused(error, address)
            return
        # What the server read off its clock was, as far as can be known, half way between.
        ours = before + (clock() - before) / 2
    if reply.institution != home.institution:
        sentence = f"the server takes this key for another institution than {home.institution}; tell the operator"
        yield Finding("membership", "failed", sentence)
    else:
        theirs = f"protocol {reply.protocol} with lepton-fl {reply.lepton_version[:40]!r} there"
        yield Finding("membership", "ok", f"{home.institution} is a member; {theirs}")
    yield _clocks(reply.server_time, ours)


def _refused(error: Any, address: str) -> Finding:
    code, detail = error.code(), said(error)
    if code in (
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
    ):
        name = "protocol" if code == grpc.StatusCode.FAILED_PRECONDITION else "membership"
        return Finding(name, "failed", f"the server says: {detail}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        sentence = "the server is of an older release, or at another port, and cannot be asked; ask the operator"
        return Finding("protocol", "failed", sentence)
    return Finding("membership", "failed", f"the server at {address} did not answer ({code.name}); try again")


def _clocks(server_time: float, ours: datetime) -> Finding:
    try:
        theirs = datetime.fromtimestamp(server_time, UTC)
    except (ValueError, OverflowError, OSError):
        return Finding("clock", "failed", "the server says no usable time; tell the operator")
    apart = abs(theirs - ours)
    if apart <= CLOCK_WARNING:
        return Finding("clock", "ok", f"{apart.total_seconds():.0f} s from the server's")
    sentence = (
        f"here it is {ours:%Y-%m-%d %H:%M:%S} UTC, at the server {theirs:%Y-%m-%d %H:%M:%S} UTC; set the wrong one"
    )
    return Finding("clock", "failed" if apart > CLOCK_FAILURE else "warning", sentence)


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
