"""The agent: answers a run's instructions with this institution's data, each round once.

Jobs are declarative: the server sends settings, and this institution's own installed code decides what they mean.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import grpc
import torch

from lepton_client.home import Home
from lepton_client.limits import Limits, Refused, refuse_beyond
from lepton_client.records import own_site
from lepton_client.rounds import OnDisk
from lepton_client.standing import Joined, Promise, Standing
from lepton_client.stream import Acknowledged, Ended, Instruction, Stream, Take
from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.federation.client_app import ClientProgram, client_app
from lepton_fl.federation.codec import BadMessage, Route, decode, encode
from lepton_fl.federation.terms import Terms, from_json, program
from lepton_fl.flower import CLIENT_APP_RAISED, ClientApp, Context, Error, Message, MessageType, RecordDict, enter_run
from lepton_fl.link.frames import LARGEST_TERMS, PROTOCOL, Assembler, Parts
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.units import RecordPrivacy
from lepton_fl.tasks.task import DataSource
from lepton_fl.v1.federation_pb2 import Held, Hello, Welcome

_log = logging.getLogger(__name__)
_MOST_BYTES = 4 << 30  # of one instruction; memory grows with what arrives, not with what is announced

POINTS = ("round trained", "reply kept", "reply released", "reply sent", "reply forgotten")
Reached = Callable[[str], None]
"""Told each of `POINTS` as it is passed."""


class SpoolFull(LeptonError):
    """This institution's disk cannot take what must be written before anything leaves."""

    exit_code = 9


@dataclass(frozen=True)
class Own:
    """What is this institution's, and no operator's to choose."""

    source: DataSource
    limits: Limits
    device: torch.device


@dataclass(frozen=True)
class Job:
    """The run this institution takes part in."""

    run_id: int
    node_id: int
    app: ClientApp
    context: Context
    spent: OnDisk
    may_count: bool  # evaluation may be answered


class Agent:
    """Answers instructions with this institution's data."""

    def __init__(self, home: Home, own: Own, reached: Reached) -> None:
        self._home, self._own, self._reached = home, own, reached
        self._spool = Spool(home.path / "spool")
        self._job: Job | None = None
        self._partial: Assembler | None = None
        self.standing = Standing(home.path)

    def connect(self, channel: grpc.Channel) -> Ended:
        """Serve one connection until it ends; what came of an instruction is kept for the next."""
        answered = [Held(message_id=message_id, is_whole=True) for message_id in self._spool.holds()]
        held = self._partial.held() if self._partial is not None else next(iter(answered), Held())
        hello = Hello(protocol=PROTOCOL, lepton_version=version("lepton-fl"), instruction=held)
        stream = Stream(channel, hello, Take(_MOST_BYTES, self._partial), self.standing)
        try:
            return self._serve(stream)
        finally:
            stream.close()
            self.standing.left()
            self._partial = stream.partial

    def join(self, welcome: Welcome) -> Job:
        """What is needed for a run: terms within the limits, this institution's data, its own program."""
        if len(welcome.terms) > LARGEST_TERMS:
            raise ConfigError("the terms of the run are too long; nothing was trained; tell the operator")
        terms = from_json(welcome.terms)
        refuse_beyond(self._own.limits, terms)
        site = own_site(terms, self._own.source, self._home.institution)
        made = program(terms, welcome.institutions).on(self._own.device)
        enter_run(welcome.run_id)
        context = Context(welcome.run_id, welcome.node_id, {"institution": site.institution}, RecordDict(), {})
        spent = OnDisk(self._home.path / "rounds", welcome.run_id)
        app = client_app(made, {site.institution: site}, spent)
        run = Joined(welcome.run_id, terms.task.title, terms.rounds, _promise(terms, made))
        self.standing.joined(run)
        told = "NOT PRIVATE" if run.promise is None else _told(run.promise)
        joined = f"joined a run: {run.title}, {run.rounds} rounds, {told}"
        _log.info("%s", joined, extra={"run": welcome.run_id, "institution": site.institution})
        return Job(welcome.run_id, welcome.node_id, app, context, spent, self._own.limits.exact_counts)

    def _serve(self, stream: Stream) -> Ended:
        while True:
            event = stream.next_event(1.0)
            if isinstance(event, Welcome):
                # The same run after a reconnect is kept as it is.
                if self._job is None or self._job.run_id != event.run_id:
                    self._job = self.join(event)
            elif isinstance(event, Instruction):
                answer = self._answer(event)
                if answer is None:
                    # Damaged by this machine: come back without it, and be asked in full.
                    self._spool.forget(event.message_id)
                    return Ended(grpc.StatusCode.UNAVAILABLE, "the answer that was kept is damaged")
                stream.answer(event.message_id, answer, event.held)
                self._reached("reply sent")
            elif isinstance(event, Acknowledged):
                self._spool.forget(event.message_id)
                self._reached("reply forgotten")
            elif isinstance(event, Ended):
                return event

    def _answer(self, instruction: Instruction) -> Parts | None:
        """The answer on disk if this was asked before; else carry it out, and keep the answer before it is sent.

        None if the answer is not here any more, nor what was asked.
        """
        job = self._job
        if job is None:
            raise Refused("the server sent work before the terms of a run; nothing was trained; tell the operator")
        answer = self._spool.find(instruction.message_id)
        if answer is None:
            if instruction.parts is None:
                return None
            job.spent.carry_out(instruction.message_id)
            answer = _carried_out(job, instruction.message_id, instruction.parts)
            self._reached("round trained")
            self._keep(instruction.message_id, answer)
        with self._written():
            job.spent.answered(instruction.message_id)
        self._reached("reply released")
        return answer

    def _keep(self, message_id: str, answer: Parts) -> None:
        with self._written():
            self._spool.keep(message_id, answer)
            self._spool.forget_others(message_id)
        self._reached("reply kept")

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


