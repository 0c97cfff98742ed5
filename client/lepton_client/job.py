"""The run this institution takes part in: its records, its program, and each round paid before a record is read."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from lepton_client.answers import REFUSED, Answer, Signed, answered, failure
from lepton_client.beside import Beside
from lepton_client.clauses import RoundFacts, refuse_unmet, round_clauses
from lepton_client.considering import Considered, evaluation_run, read_from
from lepton_client.energy_told import computing
from lepton_client.ledger import Ledger
from lepton_client.ledger_files import LedgerDamaged
from lepton_client.log_heads import Logged, LogRefused
from lepton_client.policy import Policy
from lepton_client.records import digest_of, own_site
from lepton_client.refused import Refused
from lepton_client.unmasked_rounds import AnsweredRounds
from lepton_fl.energy.meter import Meter
from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.fairness.settings import LocalReweighing
from lepton_fl.federation import replies
from lepton_fl.federation.arrays import sha256_of, template_of
from lepton_fl.federation.client_app import ClientProgram, client_app, self_test
from lepton_fl.federation.codec import BadMessage, Route, decode, encode
from lepton_fl.federation.contract import (
    COHORT_KEY,
    Contract,
    digest,
)
from lepton_fl.federation.drift import Agreed, agreed, drift
from lepton_fl.federation.masked_app import Computes, MaskedApp, Own
from lepton_fl.federation.own_weights import with_own_weights
from lepton_fl.federation.program import is_noised_locally
from lepton_fl.federation.steps import INBOX, PARAMS, RECORD, Step, step_of
from lepton_fl.federation.summed import sums_of
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import CLIENT_APP_RAISED, Context, Error, Message, MessageType, RecordDict, enter_run
from lepton_fl.link.frames import Parts
from lepton_fl.privacy.books import Left
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.secure_aggregation.refusals import Aborted
from lepton_fl.tasks.task import DataSource
from lepton_fl.training.examples import Site

_log = logging.getLogger(__name__)


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

    def begin(self, institution: str, round: int, planned: int, of: str = "") -> None:
        """See `RoundsSpent.begin`; what no epsilon covers was not declared, and costs nothing that counts."""
        run = evaluation_run(self._run, of)
        if of and self._ledger.run(run) is None:
            return
        self._ledger.reserve(run, round, self._instruction)
        self._reserved()


def _nobody() -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Here:
    """What is this institution's in a run."""

    source: DataSource
    institution: str
    node_id: int
    identity: Identity
    answered: AnsweredRounds
    meter: Meter


@dataclass(frozen=True)
class Masked:
    """The app of masked rounds, and where it trains."""

    app: MaskedApp
    beside: Beside


@dataclass(frozen=True)
class Job:
    """A run that was agreed to."""

    run_id: int
    node_id: int
    contract: Contract
    policy: Policy
    ledger: Ledger
    agreed: Agreed
    app: Callable[[Message, Context], Message]
    masked: Masked | None  # under secure aggregation, what of the app is asked beside its answers
    rounds: Rounds
    context: Context
    evaluations: Mapping[str, str]  # part of the data to the first of the runs by which its evaluations are paid for
    meter: Meter  # of this process, for this run

    def run_of(self, part: str | None) -> str:
        """The run of the ledger that pays from the account of this part; the training's, where none does."""
        return self.evaluations.get(part or "", self.run)

    @property
    def signed(self) -> Signed:
        """What its answers are held against."""
        return Signed(self.contract, self.policy)

    @property
    def run(self) -> str:
        """As the ledger calls it."""
        return str(self.run_id)


