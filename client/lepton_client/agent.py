"""The agent: agrees to a run's contract or not, and answers its instructions with this institution's data.

Jobs are declarative: the server sends settings, and this institution's own installed code decides what they mean.
Nothing is trained that was not signed, and nothing leaves that is not in the ledger before its first byte.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version

import grpc
from cryptography import x509

from lepton_client import agreeing, job, ledger_files, outbound
from lepton_client.agreeing import Desk, Matter
from lepton_client.answers import Answer, answered, failure, kinds_of
from lepton_client.considering import Considered, Position
from lepton_client.contracts import Contracts, Offered
from lepton_client.energy_told import telling
from lepton_client.heads import head_of, refuse_put_back, seen_of
from lepton_client.home import Home
from lepton_client.identity import announced, identity_of
from lepton_client.job import Here, Job, SpoolFull, Told
from lepton_client.ledger import Ledger
from lepton_client.log_heads import Logged, LogHeads, LogRefused, Promised, Shown, promised_of
from lepton_client.refused import Refused
from lepton_client.standing import Joined, Promise, Standing
from lepton_client.stream import Acknowledged, Ended, Instruction, Stream, Take
from lepton_client.unmasked_rounds import AnsweredRounds
from lepton_fl.energy.meter import of_this_machine
from lepton_fl.energy.spent import COMMUNICATE
from lepton_fl.federation.codec import Route, decode
from lepton_fl.federation.steps import INBOX, step_of
from lepton_fl.flower import MessageType
from lepton_fl.link import ledger_head, signature
from lepton_fl.link.certificates import key_hash
from lepton_fl.link.frames import PROTOCOL, Assembler, Parts
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.books import Left
from lepton_fl.tasks.task import DataSource
from lepton_fl.training.device import gpu_uuid
from lepton_fl.v1.federation_pb2 import Checkpoint, ClientFrame, Cosigned, Held, Hello, Welcome

_log = logging.getLogger(__name__)
_MOST_BYTES = 4 << 30  # of one instruction; memory grows with what arrives, not with what is announced
_LOOK_S = 1.0
_COUNTERSIGN_S = 120.0  # longer than any line takes for a hundred bytes and back

POINTS = ("round trained", "reply kept", "reply released", "reply sent", "reply forgotten", *ledger_files.LEDGER_POINTS)
Reached = Callable[[str], None]
"""Told each of `POINTS` as it is passed."""


@dataclass(frozen=True)
class Own:
    """What is this institution's, and no operator's to choose."""

    source: DataSource
    position: Position
    ledger: Ledger


class Agent:
    """Answers instructions with this institution's data."""

    def __init__(self, home: Home, own: Own, reached: Reached) -> None:
        self._home, self._own, self._reached = home, own, reached
        self._spool = Spool(home.path / "spool")
        self._identity = identity_of(home)
        self._desk = Desk(
            Contracts(home.path / "contracts"),
            own.position,
            (home.institution, self._identity.public),
            x509.load_pem_x509_certificate(home.ca.read_bytes()),
            lambda: signature.signer(home.key, home.certificate),
            lambda: datetime.now(UTC),
        )
        self._job: Job | None = None
        self._has_left = False  # the run that was joined last, since a person said no
        self._waiting: tuple[Matter, Offered, Welcome] | None = None  # for a person's decision
        self._partial: Assembler | None = None
        self._seen = -1  # position of the last head that the operator of this stream countersigned; -1: not told yet
        self._shown = 0  # position of the last head that was there when the operator was told of one
        self._heads = LogHeads(home.path, home.institution, self._identity.key)
        self._promised: Promised | None = None  # the operator's log, by the contract that came last
        self._log: Shown | None = None  # what the operator's log showed before the instruction that is next
        self.standing = Standing(home.path, own.ledger)

    def connect(self, channel: grpc.Channel) -> Ended:
        """Serve one connection until it ends; what came of an instruction is kept for the next."""
        answered = [Held(message_id=message_id, is_whole=True) for message_id in self._spool.holds()]
        held = self._partial.held() if self._partial is not None else next(iter(answered), Held())
        hello = Hello(
            protocol=PROTOCOL,
            lepton_version=version("lepton-fl"),
            instruction=held,
            identity=announced(self._home, self._identity),
            log_head=self._heads.last,
        )
        stream = Stream(channel, hello, Take(_MOST_BYTES, self._partial), self.standing)
        self._seen, self._log = -1, None
        try:
            return self._serve(stream)
        finally:
            stream.close()
            self.standing.left()
            self._partial = stream.partial
            self._account_for(stream)

    def asks_for_a_certificate(self, request: bytes) -> None:
        """A renewal is about to leave, beside the stream; it holds a public key and nothing of the data."""
        kind, rule = outbound.CERTIFICATE_REQUEST, outbound.CERTIFICATE_RULE
        self._own.ledger.left(Left("", 0, "", kind, len(request), sha256(request).hexdigest(), 0.0, rule))

    def _serve(self, stream: Stream) -> Ended:
        while True:
            event = stream.next_event(_LOOK_S)
            self._look_at_heads(stream)
            if isinstance(event, Ended):
                return event
            if isinstance(event, Welcome):
                self._welcomed(stream, event)
            elif isinstance(event, Checkpoint):
                self._look_at_log(stream, event)
            elif isinstance(event, Acknowledged):
                self._spool.forget(event.message_id)
                self._reached("reply forgotten")
            elif self._is_withdrawn(stream):
                continue  # of this run nothing is answered any more
            elif isinstance(event, Instruction):
                answer = self._answer(stream, event)
                if answer is None:
                    # Come back without it, and be asked in full.
                    self._spool.forget(event.message_id)
                    return Ended(grpc.StatusCode.UNAVAILABLE, "the answer that was kept is damaged, or may not leave")
                self._release(stream, event, answer)
            else:
                self._look_for_a_decision(stream)

    # -- the ledger's heads

    def _look_at_heads(self, stream: Stream, wait_s: float = 0.0) -> None:
        """Hold what the operator countersigned against the ledger; raises `LedgerPutBack`."""
        said = stream.countersigned(wait_s)
        while said is not None:
            seen = ledger_head.check(said, self._home.institution, self._desk.ca, self._desk.clock())
            ledger = self._own.ledger
            with self._written():
                refuse_put_back(ledger, seen, key_hash(self._desk.ca.public_key()).hex())
            is_first, self._seen = self._seen < 0, seen_of(ledger, seen)
            if is_first:
                self._show_head(stream)
            said = stream.countersigned(0.0)

    def _show_head(self, stream: Stream) -> None:
        head = head_of(self._own.ledger)
        if head is None:
            return
        self._shown = head.position
        if head.position > self._seen:
            stream.send(ClientFrame(ledger_head=ledger_head.to_wire(head)))

    def _is_seen(self, stream: Stream) -> bool:
        """Wait until the operator countersigned what it was shown; whether it did before the stream was over.

        Raises:
            Refused: it does not, though the stream is open.
        """
        end = time.monotonic() + _COUNTERSIGN_S
        while self._seen < self._shown and not stream.is_over:
            if time.monotonic() > end:
                raise Refused(
                    f"the server did not countersign the ledger within {_COUNTERSIGN_S:.0f} s; the answer is kept here "
                    "and was not sent; tell the operator"
                )
            self._look_at_heads(stream, wait_s=0.5)
        return self._seen >= self._shown

    # -- the operator's log

    def _look_at_log(self, stream: Stream, said: Checkpoint) -> None:
        """Hold the log's head against those that were seen, and countersign it; raises `LogRefused`."""
        if self._promised is None:
            return
        with self._written():
            self._log = self._heads.shown(said, self._promised, self._desk.clock())
        if self._log.countersigned is not None:
            stream.send(ClientFrame(cosigned=Cosigned(note=self._log.countersigned)))

    def _last_logged(self) -> Logged | None:
        """The last round in the operator's log; None where the contract promises no log.

        Raises:
            LogRefused: this instruction came without the log's head, or the log has no round of the run.
        """
        shown, self._log = self._log, None
        if self._promised is None:
            return None
        if shown is None or shown.last_round is None:
            raise LogRefused(
                "the operator asks for work without showing its log with the run's last round; nothing was trained or "
                "sent; ask the operator"
            )
        return shown.last_round

    # -- the contract

    def _welcomed(self, stream: Stream, welcome: Welcome) -> None:
        if self._seen < 0:
            raise Refused(
                "the server does not say where it saw the ledger; nothing was read or sent; tell the operator"
            )
        offered = agreeing.offered(self._desk, welcome)
        self._promised = promised_of(offered.contract)
        self._heads.refuse_none(self._promised)
        decided = self._desk.contracts.decision(welcome.run_id)
        if self._job is not None and self._job.run_id == welcome.run_id and decided is not None:
            # The same run after a reconnect is kept as it is.
            stream.send(agreeing.frame_of(decided, offered))
            return
        self._job, self._has_left = None, False
        matter = agreeing.consider_offer(self._desk, welcome.run_id, offered.contract)
        self._settle(stream, matter, offered, welcome)

    def _settle(self, stream: Stream, matter: Matter, offered: Offered, welcome: Welcome) -> None:
        """Say what was decided; join, if the contract was accepted. Nothing is said while a person has to look."""
        self._waiting = (matter, offered, welcome) if matter.decided is None else None
        if matter.decided is None:
            return
        if matter.decided.is_accepted and self._job is None:
            self._join(matter.considered, welcome)
        self._show_head(stream)
        stream.send(agreeing.frame_of(matter.decided, offered))

    def _join(self, considered: Considered, welcome: Welcome) -> None:
        policy, ledger = self._own.position.policy, self._own.ledger
        answered = AnsweredRounds(self._home.path / "answered" / str(welcome.run_id))
        meter = of_this_machine(policy.power_w, gpu_uuid(self._own.position.device))
        here = Here(self._own.source, self._home.institution, welcome.node_id, self._identity, answered, meter)
        self._job = job.join(considered, policy, ledger, here)
        run = Joined(welcome.run_id, considered.terms.task.title, considered.terms.rounds, _promise(considered))
        self.standing.joined(run)
        told = "NOT PRIVATE" if run.promise is None else _told(run.promise)
        joined = f"joined a run: {run.title}, {run.rounds} rounds, {told}"
        _log.info("%s", joined, extra={"run": welcome.run_id, "institution": self._home.institution})

    def _is_withdrawn(self, stream: Stream) -> bool:
        """Whether a person said no since the run was joined; the operator then hears it, and the run is over here."""
        if self._job is None:
            return self._has_left
        decided = self._desk.contracts.decision(self._job.run_id)
        if decided is None or decided.is_accepted:
            return False
        _log.warning("left the run %s: refused by %s; nothing more is answered", self._job.run_id, decided.by)
        offered = self._desk.contracts.find(self._job.run_id)
        if offered is not None:
            stream.send(agreeing.frame_of(decided, offered))
        self._job, self._has_left = None, True
        return True

    def _look_for_a_decision(self, stream: Stream) -> None:
        if self._waiting is None:
            return
        matter, offered, welcome = self._waiting
        decided = self._desk.contracts.decision(matter.run_id)
        if decided is not None:
            self._settle(stream, Matter(matter.run_id, matter.considered, decided), offered, welcome)

    # -- instructions

    def _answer(self, stream: Stream, instruction: Instruction) -> Answer | None:
        """The answer on disk if this was asked before; else carry it out, and keep the answer before it is sent.

        None if the answer is not here any more, nor what was asked; or if the policy has become stricter since.
        """
        if self._job is None:
            raise Refused(
                "the server sent work before a contract was agreed to; nothing was trained; tell the operator"
            )
        logged = self._last_logged()
        kept = self._spool.find(instruction.message_id)
        if kept is not None:
            return _known(self._job, instruction.message_id, kept)
        if instruction.parts is None:
            return None
        told = Told(lambda: self._show_head(stream), datetime.now().astimezone(), logged)
        self._job.meter.moved(COMMUNICATE, 0, instruction.parts.size())
        answer = job.carry_out(self._job, instruction.message_id, instruction.parts, told)
        self._reached("round trained")
        self._keep(instruction.message_id, answer.parts)
        return answer

    def _release(self, stream: Stream, instruction: Instruction, answer: Answer) -> None:
        """Into the ledger, then onto the wire; a reservation that the operator did not see keeps the answer here."""
        if self._job is None:
            return
        ledger = self._own.ledger
        if answer.account is not None and not self._is_seen(stream):
            return  # the stream is over; the answer is kept for the next
        begin = outbound.announced(instruction.message_id, answer.parts, instruction.held)
        self._job.meter.moved(COMMUNICATE, outbound.bytes_of(begin, answer.parts), 0)
        self._tell_energy(stream, answer)
        with self._written():
            sent_bytes = outbound.bytes_of(begin, answer.parts)
            ledger.left(job.entry_of(self._job, instruction.message_id, answer, sent_bytes))
        self._reached("reply released")
        with self._job.meter.phase(COMMUNICATE):
            stream.answer(begin, answer.parts)
        self._reached("reply sent")

    def _tell_energy(self, stream: Stream, answer: Answer) -> None:
        """Before the last answer of a training or an evaluation, what it took; nothing where no rule lets it leave."""
        if self._job is None or (self._job.masked is not None and answer.kind != outbound.UNMASKING):
            return
        told = telling(self._job.meter, self._job.policy, self._job.run_id, answer.round)
        if told is not None:
            with self._written():
                self._own.ledger.left(told.left)
            stream.send(told.frame)

    def _keep(self, message_id: str, answer: Parts) -> None:
        with self._written():
            self._spool.keep(message_id, answer)
            self._spool.forget_others(message_id)
        self._reached("reply kept")

    def _account_for(self, stream: Stream) -> None:
        """The connection is over: what it put on the wire is in the ledger to the last byte."""
        sent = stream.sent()
        # A ledger that was put back is evidence: nothing is added to it.
        if sent and not self._own.ledger.is_put_back:
            with self._written():
                self._own.ledger.closed("" if self._job is None else self._job.run, stream.id, sent)

    @contextmanager
    def _written(self) -> Iterator[None]:
        """What is done here about an answer is on disk; raises `SpoolFull` if it cannot be."""
        try:
            yield
        except OSError as error:
            raise SpoolFull(
                f"cannot keep the answer in {self._home.path}: {error.strerror}; it was not sent and nothing was "
                "released; make room, then run the same command again"
            ) from error


