"""From a welcome to a decision: the contract is checked, considered, kept, and accepted by policy or by a person."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256

from cryptography import x509

from lepton_client.considering import Considered, Position, consider
from lepton_client.contracts import Contracts, Decided, Offered, changed_identities, check_operator
from lepton_client.policy import BY_POLICY
from lepton_client.refused import Refused
from lepton_fl.federation.contract import LARGEST, Contract, differences
from lepton_fl.link.certificates import key_hash
from lepton_fl.link.signature import Signed, Signer
from lepton_fl.v1.federation_pb2 import ClientFrame, Decision, Signature, Welcome

_log = logging.getLogger(__name__)
POLICY = "policy"


@dataclass(frozen=True)
class Desk:
    """What is at hand where contracts are decided."""

    contracts: Contracts
    position: Position
    own: tuple[str, bytes]  # this institution, and its public key for secure aggregation
    ca: x509.Certificate
    signer: Callable[[], Signer]  # read anew, since certificates renew
    clock: Callable[[], datetime]


@dataclass(frozen=True)
class Matter:
    """A contract on the desk; `decided` is None while a person has to look."""

    run_id: int
    considered: Considered
    decided: Decided | None


def offered(desk: Desk, welcome: Welcome) -> Offered:
    """The welcome's contract: signed by the operator, of this federation and run, and the one that was there before.

    Raises:
        Refused: it is another than was signed for this run; the first field that differs is named.
        BadCertificate: the operator did not sign it.
        ConfigError: it cannot be read.
    """
    if len(welcome.contract) > LARGEST:
        raise Refused("the contract of the run is too long; nothing was read or sent; tell the operator")
    came = Offered(welcome.contract, Signed(welcome.signature.certificate, welcome.signature.value))
    check_operator(came, desk.ca, desk.clock())
    contract = came.contract
    federation = key_hash(desk.ca.public_key()).hex()
    if (contract.run_id, contract.federation) != (welcome.run_id, federation):
        raise Refused("the contract is another run's or federation's; nothing was read or sent; tell the operator")
    name, public = desk.own
    if contract.secure_aggregation and contract.identities.get(name) != public.hex():
        raise Refused(
            "the contract names another key for this institution than its own; nothing was read or sent; tell the "
            "operator"
        )
    known = desk.contracts.find(welcome.run_id)
    if known is None:
        desk.contracts.keep(welcome.run_id, came)
        return came
    refuse_change(known.contract, contract)
    return known


def refuse_change(signed: Contract, asked: Contract) -> None:
    """Raise `Refused`, naming the first field, if a run is no longer what was signed."""
    changed = differences(signed, asked)
    if changed:
        raise Refused(
            f"the run is no longer what was signed: {changed[0]}; nothing more was read or sent; ask the operator, who "
            "can offer it as a new run"
        )


def consider_offer(desk: Desk, run_id: int, contract: Contract) -> Matter:
    """The contract held against the policy, with its price; decided at once where no person is needed."""
    now = desk.clock()
    considered = consider(contract, desk.position, now.astimezone(), in_full=False)
    facts = {"price": asdict(considered.proposal.price), "clauses": [asdict(clause) for clause in considered.clauses]}
    desk.contracts.note(run_id, "considered", facts)
    refused, known = considered.refused, desk.contracts.decision(run_id)
    if refused is not None:
        # Also where it was accepted before: the policy is the institution's, and may have become stricter.
        decided = desk.contracts.refuse(run_id, POLICY, now, refused.name)
        _log.warning("refused the run %s: %s: %s; nothing was read or sent", run_id, refused.name, refused.says)
        return Matter(run_id, considered, decided)
    if known is not None and (known.is_accepted or known.by != POLICY):
        return Matter(run_id, considered, known)
    changed = changed_identities(desk.contracts, contract)
    for other, was in changed.items():
        _log.warning("%s has another key than in run %d; compare the fingerprints by telephone", other, was)
    if desk.position.policy.accept == BY_POLICY and not changed:
        return Matter(run_id, considered, desk.contracts.accept(run_id, desk.signer(), POLICY, now))
    _log.info("a contract waits to be read: lepton-client review %s", run_id)
    return Matter(run_id, considered, None)


def frame_of(decided: Decided, offered: Offered) -> ClientFrame:
    """The decision as the server hears it: a signature, or the clause; never a value of the policy."""
    digest = sha256(offered.content).digest()
    if decided.is_accepted and decided.signed is not None:
        signed = Signature(certificate=decided.signed.certificate, value=decided.signed.value)
        return ClientFrame(decision=Decision(contract_sha256=digest, signature=signed))
    reason = decided.reason if decided.by == POLICY else "the institution"
    return ClientFrame(decision=Decision(contract_sha256=digest, refused=reason))
