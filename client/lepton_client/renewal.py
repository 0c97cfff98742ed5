"""The certificate renews itself: over the link, for the same key, while the old one still works."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from cryptography import x509

from lepton_client.certificate_check import checked
from lepton_client.home import Home
from lepton_fl.errors import LeptonError
from lepton_fl.files import write_secret
from lepton_fl.link.certificates import key_hash, read_key, request_certificate, to_pem
from lepton_fl.v1.federation_pb2 import RenewRequest
from lepton_fl.v1.federation_pb2_grpc import FederationStub

_TIMEOUT_S = 10.0


class RenewalFailed(LeptonError):
    """The server gave no new certificate; the old one works until its end."""

    exit_code = 7


@dataclass(frozen=True)
class Pace:
    """When to look whether a renewal is due."""

    clock: Callable[[], datetime]
    interval_s: float


HOURLY = Pace(lambda: datetime.now(UTC), 3600.0)


def renews_at(certificate: x509.Certificate) -> datetime:
    """The moment at which two thirds of its life are over."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return start + (end - start) * 2 / 3


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Two thirds of its life are over: what is left bears days of a server that does not run."""
    return now >= renews_at(certificate)


Leaving = Callable[[bytes], None]
"""Told what is about to leave, before its first byte."""


def _unwatched(request: bytes) -> None:
    """Nobody notes that this leaves."""


def renew(channel: grpc.Channel, home: Home, now: datetime, leaving: Leaving = _unwatched) -> x509.Certificate:
    """A new certificate for the same key in the home, whole or not at all; the next connection uses it.

    Raises:
        RenewalFailed: the server refused or did not answer.
        BadCertificate: its answer is not a certificate for this institution; the old one was kept.
    """
    key = read_key(home.key)
    ca = x509.load_pem_x509_certificate(home.ca.read_bytes())
    stub: Any = FederationStub(channel)
    request = RenewRequest(certificate_request=request_certificate(key))
    leaving(request.SerializeToString())
    try:
        reply = stub.Renew(request, timeout=_TIMEOUT_S)
    except grpc.RpcError as error:
        raise RenewalFailed(_sentence(error)) from error
    certificate = checked(reply.certificate, ca, (home.institution, key_hash(key.public_key())), now)
    write_secret(home.certificate, to_pem(certificate))
    return certificate


@contextmanager
def kept_renewed(channel: grpc.Channel, home: Home, pace: Pace, leaving: Leaving = _unwatched) -> Iterator[None]:
    """The home's certificate is renewed when due: before anything else here happens, and at the pace from then on.

    From a thread of its own, since training may keep the caller busy for longer than a certificate has left. Another
    call on the same connection does not touch an open stream.
    """
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(pace.interval_s):
            _try(channel, home, pace.clock(), leaving)

    _try(channel, home, pace.clock(), leaving)
    thread = threading.Thread(target=keep, name="renewal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()  # before the channel closes under it; it waits for one answer at most


def _try(channel: grpc.Channel, home: Home, now: datetime, leaving: Leaving) -> None:
    """Renew if that is due; a failure is told and changes nothing."""
    try:
        old = x509.load_pem_x509_certificate(home.certificate.read_bytes())
        if not is_due(old, now):
            return
        new = renew(channel, home, now, leaving)
    except (LeptonError, OSError, ValueError) as error:
        if not _is_away(error):
            _say(f"the certificate was not renewed: {error}; the old one works until it ends; trying on by itself")
    else:
        _say(f"the certificate was renewed, until {new.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")


def _is_away(error: Exception) -> bool:
    """Nobody answered: the stream says so itself, once and not at every attempt."""
    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() == grpc.StatusCode.UNAVAILABLE


def said(error: Any) -> str:
    """What the server wrote in a status, as one short line that a terminal can show."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(error.details() or "")).split())[:200]


def _sentence(error: Any) -> str:
    code = error.code()
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return f"the server refused ({said(error)})"
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return "the server is of an older release and renews nothing; ask the operator to update it"
    return f"the server did not answer ({code.name})"


def _say(line: str) -> None:
    sys.stderr.write(f"{' '.join(line.split())}\n")
    sys.stderr.flush()