def _known(job: Job, message_id: str, kept: Parts) -> Answer | None:
    """An answer from the disk, and what it is; None if the policy does not let it leave now."""
    message = decode(kept, Route(job.run_id, job.node_id, 1, message_id, reply_to=message_id))
    known = job.ledger.run(job.run)
    last = None if known is None else known.last
    round = 0 if last is None else last.round
    if message.has_error():
        return failure(kept, round, str(message.error.reason))
    is_training, step = message.metadata.message_type == MessageType.TRAIN, step_of(message.content)
    holds_data = step is None or step.name == INBOX
    if holds_data and not {*kinds_of(job.signed, is_training=is_training)} <= {*job.policy.may_leave}:
        return None
    return answered(job.signed, kept, round, is_training=is_training, step=step)


def _promise(considered: Considered) -> Promise | None:
    """What the run promises here; None where it promises nothing."""
    declared, privacy = considered.declared, considered.terms.privacy
    if declared is None or declared.mechanism is None:
        return None
    return Promise(
        unit=privacy.unit,
        epsilon=float(vars(privacy)["epsilon"]),
        delta=float(vars(privacy)["delta"]),
        noise_multiplier=declared.mechanism.noise_multiplier,
        sampling_rate=declared.mechanism.sampling_rate,
        local_steps=declared.steps_per_round,
        law=declared.mechanism.law,
    )


def _told(promise: Promise) -> str:
    return f"per {promise.unit}, epsilon {promise.epsilon:g} at delta {promise.delta:g}"