def _promise(terms: Terms, made: ClientProgram) -> Promise | None:
    """What the run promises here; None where it promises nothing."""
    privacy, mechanism = terms.privacy, made.mechanism
    if not isinstance(privacy, RecordPrivacy) or mechanism is None or terms.seed is not None:
        return None
    return Promise(
        unit=privacy.unit,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        noise_multiplier=mechanism.noise_multiplier,
        sampling_rate=mechanism.sampling_rate,
        local_steps=terms.training.local_steps,
    )


def _told(promise: Promise) -> str:
    return f"per {promise.unit}, epsilon {promise.epsilon:g} at delta {promise.delta:g}"


def _carried_out(job: Job, message_id: str, parts: Parts) -> Parts:
    route = Route(job.run_id, 1, job.node_id, message_id)
    try:
        message = decode(parts, route)
    except BadMessage as error:
        raise Refused(
            f"the server sent what is no message ({error}); nothing was trained; tell the operator"
        ) from error
    if message.metadata.message_type != MessageType.TRAIN and not job.may_count:
        refusal = Error(CLIENT_APP_RAISED, "exact counts may not leave this institution")
        return encode(Message(refusal, reply_to=message))
    try:
        return encode(job.app(message, job.context))
    except OSError as error:
        # A full disk is this machine's matter: the round is asked for again once there is room.
        raise SpoolFull(
            f"cannot note the round: {error.strerror}; nothing was released; make room, then run the same command again"
        ) from error
    except LeptonError as error:
        _log.warning("could not answer: %s", error, extra={"run": job.run_id})
        # The sentence may count records; only its kind leaves.
        reason = type(error).__name__
    except Exception as error:  # whatever went wrong is told here in full, and to the server by its type alone
        _log.warning("could not answer: %s: %s", type(error).__name__, error, extra={"run": job.run_id})
        reason = type(error).__name__
    return encode(Message(Error(CLIENT_APP_RAISED, reason), reply_to=message))
