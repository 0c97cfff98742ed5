"""What an answer is, for the journal: which kind, by which rule it may leave, whether epsilon covers it."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_client.clauses import rule_for
from lepton_client.outbound import (
    DECLINED,
    DECLINED_RULE,
    FAILURE,
    FAILURE_RULE,
    MASKING,
    MASKING_RULE,
    UNMASKING,
    UNMASKING_RULE,
)
from lepton_client.policy import Policy
from lepton_fl.federation import replies
from lepton_fl.federation.contract import COVERED, Contract
from lepton_fl.federation.steps import ECHOES, INBOX, Step
from lepton_fl.link.frames import Parts
from lepton_fl.privacy.books import HELD_OUT, TRAINED_ON

REFUSED = "refused: "  # how a reason begins that is the name of a refusal in secure aggregation


@dataclass(frozen=True)
class Signed:
    """What answers are held against."""

    contract: Contract
    policy: Policy


@dataclass(frozen=True)
class Answer:
    """What an instruction came to, and what it is for the journal."""

    parts: Parts
    round: int
    kind: str
    rule: str
    account: str | None  # which part of the data paid for it, of `books.PARTS`; None: it holds nothing that is paid for
    is_covered: bool  # by the account's epsilon, since noise covers it or it holds nothing of the data


def answered(signed: Signed, parts: Parts, round: int, *, is_training: bool, step: Step | None) -> Answer:
    """What an answer is that holds what was asked for; raises `Refused` where no rule lets it leave."""
    is_kept = not is_training and not {*signed.contract.may_leave} <= {*signed.policy.may_leave}
    if step is not None and (step.name != INBOX or is_kept):
        is_last = step.name == ECHOES
        kind, rule = (UNMASKING, UNMASKING_RULE) if is_last else (MASKING, MASKING_RULE)
        return Answer(parts, round, kind, rule, account=None, is_covered=True)
    kinds = kinds_of(signed, is_training=is_training)
    rule = ", ".join(rule_for(signed.policy, kind) for kind in kinds)
    is_covered = {*kinds} <= COVERED
    account = TRAINED_ON if is_training else HELD_OUT if is_covered else None
    return Answer(parts, round, "+".join(kinds), rule, account, is_covered)


def kinds_of(signed: Signed, *, is_training: bool) -> tuple[str, ...]:
    """What an answer to training, or to an evaluation, holds."""
    return signed.contract.must_leave if is_training else signed.contract.may_leave


def failure(parts: Parts, round: int, reason: str) -> Answer:
    """What an answer is that holds none."""
    if reason.startswith(replies.DECLINED):
        return Answer(parts, round, DECLINED, DECLINED_RULE, account=None, is_covered=True)
    if reason.startswith(REFUSED):
        # What the operator's own messages looked like, by a fixed name.
        return Answer(parts, round, MASKING, MASKING_RULE, account=None, is_covered=True)
    # Whether and how a round fails may depend on the data.
    return Answer(parts, round, FAILURE, FAILURE_RULE, account=None, is_covered=False)
