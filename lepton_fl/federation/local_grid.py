"""LocalGrid: the federation in this process. Flower's Grid, answered by direct calls of a ClientApp."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol
from uuid import uuid4

from lepton_fl.errors import LeptonError, WorkerLost
from lepton_fl.federation.codec import BadMessage, Route, decode, encode
from lepton_fl.federation.grids import OfRun, by_name
from lepton_fl.flower import (
    CLIENT_APP_RAISED,
    NODE_UNAVAILABLE,
    Context,
    Error,
    Message,
    RecordDict,
    enter_run,
)
from lepton_fl.link.frames import Parts

_log = logging.getLogger(__name__)
LOCAL_RUN = 1


def node_id_of(institution: str) -> int:
    """The institution's node id: from its name, so that neither its place in a list nor the others matter."""
    return int.from_bytes(hashlib.sha256(institution.encode()).digest()[:8], "big") >> 1


class Watch(Protocol):
    """Told whose turn it is."""

    def turn(self, institution: str, message: Message) -> AbstractContextManager[None]:
        """Around everything from this message to its answer."""

    def turns(self, institutions: Sequence[str], message: Message) -> AbstractContextManager[None]:
        """Around everything from this message to the answers of institutions that take it together, in equal parts."""

    def computing(self, message: Message) -> AbstractContextManager[None]:
        """Inside a turn, around the app's own part."""

    def carried(self, down: int, up: int) -> None:
        """Bytes of the message and of its answer."""


class Unwatched:
    """Nobody is told."""

    def turn(self, institution: str, message: Message) -> AbstractContextManager[None]:
        """See `Watch.turn`."""
        return nullcontext()

    def turns(self, institutions: Sequence[str], message: Message) -> AbstractContextManager[None]:
        """See `Watch.turns`."""
        return nullcontext()

    def computing(self, message: Message) -> AbstractContextManager[None]:
        """See `Watch.computing`."""
        return nullcontext()

    def carried(self, down: int, up: int) -> None:
        """See `Watch.carried`."""


class LocalGrid(OfRun):
    """Institutions are called one after another; whose turn it is first changes nothing."""

    def __init__(
        self,
        app: Callable[[Message, Context], Message],
        institutions: Sequence[str],
        watch: Watch = Unwatched(),  # noqa: B008 - it has no state
    ) -> None:
        super().__init__(enter_run(LOCAL_RUN))
        self._app = app
        self._watch = watch
        self.names = {node_id_of(name): name for name in institutions}
        self._contexts = {
            node_id: Context(LOCAL_RUN, node_id, {"institution": name}, RecordDict(), {})
            for node_id, name in self.names.items()
        }
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Every institution's node id, in the order of names."""
        return by_name(self.names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Call the ClientApp for each message; the replies wait for `pull_messages` under these ids."""
        ids = []
        for message in messages:
            ids.append(uuid4().hex)
            self._replies[ids[-1]] = self._answer(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, each handed out once."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies; calls in this process end by themselves, so `timeout` has nothing to cut short."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        """Carry the message there and the reply back, as bytes, like a network."""
        node_id, operator = message.metadata.dst_node_id, message.metadata.src_node_id
        if node_id not in self.names:
            return unknown(message)
        there = Route(LOCAL_RUN, operator, node_id, message_id=uuid4().hex)
        back = Route(LOCAL_RUN, node_id, operator, message_id=uuid4().hex, reply_to=there.message_id)
        try:
            with self._watch.turn(self.names[node_id], message):
                instruction = encode(message)
                with self._watch.computing(message):
                    reply = self._call(decode(instruction, there), node_id)
                self._watch.carried(instruction.size(), reply.size())
                return decode(reply, back)
        except BadMessage as error:
            return Message(Error(CLIENT_APP_RAISED, str(error)), reply_to=message)

    def _call(self, instruction: Message, node_id: int) -> Parts:
        """The ClientApp's answer as bytes; whatever goes wrong there is an answer too."""
        try:
            return encode(self._app(instruction, self._contexts[node_id]))
        except WorkerLost:
            raise  # the whole run is over: no institution's own answer
        except Exception as error:
            reason = reason_of(error, self.names[node_id])
        return encode(Message(Error(CLIENT_APP_RAISED, reason), reply_to=instruction))


def unknown(message: Message) -> Message:
    """The reply where nobody has the node id."""
    return Message(Error(NODE_UNAVAILABLE, f"there is no node {message.metadata.dst_node_id}"), reply_to=message)


def reason_of(error: Exception, institution: str) -> str:
    """What the federation learns of what went wrong: as over the network, of a bug its type alone."""
    if isinstance(error, LeptonError):
        return str(error)
    _log.error("institution %s could not answer", institution, exc_info=error)
    return type(error).__name__