def join(considered: Considered, policy: Policy, ledger: Ledger, here: Here) -> Job:
    """Read this institution's records and declare the run to the ledger.

    Raises:
        UnsoundMechanism: the self-test of a private run failed.
        DataError: the records do not fit the task.
        ConfigError: the run does not fit the account that it would pay from.
    """
    program, declared, contract = considered.program, considered.declared, considered.contract
    if program is None or declared is None:
        raise RuntimeError("a refused contract is not joined")
    known = ledger.run(declared.run)
    read = digest_of(here.source) if known is None else known.declared.data_sha256
    site = _weighed(considered.terms, own_site(considered.terms, here.source, here.institution), program)
    # Before the ledger knows the run, and before anybody hears that it is accepted.
    if contract.secure_aggregation:
        self_test(program)
    for one in (declared, *considered.evaluations):
        ledger.declare(read_from(one, read), may_follow_uncovered=policy.public_data)
    enter_run(contract.run_id)
    rounds = Rounds(ledger, declared.run)
    context = Context(contract.run_id, here.node_id, {"institution": site.institution}, RecordDict(), {})
    masked = _masked(considered, (policy, here), (program, site), rounds) if contract.secure_aggregation else None
    return Job(
        contract.run_id,
        here.node_id,
        contract,
        policy,
        ledger,
        agreed(contract, considered.terms, template_of(program.model)),
        masked.app if masked is not None else client_app(program, {site.institution: site}, rounds),
        masked,
        rounds,
        context,
        {one.part: one.run for one in reversed(considered.evaluations)},
        here.meter,
    )


def _weighed(terms: Terms, site: Site, program: ClientProgram) -> Site:
    """The site with weights of its own, where the run has them and no table of its own must be paid for."""
    if isinstance(terms.fairness, LocalReweighing) and is_noised_locally(terms):
        raise ConfigError(
            "fairness=local_rw under privacy draws a noisy table at each institution, and no ledger has an entry for "
            "it; nothing was trained; ask the operator for fairness=global_rw or group"
        )
    return with_own_weights(terms, site, program.randomness)


def _masked(
    considered: Considered, of_here: tuple[Policy, Here], trains: tuple[ClientProgram, Site], rounds: Rounds
) -> Masked:
    (policy, here), (program, site), contract = of_here, trains, considered.contract
    own = Own(
        here.institution,
        here.identity,
        {name: bytes.fromhex(key) for name, key in contract.identities.items()},
        contract.run_id,
        bytes.fromhex(digest(contract)),
        policy.least_cohort,
        here.answered,
        os.urandom,
    )
    sums, beside = sums_of(considered.terms, program, len(contract.institutions)), Beside()
    computes = Computes(program, site, sums, rounds, {*contract.may_leave} <= {*policy.may_leave}, beside.begin)
    return Masked(MaskedApp(own, computes), beside)


@dataclass(frozen=True)
class Told:
    """What goes with an instruction."""

    reserved: Callable[[], None]  # called when the ledger holds the round's cost
    now: datetime  # local time
    logged: Logged | None  # the last round in the operator's log; None where the contract promises no log


def carry_out(job: Job, message_id: str, parts: Parts, told: Told) -> Answer:
    """Do what an instruction asks, if it is what was signed, and the policy and the ledger allow it now.

    Raises:
        Refused: the instruction is not what was signed; the field is named.
        LogRefused: the operator's log withholds a round, or names another model.
        LedgerDamaged: nothing may be trained until a person decides.
        SpoolFull: what must be on disk first cannot be written.
    """
    message, step = _message(job, message_id, parts)
    is_training, round = message.metadata.message_type == MessageType.TRAIN, _round(job, message, step)
    if told.logged is not None and (step is None or step.name == PARAMS):
        _refuse_unlogged(message, (round, is_training), told.logged)
    kept = [kind for kind in job.contract.may_leave if kind not in job.policy.may_leave]
    if step is None and not is_training and kept:
        return _failure(message, round, f"{replies.DECLINED}{kept[0]} may not leave")
    began = time.monotonic()
    try:
        if step is None or step.name == PARAMS:
            _refuse_now(job, message, told.now)
        job.rounds.carry_out(message_id, told.reserved)
        with computing(job.meter, step, is_training=is_training):
            answer = encode(job.app(message, job.context))
        _settle(job, (step, round, is_training), time.monotonic() - began)
    except OSError as error:
        # A full disk is this machine's matter: the round is asked for again once there is room.
        raise SpoolFull(
            f"cannot note the round: {error.strerror}; nothing was released; make room, then run the same command again"
        ) from error
    except LedgerDamaged:
        raise
    except Aborted as error:
        _log.warning("left the round: %s", error, extra={"run": job.run_id})
        return _failure(message, round, f"{REFUSED}{error.name}")
    except LeptonError as error:
        _log.warning("could not answer: %s", error, extra={"run": job.run_id})
        # The sentence may count records; only its kind leaves.
        return _failure(message, round, type(error).__name__)
    except Exception as error:  # whatever went wrong is told here in full, and to the server by its type alone
        _log.warning("could not answer: %s: %s", type(error).__name__, error, extra={"run": job.run_id})
        return _failure(message, round, type(error).__name__)
    return answered(job.signed, answer, round, is_training=is_training, step=step)


