"""`lepton-client enroll`: make a key here, get a certificate for it, trust one CA."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from lepton_client.certificate_check import checked
from lepton_client.home import Home, open_home, save
from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.link.certificates import (
    BadCertificate,
    key_hash,
    new_key,
    read_key,
    request_certificate,
    to_pem,
    write_key,
)
from lepton_fl.link.invitation import Invitation
from lepton_fl.v1.enrolment_pb2 import EnrollReply, EnrollRequest
from lepton_fl.v1.enrolment_pb2_grpc import EnrolmentStub

_TIMEOUT_S = 20.0


class EnrolmentFailed(LeptonError):
    """The server could not be reached, refused, or answered with a certificate that is not ours."""

    exit_code = 8


def enroll(invitation: Invitation, path: Path, now: datetime) -> Home:
    """Become the institution that the invitation names; returns its home.

    The key is written before anything is sent: if the answer is lost, the same command asks again with the same
    key and gets the same certificate.

    Raises:
        ConfigError: there is an enrolled home already, unless it is this institution's and its certificate ended.
        EnrolmentFailed: with what to do; the invitation stays usable unless the server says otherwise.
    """
    if (path / "client.json").exists():
        _refuse_enrolled(invitation, path, now)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}; nothing was sent; use another --home") from error
    key_path = path / "institution.key"
    if not key_path.exists():
        write_key(key_path, new_key())
    key = read_key(key_path)
    request = EnrollRequest(secret=invitation.secret, certificate_request=request_certificate(key))
    reply = _ask(invitation, request)
    certificate = _checked(reply, invitation, key_hash(key.public_key()), now)
    home = Home(path, invitation.institution, tuple(reply.addresses))
    save(home, to_pem(invitation.ca_certificate), to_pem(certificate))
    return home


def _ask(invitation: Invitation, request: EnrollRequest) -> EnrollReply:
    """Try each address with the invitation's CA as the only root; gRPC checks the server's name."""
    credentials = grpc.ssl_channel_credentials(root_certificates=to_pem(invitation.ca_certificate))
    problems = []
    for address in invitation.addresses:
        with grpc.secure_channel(address, credentials) as channel:
            try:
                answer = EnrolmentStub(channel).Enroll(request, timeout=_TIMEOUT_S)
            except grpc.RpcError as error:
                problems.append(_sentence(error, address))
                if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                    raise EnrolmentFailed(problems[-1]) from error
                continue
            assert isinstance(answer, EnrollReply)  # noqa: S101 - for the type checker
            return answer
    # A wrong server tells more than a silent address.
    raise EnrolmentFailed(next((one for one in problems if "cannot reach" not in one), problems[-1]))


def _sentence(error: Any, address: str) -> str:
    """What a gRPC status means here."""
    detail = str(error.details() or "")
    if error.code() == grpc.StatusCode.PERMISSION_DENIED:
        return f"the server refused: {detail}"
    if "certificate has expired" in detail or "certificate is not yet valid" in detail:
        return (
            f"the certificate of the server at {address} is not valid at this machine's time; the secret was not sent; "
            "compare this machine's clock with the operator's, then run the same command again"
        )
    if "CERTIFICATE_VERIFY_FAILED" in detail or "Hostname Verification" in detail or "Peer name" in detail:
        return (
            f"whoever answers at {address} is not the server of this invitation; the secret was not sent; ask the "
            "operator for the right address"
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the server at {address} did not answer within {_TIMEOUT_S:.0f} s; run the same command again"
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return f"cannot reach the server at {address}; nothing was enrolled; is it running? run the same command again"
    return f"the server at {address} failed ({error.code().name}); run the same command again, or tell the operator"


def _checked(reply: EnrollReply, invitation: Invitation, identity: bytes, now: datetime) -> x509.Certificate:
    """The certificate, if it is ours; see `certificate_check.checked`."""
    ours = (invitation.institution, identity)
    try:
        certificate = checked(reply.certificate, invitation.ca_certificate, ours, now)
    except BadCertificate as error:
        raise EnrolmentFailed(str(error)) from error
    if not reply.addresses:
        raise EnrolmentFailed("the server named no address of the federation; tell the operator")
    return certificate


def _refuse_enrolled(invitation: Invitation, path: Path, now: datetime) -> None:
    """Raise unless the home's certificate has ended and this invitation is for the same place in the same federation.

    Such a home keeps its key, and with it its place; everything else stays as it is until the answer is there.
    """
    try:
        home = open_home(path)
        ca = x509.load_pem_x509_certificate(home.ca.read_bytes())
        end = x509.load_pem_x509_certificate(home.certificate.read_bytes()).not_valid_after_utc
    except (ConfigError, OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is enrolled already; nothing was sent; it is damaged, so restore it from a backup"
        ) from error
    if (home.institution, ca) != (invitation.institution, invitation.ca_certificate):
        raise ConfigError(f"{path} is enrolled already; nothing was sent; use another --home for another federation")
    if now < end:
        raise ConfigError(
            f"{path} is enrolled already; nothing was sent; its certificate lasts until {end:%Y-%m-%d %H:%M} UTC and "
            "renews by itself"
        )
