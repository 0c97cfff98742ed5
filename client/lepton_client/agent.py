"""`lepton-client run`: connect, train whenever a run asks, come back after a lost connection, until stopped.

Jobs are declarative: the server sends settings, and this institution's own installed code decides what they mean.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

import grpc
import torch
from cryptography import x509

from lepton_client.home import Home, find, open_home
from lepton_client.renewal import HOURLY, kept_renewed
from lepton_client.rounds import OnDisk
from lepton_client.stream import Acknowledged, Ended, Instruction, Stream
from lepton_fl.config import register
from lepton_fl.errors import ConfigError, DataError, LeptonError
from lepton_fl.federation.client_app import client_app
from lepton_fl.federation.codec import BadMessage, Route, decode, encode
from lepton_fl.federation.terms import Terms, from_json, program
from lepton_fl.files import only_process
from lepton_fl.flower import CLIENT_APP_RAISED, ClientApp, Context, Error, Message, MessageType, RecordDict, enter_run
from lepton_fl.link.certificates import BadCertificate
from lepton_fl.link.frames import LARGEST_TERMS, PROTOCOL, Assembler, Parts
from lepton_fl.link.spool import Spool
from lepton_fl.privacy.units import RecordPrivacy
from lepton_fl.tasks.task import DataSource, Request
from lepton_fl.training.device import choose, describe
from lepton_fl.training.examples import Site
from lepton_fl.v1.federation_pb2 import Held, Hello, Welcome

_MOST_BYTES = 4 << 30  # of one instruction; memory grows with what arrives, not with what is announced
# The longest is well below the server's grace, so that a server that was away finds everybody in time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 15.0


@dataclass
class Limits:
    """What this institution agrees to, whatever an operator asks; anything beyond is refused."""

    epsilon: float  # per run, at most
    delta: float  # at most
    not_private: bool  # true: privacy=none and seeded runs too. For public data only
    exact_counts: bool  # true: exact counts of the hold-out may leave, which no epsilon covers
    holdout_share: float  # of the records that may be held out, at most


@dataclass
class AgentConfig:
    """Every setting of `lepton-client run`; `conf/client.yaml` holds the values."""

    home: str | None  # null: LEPTON_HOME, else ~/.lepton/client
    data: DataSource
    limits: Limits
    device: str  # cpu, cuda, cuda:N or auto


def register_schemas() -> None:
    """Store every dataclass that a YAML of `lepton-client run` starts from."""
    register("client", AgentConfig)


POINTS = ("round trained", "reply kept", "reply released", "reply sent", "reply forgotten")
Reached = Callable[[str], None]
"""Told each of `POINTS` as it is passed."""


class SpoolFull(LeptonError):
    """This institution's disk cannot take what must be written before anything leaves."""

    exit_code = 9


class Refused(LeptonError):
    """The server will not have this institution; trying again by itself would not help."""

    exit_code = 7


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

    def connect(self, channel: grpc.Channel) -> Ended:
        """Serve one connection until it ends; what came of an instruction is kept for the next."""
        answered = [Held(message_id=message_id, is_whole=True) for message_id in self._spool.holds()]
        held = self._partial.held() if self._partial is not None else next(iter(answered), Held())
        hello = Hello(protocol=PROTOCOL, lepton_version=version("lepton-fl"), instruction=held)
        stream = Stream(channel, hello, _MOST_BYTES, self._partial)
        try:
            return self._serve(stream)
        finally:
            stream.close()
            self._partial = stream.partial

    def _serve(self, stream: Stream) -> Ended:
        while True:
            event = stream.next_event(1.0)
            if isinstance(event, Welcome):
                self._join(event)
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

    def _join(self, welcome: Welcome) -> None:
        """Prepare for a run: terms, data, program. The same run after a reconnect is kept as it is."""
        if self._job is not None and self._job.run_id == welcome.run_id:
            return
        if len(welcome.terms) > LARGEST_TERMS:
            raise ConfigError("the terms of the run are too long; nothing was trained; tell the operator")
        terms = from_json(welcome.terms)
        _refuse_beyond(self._own.limits, terms)
        site = _own_site(terms.task.load(Request(self._own.source, terms.holdout, None)).sites, self._home.institution)
        made = program(terms, welcome.institutions).on(self._own.device)
        enter_run(welcome.run_id)
        context = Context(welcome.run_id, welcome.node_id, {"institution": site.institution}, RecordDict(), {})
        spent = OnDisk(self._home.path / "rounds", welcome.run_id)
        app = client_app(made, {site.institution: site}, spent)
        self._job = Job(welcome.run_id, welcome.node_id, app, context, spent, self._own.limits.exact_counts)
        privacy = terms.privacy
        promise = (
            f"per {privacy.unit}, epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
            if isinstance(privacy, RecordPrivacy) and terms.seed is None
            else "NOT PRIVATE"
        )
        _say(f"joined a run: {terms.task.title}, {terms.rounds} rounds, {promise}")

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
        job.spent.answered(instruction.message_id)
        self._reached("reply released")
        return answer

    def _keep(self, message_id: str, answer: Parts) -> None:
        try:
            self._spool.keep(message_id, answer)
            self._spool.forget_others(message_id)
        except OSError as error:
            raise SpoolFull(
                f"cannot keep the answer in {self._home.path}: {error.strerror}; it was not sent and nothing was "
                "released; make room, then run the same command again"
            ) from error
        self._reached("reply kept")


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
        raise SpoolFull(f"cannot note the round: {error}; nothing was released; make room, then run again") from error
    except LeptonError as error:
        _say(f"could not answer: {error}")
        # The sentence may count records; only its kind leaves.
        reason = type(error).__name__
    except Exception as error:  # whatever went wrong is told here in full, and to the server by its type alone
        _say(f"could not answer: {type(error).__name__}: {error}")
        reason = type(error).__name__
    return encode(Message(Error(CLIENT_APP_RAISED, reason), reply_to=message))


