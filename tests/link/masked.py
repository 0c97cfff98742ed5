"""Masked rounds in which one institution's real agent takes part; the operator and two others are played by hand.

The two others add zeros, so that the sum of a round is what the real one's vector holds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from agreed import Institution, Run, arrays_of
from lepton_client.identity import identity_of
from served import until

from lepton_fl.federation.arrays import checked, sha256_of, template_of
from lepton_fl.federation.contract import COHORT_KEY, CONTRACT_KEY, Contract, Parties, digest
from lepton_fl.federation.masked_app import AnsweredOnce
from lepton_fl.federation.program import program
from lepton_fl.federation.steps import ECHOES, INBOX, PARAMS, RECORD, ROSTER, STEPS, Step, answered, record_of
from lepton_fl.federation.summed import Sums, sums_of
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import ArrayRecord, ConfigRecord, Message, RecordDict
from lepton_fl.secure_aggregation.aggregator import Aggregator
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.secure_aggregation.member import Agreed, Member
from lepton_fl.secure_aggregation.messages import RoundParams, Upload
from lepton_fl.secure_aggregation.packing import packed_bytes
from lepton_fl.secure_aggregation.vector import from_sum

ELM, OTHERS = "elm", ("ash", "oak")


@dataclass(frozen=True)
class Masked:
    """A run of three under secure aggregation that the real institution agreed to, or is about to."""

    run: Run
    contract: Contract
    others: Mapping[str, Identity]
    sums: Sums
    arrays: ArrayRecord

    def offer(self, elm: Institution) -> None:
        """The contract is before the institution, which accepts it."""
        self.run.offer(self.contract)
        elm.connect()
        until(lambda: ELM in self.run.federation.hub.consent.accepted)

    def attempt(self, purpose: str, round: int = 1, number: int = 1) -> Attempt:
        """A round that has not begun."""
        return Attempt(self, purpose, round, number)

    def round(self, purpose: str, round: int = 1) -> dict[str, Any]:
        """A whole round; what its sum holds, which is the institution's own vector."""
        attempt = self.attempt(purpose, round)
        for step in STEPS:
            attempt.hear(step, self.run.answer(attempt.ask(step)))
        return attempt.total


def masked(run: Run, elm: Institution, asked: Terms, key: bytes | None = None) -> Masked:
    """A run of these terms; with a `key`, under a contract that says it is the real institution's."""
    others = {name: Identity.generate(os.urandom) for name in OTHERS}
    identities = {name: one.public for name, one in others.items()} | {ELM: key or identity_of(elm.home).public}
    names = tuple(sorted(identities))
    contract = run.contract_of(asked, Parties(names, len(names), identities))
    sums = sums_of(asked, program(asked, len(names)), len(names))
    return Masked(run, contract, others, sums, arrays_of(asked))


@dataclass
class Attempt:
    """One attempt of one round, step by step: `ask` the institution, `hear` its answer."""

    masked: Masked
    purpose: str
    round: int
    number: int
    total: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contract, sums = self.masked.contract, self.masked.sums
        schema = sums.schema(self.purpose, self.round)
        identities = {name: bytes.fromhex(key) for name, key in contract.identities.items()}
        template = template_of(contract.settings().model.build(contract.settings().task.shape()))
        model = sha256_of(checked(self.masked.arrays, template))
        sha256 = bytes.fromhex(digest(contract))
        agreed = Agreed(
            contract.run_id,
            sha256,
            self.purpose,
            self.round,
            model,
            schema.sha256,
            schema.length,
            schema.wire_bits,
            identities,
            least_cohort=3,
        )
        nonce = hashlib.sha256(b"nonce %d" % self.number).digest()
        params = RoundParams(
            contract.run_id,
            sha256,
            self.purpose,
            self.round,
            self.number,
            model,
            schema.sha256,
            schema.length,
            schema.wire_bits,
            contract.institutions,
            nonce,
        )
        self._schema = schema
        self._aggregator = Aggregator(params, identities)
        self._members = {name: Member(name, key, agreed, os.urandom) for name, key in self.masked.others.items()}
        self._bodies = dict.fromkeys(identities, params.to_bytes())  # what each institution is sent next

    def ask(self, step: str, purpose: str | None = None, **more: ArrayRecord | ConfigRecord) -> str:
        """Owe the institution this step, under another purpose or with more records in it than belong there.

        Returns:
            The instruction's id.
        """
        run, content = self.masked.run, RecordDict({RECORD: record_of(Step(step, self._bodies[ELM])), **more})
        if step == PARAMS:
            said = {"server-round": self.round, CONTRACT_KEY: digest(self.masked.contract), COHORT_KEY: 3}
            content["arrays"], content["config"] = self.masked.arrays, ConfigRecord({**said})
        message = run.grid.create_message(content, purpose or self.purpose, run.member.node_id, "1")
        (message_id,) = run.grid.push_messages([message])
        return str(message_id)

    def hear(self, step: str, reply: Message) -> None:
        """Take the institution's answer, and those of the two others; after the last step there is a total."""
        assert not reply.has_error(), reply.error.reason
        size = packed_bytes(self._schema.length, self._schema.wire_bits) if step == INBOX else 0
        body, packed = answered(reply, step, size)
        members, aggregator, bodies = self._members, self._aggregator, self._bodies
        if step == PARAMS:
            adverts = {name: one.advertise(bodies[name]) for name, one in members.items()}
            self._tell(aggregator.roster({ELM: body, **adverts}))
        elif step == ROSTER:
            shares = {name: one.share(bodies[name]) for name, one in members.items()}
            self._bodies = aggregator.inboxes({ELM: body, **shares})
        elif step == INBOX:
            self._tell(aggregator.survivors({ELM: Upload(body, packed), **self._uploads()}))
        elif step == ECHOES:
            shares = {name: one.unmask(bodies[name], AnsweredOnce()) for name, one in members.items()}
            words = aggregator.total({ELM: body, **shares}).words
            self.total = dict(from_sum(self._schema, words))
        else:
            echoes = {name: one.echo(bodies[name]) for name, one in members.items()}
            self._tell(aggregator.echoes({ELM: body, **echoes}))

    def _tell(self, body: bytes) -> None:
        self._bodies = dict.fromkeys(self._bodies, body)

    def _uploads(self) -> dict[str, Upload]:
        for name, one in self._members.items():
            one.receive(self._bodies[name])
        nothing = np.zeros(self._schema.length, np.uint32)
        return {name: one.mask(nothing) for name, one in self._members.items()}
