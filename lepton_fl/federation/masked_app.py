"""The institution's side of masked rounds: each step of the protocol answered, training beside the exchange of keys.

A round begins when its parameters come with the model. The institution pays for it, begins to compute, and answers with
its keys at once; when the vector is asked for, it waits for what it computed. What was computed is kept until the next
round: an attempt that failed is made again with new keys, and never trained twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lepton_fl.federation.arrays import checked, sha256_of, to_arrays
from lepton_fl.federation.client_app import (
    ClientProgram,
    Counted,
    counted,
    local_task,
    pay_for_evaluation,
    share_of_step,
    train,
)
from lepton_fl.federation.codec import BadMessage
from lepton_fl.federation.steps import ECHOES, INBOX, PARAMS, ROSTER, SURVIVORS, Step, answer, step_of, told_sha256
from lepton_fl.federation.summed import Made, Sums, Trained, evaluation_words, share_words, training_words
from lepton_fl.flower import Context, Message, MessageType
from lepton_fl.privacy.rounds_spent import RoundsSpent
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.secure_aggregation.member import Agreed, Answered, Member
from lepton_fl.secure_aggregation.refusals import Aborted
from lepton_fl.secure_aggregation.source import Source
from lepton_fl.secure_aggregation.vector import Words
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY
from lepton_fl.training.examples import Site

_log = logging.getLogger(__name__)
_WORTH_THREADS = 1 << 20  # words; below, starting them costs more than they save

Computing = Callable[[], Words]
"""Waits for a vector that is being computed, or raises what went wrong."""


@dataclass(frozen=True)
class Own:
    """What an institution brings to masked rounds; nothing of it is the operator's to choose."""

    institution: str
    identity: Identity
    identities: Mapping[str, bytes]  # of the signed contract: every institution's public key
    run_id: int
    contract: bytes  # SHA-256
    least_cohort: int  # of the policy
    answered: Answered
    source: Source  # of keys and shares


@dataclass(frozen=True)
class Computes:
    """What the vectors are made of, and where it is computed."""

    program: ClientProgram
    site: Site
    sums: Sums
    spent: RoundsSpent
    is_counting: bool  # False: the policy keeps the hold-out's counts at home, and zeros take their place
    begin: Callable[[Callable[[], Words]], Computing]  # at once, or beside the exchange of keys

    def training(self, message: Message) -> Computing:
        """What the message asks to train, as a vector, begun."""
        return self.begin(lambda: _training(self, message))

    def evaluation(self, message: Message, slot: int) -> Computing:
        """What the message asks to count, as a vector, begun; `slot`: the institution's place in the order of names."""
        return self.begin(lambda: _evaluation(self, message, slot))


