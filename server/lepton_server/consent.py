"""Who agreed to the run, and where each ledger stands: nobody is asked for work before it countersigned."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TypeVar

from cryptography import x509

from lepton_fl.errors import LeptonError
from lepton_fl.link import ledger_head, signature
from lepton_fl.link.certificates import BadCertificate, institution_uri, key_hash
from lepton_fl.link.frames import BadFrame
from lepton_fl.link.ledger_head import LedgerHead
from lepton_fl.link.signature import Signed, Signer
from lepton_fl.v1.federation_pb2 import Countersigned, Decision, Identity, ServerFrame, Signature
from lepton_server.agreements import Offered, Seen
from lepton_server.disk import Disk, Records
from lepton_server.owing import Owing
from lepton_server.session import Session

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
IDENTITY_BYTES = 32
_LONGEST_CLAUSE = 200  # characters


@dataclass(frozen=True)
class Office:
    """What the operator signs and checks with."""

    signer: Signer
    ca: x509.Certificate
    clock: Callable[[], datetime]


class Consent:
    """Contract and decisions of the run, in the event loop; changed with `owing.changed` held."""

    def __init__(self, owing: Owing, disk: Disk, office: Office) -> None:
        self._owing, self._disk, self._office = owing, disk, office
        self._run_id = 0
        self._offered: Offered | None = None
        self._digest = b""
        self.accepted: set[str] = set()
        self.refused: dict[str, str] = {}  # institution: the clause of its policy

    def begin_run(self, run_id: int, offered: Offered) -> None:
        """Ask for consent to this contract; whoever gave it before a crash has given it. Not in the event loop."""
        accepted = self._disk.wait(lambda records: records.agreements.accepted(run_id))
        with self._owing.changed:
            self._run_id, self._offered, self._digest = run_id, offered, sha256(offered.content).digest()
            self.accepted, self.refused = accepted, {}

    async def decided(self, session: Session, decision: Decision) -> None:
        """An institution accepted or refused.

        Raises:
            BadFrame: its signature is not its own.
        """
        name, now, offered = session.member.name, self._office.clock(), self._offered
        if offered is None or decision.contract_sha256 != self._digest:
            _log.info("%s decided on a contract that is not offered", name)
            return
        run_id = self._run_id
        if not decision.HasField("signature"):
            clause = "".join(one for one in decision.refused if one.isprintable())[:_LONGEST_CLAUSE] or "no reason"
            await self._kept(lambda records: records.agreements.refuse(run_id, name, clause, now))
            with self._owing.changed:
                self.accepted.discard(name)
                self.refused[name] = clause
                self._owing.changed.notify_all()
            self._owing.refuse(session.member.node_id, f"it refused the contract: {clause}")
            _log.warning("%s refused the contract: %s", name, clause, extra={"institution": name})
            return
        signed = Signed(decision.signature.certificate, decision.signature.value)
        self._refuse_unsigned(session, (signed, signature.CONTRACT), offered.content, now)
        await self._kept(lambda records: records.agreements.accept(run_id, name, signed, now))
        with self._owing.changed:
            is_new = name not in self.accepted
            self.accepted.add(name)
            self.refused.pop(name, None)
            self._owing.changed.notify_all()
        if is_new:
            _log.info("%s accepted the contract", name, extra={"institution": name})

    def identified(self, session: Session, said: Identity) -> bytes | None:
        """The institution's public key for secure aggregation; None where it has none.

        Raises:
            BadFrame: it is not signed by the key of this stream's certificate.
        """
        if not said.public_key:
            return None
        if len(said.public_key) != IDENTITY_BYTES:
            raise BadFrame("an identity is sent that is no key")
        signed = Signed(said.signature.certificate, said.signature.value)
        self._refuse_unsigned(session, (signed, signature.IDENTITY), said.public_key, self._office.clock())
        return said.public_key

    def _refuse_unsigned(self, session: Session, by_whom: tuple[Signed, str], content: bytes, now: datetime) -> None:
        (signed, domain), name = by_whom, session.member.name
        try:
            by = (institution_uri(name), self._office.ca)
            signature.check(signed, domain, content, by, now)
            own = x509.load_pem_x509_certificate(signed.certificate).public_key()
            if key_hash(own) != session.identity:
                raise BadCertificate("it is signed with another key than this stream's")
        except BadCertificate as error:
            raise BadFrame(str(error)) from error

    async def last_seen(self, institution: str) -> ServerFrame:
        """The frame that every stream begins with: the last head of the institution's ledger."""
        seen = await self._disk.aside(lambda records: records.agreements.last_seen(institution))
        return _frame(seen)

    async def seen(self, session: Session, head: LedgerHead) -> ServerFrame | None:
        """The countersignature of a new head; None for one that is older than what was signed before.

        Raises:
            BadFrame: this is no head.
        """
        if not head.is_sound():
            raise BadFrame("a ledger's head is sent that is none")
        name, now = session.member.name, self._office.clock()
        at = now.timestamp()
        seen = Seen(head, at, ledger_head.countersign(self._office.signer, name, head, at))
        is_newer = await self._kept(lambda records: records.agreements.see(name, seen, now))
        if not is_newer:
            _log.warning("%s shows a ledger that is older than the one it had", name, extra={"institution": name})
            return None
        return _frame(seen)

    async def _kept(self, write: Callable[[Records], _T]) -> _T:
        """It is in the records; if they cannot be written, the run breaks off, and can be continued."""
        try:
            return await self._disk.aside(write)
        except LeptonError as error:
            self._owing.break_off(error)
            raise


def _frame(seen: Seen | None) -> ServerFrame:
    if seen is None:
        return ServerFrame(countersigned=Countersigned())
    signed = Signature(certificate=seen.signed.certificate, value=seen.signed.value)
    return ServerFrame(countersigned=Countersigned(head=ledger_head.to_wire(seen.head), at=seen.at, signature=signed))