def entry_of(job: Job, message_id: str, answer: Answer, sent_bytes: int) -> Left:
    """What the ledger is to hold before the answer's first byte leaves."""
    return Left(
        run=job.run,
        round=answer.round,
        message_id=message_id,
        kind=answer.kind,
        bytes=sent_bytes,
        sha256=answer.parts.sha256.hex(),
        epsilon=job.ledger.epsilon_after(job.run_of(answer.account)) if answer.is_covered else None,
        rule=answer.rule,
    )


def _round(job: Job, message: Message, step: Step | None) -> int:
    """The round that an instruction is part of; a later step's is the one that is under way."""
    if job.masked is not None and step is not None and step.name != PARAMS:
        return job.masked.app.round
    return int(str(message.content.config_records["config"]["server-round"]))


def _refuse_now(job: Job, message: Message, now: datetime) -> None:
    """Raise `Refused` for a clause that this round does not meet now."""
    known = job.ledger.run(job.run)
    used = 0.0 if known is None else known.seconds / 3600
    cohort = int(str(message.content.config_records["config"][COHORT_KEY]))
    refuse_unmet(round_clauses(job.policy, RoundFacts(cohort, now.time(), used)))


def _refuse_unlogged(message: Message, asked: tuple[int, bool], logged: Logged) -> None:
    """Raise `LogRefused` unless the log tells of the round before, and of the very model that is asked about.

    An operator commits a round, and enters it, before it asks for the next or has its model evaluated.
    """
    round, is_training = asked
    if logged.round < round - 1:
        raise LogRefused(
            f"the operator asks for round {round}, and its log ends with round {logged.round}; nothing was trained or "
            "sent; ask the operator for the entries between"
        )
    arrays = message.content.array_records["arrays"]
    model = sha256_of({name: array.numpy() for name, array in arrays.items()})
    if logged.round == (round - 1 if is_training else round) and model != logged.model:
        raise LogRefused(
            f"the model that came is not the one of round {logged.round} in the operator's log; nothing was trained or "
            "sent; ask the operator"
        )


def _settle(job: Job, what: tuple[Step | None, int, bool], seconds: float) -> None:
    """The round's training is over, and took so long; a second attempt trains nothing."""
    step, round, is_training = what
    if not is_training or (step is not None and step.name != INBOX):
        return
    known = job.ledger.run(job.run)
    if known is None or known.last_settled < round:
        job.ledger.settle(job.run, round, seconds if job.masked is None else job.masked.beside.seconds)


def _message(job: Job, message_id: str, parts: Parts) -> tuple[Message, Step | None]:
    """The instruction, and its step of a masked round."""
    try:
        message = decode(parts, Route(job.run_id, 1, job.node_id, message_id))
        step = None if message.has_error() else step_of(message.content)
    except BadMessage as error:
        raise Refused(
            f"the server sent what is no message ({error}); nothing was trained; tell the operator"
        ) from error
    differs = _drift(job, message, step)
    if differs is not None:
        raise Refused(
            f"the server asks for what was not signed: {differs}; nothing was read or sent; tell the operator"
        )
    return message, step


def _drift(job: Job, message: Message, step: Step | None) -> str | None:
    if job.masked is not None and step is not None and step.name != PARAMS:
        # A later step holds nothing but its own bytes, which the protocol holds against what the first one said.
        return None if set(message.content) == {RECORD} else "secure_aggregation: a step holds more than its own bytes"
    if (step is None) != (job.masked is None):
        return f"secure_aggregation: signed {job.contract.secure_aggregation}, now {step is not None}"
    return drift(job.agreed, message)


def _failure(message: Message, round: int, reason: str) -> Answer:
    refusal = encode(Message(Error(CLIENT_APP_RAISED, reason), reply_to=message))
    return failure(refusal, round, reason)
