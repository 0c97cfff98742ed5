"""The enrolment service: a secret and a certificate request in, a certificate out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc

from lepton_fl.errors import LeptonError
from lepton_fl.link.certificates import Authority, key_hash, requested_key, sign_institution, to_pem
from lepton_fl.link.invitation import SECRET_BYTES
from lepton_fl.v1.enrolment_pb2 import EnrollReply, EnrollRequest
from lepton_fl.v1.enrolment_pb2_grpc import EnrolmentServicer
from lepton_server.store import Store

_log = logging.getLogger(__name__)


def enrol(store: Store, authority: Authority, request: EnrollRequest, now: datetime) -> tuple[str, bytes]:
    """Check the invitation and the request, sign, and add the member; returns its name and certificate in PEM.

    Raises:
        LeptonError: nothing was signed or changed.
    """
    if len(request.secret) != SECRET_BYTES:
        raise LeptonError("the invitation is damaged; ask the operator for another")
    found = store.invited(request.secret, now)
    identity = key_hash(requested_key(request.certificate_request))
    signed = sign_institution(authority, request.certificate_request, found.institution, now)
    kept = store.enrol(request.secret, identity, to_pem(signed), (now, signed.not_valid_after_utc))
    return found.institution, kept


class Enrolment(EnrolmentServicer):
    """gRPC around `enrol`; a refusal is a status with one sentence."""

    def __init__(
        self, open_store: Callable[[], Store], authority: Authority, addresses: list[str], clock: Callable[[], datetime]
    ) -> None:
        self._open_store = open_store
        self._authority = authority
        self._addresses = addresses
        self._clock = clock

    async def Enroll(self, request: EnrollRequest, context: Any) -> EnrollReply:  # noqa: N802 - gRPC's name
        """See `enrol`."""
        try:
            # fsync and signing block; the loop that carries heartbeats must not wait for them.
            name, certificate = await asyncio.to_thread(self._enrol, request)
        except LeptonError as error:
            _log.info("enrolment refused: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise  # abort does not return; this is for the type checker
        _log.info("%s enrolled", name, extra={"institution": name})
        return EnrollReply(certificate=certificate, institution=name, addresses=self._addresses)

    def _enrol(self, request: EnrollRequest) -> tuple[str, bytes]:
        store = self._open_store()
        try:
            return enrol(store, self._authority, request, self._clock())
        finally:
            store.close()
