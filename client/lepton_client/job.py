"""The run this institution takes part in: its records, its program, and each round paid before a record is read."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lepton_client.clauses import RoundFacts, refuse_unmet, round_clauses, rule_for
from lepton_client.considering import Considered, read_from
from lepton_client.ledger import Ledger
from lepton_client.ledger_files import LedgerDamaged
from lepton_client.outbound import DECLINED, DECLINED_RULE, FAILURE, FAILURE_RULE
from lepton_client.policy import Policy
from lepton_client.records import own_site
from lepton_client.refused import Refused
from lepton_fl.errors import LeptonError
from lepton_fl.federation import replies
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.client_app import client_app
from lepton_fl.federation.codec import BadMessage, Route, decode, encode
from lepton_fl.federation.contract import COHORT_KEY, EXACT_COUNTS, NOISED_UPDATE, Contract
from lepton_fl.federation.drift import Agreed, agreed, drift
from lepton_fl.flower import CLIENT_APP_RAISED, ClientApp, Context, Error, Message, MessageType, RecordDict, enter_run
from lepton_fl.link.frames import Parts
from lepton_fl.tasks.task import DataSource

_log = logging.getLogger(__name__)
_BLOCK = 1 << 20


class SpoolFull(LeptonError):
    """This institution's disk cannot take what must be written before anything leaves."""

    exit_code = 9


