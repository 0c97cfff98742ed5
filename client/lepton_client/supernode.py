"""An institution behind a SuperNode: what comes through Flower is answered under its own policy, from its own ledger.

A run's contract is considered as `lepton-client` considers one, and each round is carried out by the same `job`. What
Flower has no place for is missing: nobody signed the contract, no person is asked, and no operator countersigns the
ledger. docs/flower.md says what has to be assumed of the code that runs here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from lepton_client import job
from lepton_client.agreeing import refuse_change
from lepton_client.considering import Considered, consider
from lepton_client.job import Here, Told
from lepton_client.policy import BY_POLICY
from lepton_client.refused import Declined
from lepton_client.supernode_site import Site
from lepton_client.unmasked_rounds import AnsweredRounds
from lepton_fl.energy.meter import of_this_machine
from lepton_fl.errors import LeptonError
from lepton_fl.federation.codec import Route, decode, encode
from lepton_fl.federation.contract import Contract, from_bytes, to_bytes
from lepton_fl.federation.flower_offer import offered, takes_part, unkept, who_am_i
from lepton_fl.files import write_secret
from lepton_fl.flower import CLIENT_APP_RAISED, Error, Message, MessageType, as_the_node
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.training.device import gpu_uuid

_log = logging.getLogger(__name__)
_NOTHING = "nothing was trained or sent"
_ROUND = (MessageType.TRAIN, MessageType.EVALUATE)


class Institution:
    """Answers what Flower brings, with this institution's data; the run that was asked about last stays joined."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._job: job.Job | None = None

    def answer(self, message: Message) -> Message:
        """The answer, in the ledger before it is returned; what is refused is refused in a line."""
        with refusing(message) as refused, as_the_node():
            kind = message.metadata.message_type
            if kind == MessageType.QUERY:
                contract = offered(message.content)
                if contract is None:
                    return Message(who_am_i(self._site.home.institution), reply_to=message)
                self._agree(message, contract)
                return Message(takes_part(contract), reply_to=message)
            if kind not in _ROUND:
                raise Declined(f"an institution trains and evaluates, and was asked for something else; {_NOTHING}")
            return self._carried_out(message)
        return refused[0]

    def _agree(self, message: Message, contract: Contract) -> None:
        """The run is known to the ledger under this contract, and no other can take its place."""
        if contract.run_id != message.metadata.run_id or self._site.home.institution not in contract.institutions:
            raise Declined(f"the contract is another run's, or names others alone; {_NOTHING}")
        path = self._place(contract.run_id)
        if path.exists():
            refuse_change(from_bytes(path.read_bytes()), contract)
        considered = _considered(contract, self._site)
        if not path.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_secret(path, to_bytes(contract))
        self._job = _joined(considered, message, self._site)
        what = f"{considered.terms.task.title}, {considered.terms.rounds} rounds"
        _log.info("takes part in the run %s of a SuperLink: %s", contract.run_id, what)

    def _carried_out(self, message: Message) -> Message:
        """The answer to a round of a run that was agreed to; its ledger has what leaves."""
        joined, message_id = self._joined_before(message), message.metadata.message_id
        told = Told(_nobody, datetime.now().astimezone(), None)
        found = job.carry_out(joined, message_id, encode(message), told)
        self._site.ledger.left(job.entry_of(joined, message_id, found, found.parts.size()))
        route = Route(joined.run_id, joined.node_id, 1, message_id, reply_to=message_id)
        answered = decode(found.parts, route)
        if answered.has_error():
            return Message(answered.error, reply_to=message)
        return Message(answered.content, reply_to=message)

    def _joined_before(self, message: Message) -> job.Job:
        """The message's run, which was agreed to; it is considered anew where another process agreed to it."""
        run_id = message.metadata.run_id
        if self._job is None or self._job.run_id != run_id:
            path = self._place(run_id)
            if not path.exists():
                raise Declined(f"no contract of this run was agreed to here; {_NOTHING}")
            considered = _considered(from_bytes(path.read_bytes()), self._site)
            self._job = _joined(considered, message, self._site)
        return self._job

    def _place(self, run_id: int) -> Path:
        return self._site.home.path / "supernode" / f"{run_id}.json"


@contextmanager
def refusing(message: Message) -> Iterator[list[Message]]:
    """What is raised inside is told here in full, and to the operator by its kind alone."""
    refused: list[Message] = []
    try:
        yield refused
    except Declined as error:
        reason = str(error)
        _log.warning("%s", error)
    except LeptonError as error:
        reason = f"{type(error).__name__}; {_NOTHING}; the institution's log says more"
        _log.warning("%s", error)
    except Exception as error:
        reason = f"{type(error).__name__}; the institution's log says more"
        _log.warning("could not answer: %s: %s", type(error).__name__, error)
    else:
        return
    refused.append(Message(Error(CLIENT_APP_RAISED, reason), reply_to=message))


def _considered(contract: Contract, site: Site) -> Considered:
    """What the contract means here, which the policy allows without a person; raises `Declined`."""
    lacks = unkept(contract.settings())
    if lacks is not None or contract.secure_aggregation:
        why, choose = lacks or ("masked rounds are not answered here", "secure_aggregation=off")
        raise Declined(f"{why}; {_NOTHING}; choose {choose}, or take part with lepton-client")
    if site.position.policy.accept != BY_POLICY:
        raise Declined(
            f"policy.accept is by-hand, and behind a SuperNode no person is asked; {_NOTHING}; a policy with accept: "
            "by-policy allows it, or take part with lepton-client"
        )
    considered = consider(contract, site.position, datetime.now().astimezone(), in_full=False)
    if considered.refused is not None:
        _log.warning("refused the run %s: %s: %s", contract.run_id, considered.refused.name, considered.refused.says)
        raise Declined(f"{considered.refused.name} refuses; {_NOTHING}")
    return considered


def _joined(considered: Considered, message: Message, site: Site) -> job.Job:
    policy, run_id = site.position.policy, considered.contract.run_id
    here = Here(
        site.source,
        site.home.institution,
        message.metadata.dst_node_id,
        Identity.generate(os.urandom),  # no masked round is answered, so nobody hears of it
        AnsweredRounds(site.home.path / "answered" / str(run_id)),
        of_this_machine(policy.power_w, gpu_uuid(site.position.device)),
    )
    return job.join(considered, policy, site.ledger, here)


def _nobody() -> None:
    """Nobody is told of a reservation: Flower has no place for it."""