def _refuse_beyond(limits: Limits, terms: Terms) -> None:
    """Raise `Refused`, naming the setting, if the operator's terms go beyond this institution's limits."""
    privacy = terms.privacy
    if not isinstance(privacy, RecordPrivacy) or terms.seed is not None:
        if not limits.not_private:
            what = "privacy=none" if terms.seed is None else f"seed={terms.seed}, with which noise can be subtracted"
            raise Refused(f"the run asks for {what}; nothing was read or sent; limits.not_private=true allows it")
    elif privacy.epsilon > limits.epsilon or privacy.delta > limits.delta:
        raise Refused(
            f"the run asks for epsilon {privacy.epsilon:g} at delta {privacy.delta:g}, and limits allow "
            f"{limits.epsilon:g} at {limits.delta:g}; nothing was read or sent"
        )
    if terms.holdout.share > limits.holdout_share:
        raise Refused(
            f"the run holds out {terms.holdout.share:g} of the records, and limits.holdout_share allows "
            f"{limits.holdout_share:g}; nothing was read or sent"
        )


def _own_site(sites: tuple[Site, ...], institution: str) -> Site:
    """This institution's records: the rows under its name, or all rows if there is only one name.

    Raises:
        DataError: several institutions in the file, none of them this one.
    """
    for site in sites:
        if site.institution == institution:
            return site
    if len(sites) == 1:
        return replace(sites[0], institution=institution)
    raise DataError(
        f"the file has {len(sites)} institutions and none is called {institution}; nothing was trained; give this "
        "institution's own file"
    )


def _nothing(point: str) -> None:
    """Nobody watches the points at which an answer is safe."""


def run(config: AgentConfig, reached: Reached = _nothing) -> None:
    """One `lepton-client run`: until SIGTERM, Ctrl-C, or a refusal.

    Args:
        reached: told each of `POINTS` as it is passed.
    """
    device = choose(config.device)
    home = open_home(find(config.home))
    if config.device == "auto":
        _say(f"device      {describe(device)}")
    signal.signal(signal.SIGTERM, _stop)
    with only_process(home.lock):
        _serve_run_after_run(Agent(home, Own(config.data, config.limits, device), reached), home)


def _serve_run_after_run(agent: Agent, home: Home) -> NoReturn:
    pause_s, told = _FIRST_PAUSE_S, ""
    while True:
        for address in home.addresses:
            ended = _connect(agent, home, address)
            news = _news(ended, address)
            if news != told:
                _say(news)
                told = news
            pause_s = _FIRST_PAUSE_S if ended.code is None else min(_LONGEST_PAUSE_S, 1.5 * pause_s)
        # A hundred institutions that lost one server must not come back in the same instant.
        time.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - not for a secret


def _connect(agent: Agent, home: Home, address: str) -> Ended:
    ca, key, certificate = home.credentials()
    _refuse_expired(certificate)
    credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)
    with grpc.secure_channel(address, credentials) as channel, kept_renewed(channel, home, HOURLY):
        ended = agent.connect(channel)
    if ended.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
        raise Refused(f"the server at {address} refused: {ended.detail}; nothing more was sent; ask the operator")
    if ended.stay_away:
        raise Refused(f"the server closed this stream: {ended.detail}; nothing was lost; stop one of the two")
    return ended


def _news(ended: Ended, address: str) -> str:
    """One line about why the stream ended; the same reason is not repeated."""
    if ended.code is None:
        return f"{ended.detail}; waiting for the next"
    if ended.code == grpc.StatusCode.UNAVAILABLE and "CERTIFICATE_VERIFY_FAILED" in ended.detail:
        return f"whoever answers at {address} is not this federation's server; nothing was sent; trying on"
    if ended.code == grpc.StatusCode.UNAUTHENTICATED:
        return f"the server at {address} closed the stream: {ended.detail}; trying on by itself"
    return f"no connection to {address}; trying on by itself"


def _refuse_expired(certificate: bytes) -> None:
    """gRPC's server tells a refused client nothing, so what can be seen here is said here."""
    parsed = x509.load_pem_x509_certificate(certificate)
    now = datetime.now(UTC)
    if now >= parsed.not_valid_after_utc:
        raise BadCertificate(
            f"this certificate ended at {parsed.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; nothing was sent; "
            "ask the operator for a new invitation and enroll again, or check this machine's clock"
        )


def _stop(number: int, frame: FrameType | None) -> None:
    _say("stopped; whatever was trained and not yet sent is kept for the next start")
    raise SystemExit(0)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