class MaskedApp:
    """Answers one institution's steps, one after another."""

    def __init__(self, own: Own, computes: Computes) -> None:
        self._own, self._computes = own, computes
        self._member: Member | None = None
        self._computing: tuple[tuple[str, int, bytes], Computing] | None = None
        self.round = 0  # that is under way
        self._purpose = ""  # of it

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer to a step.

        Raises:
            Aborted: the institution refuses, by name; nothing more of this attempt leaves.
            LeptonError: what was asked for cannot be computed.
        """
        try:
            step = step_of(message.content)
        except BadMessage as error:
            raise Aborted("malformed message", str(error)) from error
        if step is None:
            raise Aborted("malformed message", "the instruction is no step of secure aggregation")
        if step.name == PARAMS:
            return self._begin(message, step.body)
        member = self._member
        if member is None:
            raise Aborted("burned")
        if message.metadata.message_type != self._purpose:
            # By the kind of the instruction it is decided which rule lets the answer leave, and what it is noted as.
            member.forget()
            raise Aborted("other purpose", step.name)
        if step.name == ROSTER:
            return answer(message, Step(ROSTER, member.share(step.body)))
        if step.name == INBOX:
            return self._upload(message, member, step.body)
        if step.name == SURVIVORS:
            return answer(message, Step(SURVIVORS, member.echo(step.body)))
        unmasked = member.unmask(step.body, self._own.answered)
        self._member = self._computing = None
        return answer(message, Step(ECHOES, unmasked))

    def _begin(self, message: Message, params: bytes) -> Message:
        """New keys, and what the round computes on its way; the keys of an earlier attempt are forgotten."""
        own, sums = self._own, self._computes.sums
        if self._member is not None:
            self._member.forget()
        purpose = message.metadata.message_type
        round = local_task(self._computes.program, self._computes.site, message).round
        self.round, self._purpose = round, purpose
        model = told_sha256(sha256_of(checked(message.content.array_records["arrays"], sums.template)), message.content)
        schema = sums.schema(purpose, round)
        agreed = Agreed(
            run_id=own.run_id,
            contract=own.contract,
            purpose=purpose,
            round=round,
            model_sha256=model,
            schema_sha256=schema.sha256,
            length=schema.length,
            wire_bits=schema.wire_bits,
            identities=own.identities,
            least_cohort=own.least_cohort,
        )
        self._member = None
        member = Member(own.institution, own.identity, agreed, own.source)
        # Refused parameters cost nothing: the round is paid after they were checked.
        advert = member.advertise(params)
        self._compute((purpose, round, model), message)
        self._member = member  # not before the round is paid: without that no step is answered
        return answer(message, Step(PARAMS, advert))

    def _compute(self, what: tuple[str, int, bytes], message: Message) -> None:
        if self._computing is not None and self._computing[0] == what:
            return
        self._computing = None
        computes, purpose, round = self._computes, what[0], what[1]
        if purpose == MessageType.TRAIN:
            computes.spent.begin(computes.site.institution, round, computes.program.rounds)
            self._computing = what, computes.training(message)
            return
        if computes.is_counting:
            pay_for_evaluation(computes.program, computes.site.institution, round, computes.spent)
        slot = sorted(self._own.identities).index(self._own.institution)
        self._computing = what, computes.evaluation(message, slot)

    def _upload(self, message: Message, member: Member, inbox: bytes) -> Message:
        if self._computing is None:
            raise Aborted("burned")
        member.receive(inbox)
        made = self._computing[1]()
        if made.saturated:
            _log.warning(
                "%d parameters changed by more than secure_aggregation.update_bound and were cut to it; ask the "
                "operator for a larger one",
                made.saturated,
            )
        threads = (os.cpu_count() or 1) if len(made.words) >= _WORTH_THREADS else 1
        upload = member.mask(made.words, threads)
        return answer(message, Step(INBOX, upload.header), upload.packed)


def _training(computes: Computes, message: Message) -> Words:
    program, site, sums = computes.program, computes.site, computes.sums
    task = local_task(program, site, message)
    rounding = task.randomness.stream("masked-rounding").random_bytes
    if sums.step is not None:
        return share_words(sums, share_of_step(program, site, message, task), rounding)
    metrics = train(program, site, message, task)
    before = checked(message.content.array_records["arrays"], sums.template)
    after = checked(to_arrays(program.model), sums.template)
    loss = metrics.get(TRAIN_LOSS_KEY)
    records = int(str(metrics[WEIGHT_KEY]))
    return training_words(sums, Trained(before, after, records, None if loss is None else float(str(loss))), rounding)


def _evaluation(computes: Computes, message: Message, slot: int) -> Words:
    program, site = computes.program, computes.site
    task = local_task(program, site, message)
    rounding = task.randomness.stream("masked-rounding").random_bytes
    exact = Counted(program.evaluating.nothing(task.round), 0.0)
    if computes.is_counting:
        exact = counted(program, site, message, task.round)
    tables = program.evaluating.released(exact.tables, task.round, task.randomness.stream("evaluation-noise"))
    made = Made(tables, exact.loss_sum, computes.is_counting, slot)
    return evaluation_words(computes.sums, task.round, made, rounding)


def at_once(work: Callable[[], Words]) -> Computing:
    """Computes before the keys are exchanged: for institutions that take turns in one process."""
    made = work()
    return lambda: made


class AnsweredOnce:
    """See `secure_aggregation.member.Answered`; for a simulation: one process, one run."""

    def __init__(self) -> None:
        self._marked: set[tuple[int, str, int]] = set()

    def mark(self, run_id: int, purpose: str, round: int) -> None:
        """See `Answered.mark`."""
        if (run_id, purpose, round) in self._marked:
            raise Aborted("second unmask")
        self._marked.add((run_id, purpose, round))
