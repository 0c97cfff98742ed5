"""A member's certificate while it is one: renewed over the link, looked up by a preflight, refused at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from typing import Any

import grpc
from cryptography import x509

from lepton_fl.errors import LeptonError
from lepton_fl.link import frames
from lepton_fl.link.certificates import (
    Authority,
    BadCertificate,
    key_hash,
    requested_key,
    sign_institution,
    to_pem,
)
from lepton_fl.v1.federation_pb2 import ProbeReply, ProbeRequest, RenewReply, RenewRequest
from lepton_server.store import Institution, Store

_log = logging.getLogger(__name__)
NOT_A_MEMBERS = "this certificate is not a member's, or was revoked"


def renew(store: Store, authority: Authority, identity: bytes, request: bytes, now: datetime) -> bytes:
    """Sign and keep a new certificate for the very key that asks; returns it in PEM.

    Args:
        identity: of the key in the certificate that TLS has checked.
        request: a certificate request in PEM, by the same key.

    Raises:
        LeptonError: nothing was signed or changed.
    """
    member = store.member(identity)
    if member is None:
        raise LeptonError(f"{NOT_A_MEMBERS}; nothing was signed")
    if key_hash(requested_key(request)) != identity:
        raise BadCertificate("a renewal is for the key that asks, and this is another; nothing was signed")
    signed = sign_institution(authority, request, member.name, now)
    certificate = to_pem(signed)
    store.renew(identity, certificate, (now, signed.not_valid_after_utc))
    _log.info("%s renewed its certificate, until %s UTC", member.name, f"{signed.not_valid_after_utc:%Y-%m-%d %H:%M}")
    return certificate


class Renewal:
    """gRPC around `renew` and the preflight's question; a refusal is a status with one sentence."""

    def __init__(self, open_store: Callable[[], Store], authority: Authority, clock: Callable[[], datetime]) -> None:
        self._open_store = open_store
        self._authority = authority
        self.clock = clock

    async def renew(self, request: RenewRequest, context: Any) -> RenewReply:
        """See the function `renew`."""
        await self.refuse_ended(context)
        identity = key_hash(peer_certificate(context).public_key())
        try:
            # fsync and signing block; the loop that carries heartbeats must not wait for them.
            certificate = await asyncio.to_thread(self._renew, identity, request.certificate_request)
        except LeptonError as error:
            _log.info("renewal refused: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise  # abort does not return; this is for the type checker
        return RenewReply(certificate=certificate)

    async def probe(self, request: ProbeRequest, context: Any) -> ProbeReply:
        """Tell a member who it is here and what time it is, or why it could not take part."""
        await self.refuse_ended(context)
        member = await asyncio.to_thread(self._member, key_hash(peer_certificate(context).public_key()))
        if member is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, NOT_A_MEMBERS)
        assert member is not None  # noqa: S101 - abort does not return
        ours = version("lepton-fl")
        if request.protocol != frames.PROTOCOL:
            detail = f"this server (lepton-fl {ours}) speaks protocol {frames.PROTOCOL}, the institution "
            detail += f"{request.protocol}; update the older one"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, detail)
        return ProbeReply(
            institution=member.name,
            protocol=frames.PROTOCOL,
            lepton_version=ours,
            server_time=self.clock().timestamp(),
        )

    async def refuse_ended(self, context: Any) -> None:
        """End the call if its certificate has ended: TLS looks at the dates once, when the connection begins."""
        end = peer_certificate(context).not_valid_after_utc
        if self.clock() >= end:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, ended(end))

    def _renew(self, identity: bytes, request: bytes) -> bytes:
        store = self._open_store()
        try:
            return renew(store, self._authority, identity, request, self.clock())
        finally:
            store.close()

    def _member(self, identity: bytes) -> Institution | None:
        store = self._open_store()
        try:
            return store.member(identity)
        finally:
            store.close()


def ended(end: datetime) -> str:
    """What an institution reads whose certificate has ended."""
    return f"this certificate ended at {end:%Y-%m-%d %H:%M} UTC; renew it"


def peer_certificate(context: Any) -> x509.Certificate:
    """The certificate that TLS has checked."""
    (pem,) = context.auth_context()["x509_pem_cert"]
    return x509.load_pem_x509_certificate(pem)