class Rounds:
    """See `lepton_fl.privacy.rounds_spent.RoundsSpent`: a round begins when the ledger holds its cost."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self._ledger, self._run = ledger, run
        self._instruction = ""
        self._reserved: Callable[[], None] = _nobody

    def carry_out(self, instruction: str, reserved: Callable[[], None]) -> None:
        """The instruction that the next round belongs to, and who is told when its cost is in the ledger."""
        self._instruction, self._reserved = instruction, reserved

    def begin(self, institution: str, round: int, planned: int) -> None:
        """See `RoundsSpent.begin`."""
        self._ledger.reserve(self._run, round, self._instruction)
        self._reserved()


def _nobody() -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Answer:
    """What an instruction came to, and what it is for the journal."""

    parts: Parts
    round: int
    kind: str
    rule: str
    is_training: bool
    is_covered: bool  # by the account's epsilon, since noise covers it or it holds nothing of the data


@dataclass(frozen=True)
class Job:
    """A run that was agreed to."""

    run_id: int
    node_id: int
    contract: Contract
    policy: Policy
    ledger: Ledger
    agreed: Agreed
    app: ClientApp
    rounds: Rounds
    context: Context

    @property
    def run(self) -> str:
        """As the ledger calls it."""
        return str(self.run_id)


def join(considered: Considered, policy: Policy, ledger: Ledger, data: tuple[DataSource, str, int]) -> Job:
    """Read this institution's records and declare the run to the ledger.

    Args:
        data: where the records are, this institution's name, and its node id.

    Raises:
        UnsoundMechanism: the self-test of a private run failed.
        DataError: the records do not fit the task.
        ConfigError: the run does not fit the account that it would pay from.
    """
    source, institution, node_id = data
    program, declared, contract = considered.program, considered.declared, considered.contract
    if program is None or declared is None:
        raise RuntimeError("a refused contract is not joined")
    known = ledger.run(declared.run)
    read = digest_of(source) if known is None else known.declared.data_sha256
    site = own_site(considered.terms, source, institution)
    # The self-test comes with the app: before the ledger knows the run, and before anybody hears that it is accepted.
    ledger.declare(read_from(declared, read), may_follow_uncovered=policy.public_data)
    enter_run(contract.run_id)
    rounds = Rounds(ledger, declared.run)
    context = Context(contract.run_id, node_id, {"institution": site.institution}, RecordDict(), {})
    return Job(
        contract.run_id,
        node_id,
        contract,
        policy,
        ledger,
        agreed(contract, considered.terms, template_of(program.model)),
        client_app(program, {site.institution: site}, rounds),
        rounds,
        context,
    )


def carry_out(job: Job, message_id: str, parts: Parts, told: tuple[Callable[[], None], datetime]) -> Answer:
    """Do what an instruction asks, if it is what was signed, and the policy and the ledger allow it now.

    Args:
        told: called when the ledger holds the round's cost; and the local time.

    Raises:
        Refused: the instruction is not what was signed; the field is named.
        LedgerDamaged: nothing may be trained until a person decides.
        SpoolFull: what must be on disk first cannot be written.
    """
    reserved, now = told
    message = _message(job, message_id, parts)
    is_training = message.metadata.message_type == MessageType.TRAIN
    config = message.content.config_records["config"]
    round = int(str(config["server-round"]))
    if not is_training and EXACT_COUNTS not in job.policy.may_leave:
        return _failure(message, round, f"{replies.DECLINED}{EXACT_COUNTS} may not leave")
    began = time.monotonic()
    try:
        known = job.ledger.run(job.run)
        used = 0.0 if known is None else known.seconds / 3600
        refuse_unmet(round_clauses(job.policy, RoundFacts(int(str(config[COHORT_KEY])), now.time(), used)))
        job.rounds.carry_out(message_id, reserved)
        answer = encode(job.app(message, job.context))
        if is_training:
            job.ledger.settle(job.run, round, time.monotonic() - began)
    except OSError as error:
        # A full disk is this machine's matter: the round is asked for again once there is room.
        raise SpoolFull(
            f"cannot note the round: {error.strerror}; nothing was released; make room, then run the same command again"
        ) from error
    except LedgerDamaged:
        raise
    except LeptonError as error:
        _log.warning("could not answer: %s", error, extra={"run": job.run_id})
        # The sentence may count records; only its kind leaves.
        return _failure(message, round, type(error).__name__)
    except Exception as error:  # whatever went wrong is told here in full, and to the server by its type alone
        _log.warning("could not answer: %s: %s", type(error).__name__, error, extra={"run": job.run_id})
        return _failure(message, round, type(error).__name__)
    return answered(job, answer, round, is_training=is_training)


def answered(job: Job, parts: Parts, round: int, *, is_training: bool) -> Answer:
    """What an answer is that holds what was asked for; raises `Refused` where no rule lets it leave."""
    kinds = kinds_of(job, is_training=is_training)
    rule = ", ".join(rule_for(job.policy, kind) for kind in kinds)
    return Answer(parts, round, "+".join(kinds), rule, is_training, is_covered=kinds == (NOISED_UPDATE,))


def kinds_of(job: Job, *, is_training: bool) -> tuple[str, ...]:
    """What an answer to training, or to an evaluation, holds."""
    return job.contract.must_leave if is_training else (EXACT_COUNTS,)


def failure(parts: Parts, round: int, reason: str) -> Answer:
    """What an answer is that holds none."""
    if reason.startswith(replies.DECLINED):
        return Answer(parts, round, DECLINED, DECLINED_RULE, is_training=False, is_covered=True)
    # Whether and how a round fails may depend on the data.
    return Answer(parts, round, FAILURE, FAILURE_RULE, is_training=False, is_covered=False)


def _message(job: Job, message_id: str, parts: Parts) -> Message:
    try:
        message = decode(parts, Route(job.run_id, 1, job.node_id, message_id))
    except BadMessage as error:
        raise Refused(
            f"the server sent what is no message ({error}); nothing was trained; tell the operator"
        ) from error
    differs = drift(job.agreed, message)
    if differs is not None:
        raise Refused(
            f"the server asks for what was not signed: {differs}; nothing was read or sent; tell the operator"
        )
    return message


def _failure(message: Message, round: int, reason: str) -> Answer:
    refusal = encode(Message(Error(CLIENT_APP_RAISED, reason), reply_to=message))
    return failure(refusal, round, reason)


def digest_of(source: DataSource) -> str:
    """Hex SHA-256 of the file that the records are in, or of a folder's files; empty where a task brings its own.

    For the ledger alone; it never leaves.
    """
    digest = hashlib.sha256()
    paths = [Path(source.path)] if source.path else sorted(Path(source.dir).iterdir()) if source.dir else []
    for path in paths:
        if not path.is_file():
            continue
        digest.update(path.name.encode() + b"\0" + path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest() if paths else ""
