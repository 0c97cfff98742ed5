"""What is owed: each institution's unanswered instruction, shared by the strategy's thread and the event loop.

One lock with a condition stands between them. An institution has one instruction at most; the answer to it is handed
over once, whoever makes it: the institution, or the hub in its place when it is revoked or away too long.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from lepton_fl.errors import LeptonError
from lepton_fl.federation.codec import BadMessage, Route, decode
from lepton_fl.flower import NODE_UNAVAILABLE, Error, Message
from lepton_fl.link.frames import Assembler, Parts


@dataclass(frozen=True)
class Owed:
    """An instruction that one institution has not answered yet."""

    message_id: str
    message: Message
    parts: Parts
    # A reply may come again on a newer stream while that of the older is still being written.
    writing: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def decoded(self, reply: Parts) -> Message:
        """The reply as a message, its sender and what it answers taken from here; a bad one is a failure."""
        asked = self.message.metadata
        back = Route(asked.run_id, asked.dst_node_id, asked.src_node_id, f"{self.message_id}-reply", self.message_id)
        try:
            message = decode(reply, back)
        except BadMessage as error:
            return self.failed(str(error))
        if message.metadata.message_type != asked.message_type:
            return self.failed("it answers another kind of message")
        return message

    def failed(self, reason: str) -> Message:
        """An answer in the institution's place."""
        return Message(Error(NODE_UNAVAILABLE, reason), reply_to=self.message)


def owed_by(node_id: int, run_id: int, message: Message, parts: Parts) -> Owed:
    """The instruction under its id: the digest of who is asked what in which run.

    The same instruction, made again after a crash, has the same id, and a reply that was taken before counts.
    """
    asked = f"lepton-fl/instruction/{run_id}/{node_id}/".encode() + parts.sha256
    return Owed(hashlib.sha256(asked).hexdigest(), message, parts)


class Owing:
    """The table of what is owed. Methods take the lock themselves."""

    def __init__(self, grace_s: float) -> None:
        self.changed = threading.Condition()
        self._grace_s = grace_s
        self._owed: dict[int, Owed] = {}
        self._partial: dict[int, Assembler] = {}  # replies cut off by a lost connection
        self._replies: dict[str, Message] = {}
        self._gone_since: dict[int, float] = {}
        self._problem: LeptonError | None = None

    def owe(self, node_id: int, owed: Owed) -> None:
        """From now on this institution owes an answer; what it owed before is forgotten."""
        with self.changed:
            self._owed[node_id] = owed
            self._gone_since.setdefault(node_id, time.monotonic())

    def of(self, node_id: int) -> tuple[Owed | None, Assembler | None]:
        """What an institution owes, and what came of its reply before its connection was lost."""
        with self.changed:
            return self._owed.get(node_id), self._partial.get(node_id)

    def find(self, node_id: int, message_id: str) -> Owed | None:
        """The instruction with this id, if this institution owes it."""
        with self.changed:
            owed = self._owed.get(node_id)
            return owed if owed is not None and owed.message_id == message_id else None

    def set_aside(self, node_id: int, partial: Assembler) -> None:
        """Keep a part of a reply until the institution is back; only while it is owed."""
        with self.changed:
            if node_id in self._owed:
                self._partial[node_id] = partial

    def take_partial(self, node_id: int) -> Assembler | None:
        """The part that was set aside, handed out once."""
        with self.changed:
            return self._partial.pop(node_id, None)

    def answer(self, node_id: int, owed: Owed, reply: Message) -> None:
        """Hand over the reply, unless it came already or is no longer waited for."""
        with self.changed:
            if self._owed.get(node_id) is owed:
                del self._owed[node_id]
                self._partial.pop(node_id, None)
                self._replies[owed.message_id] = reply
                self.changed.notify_all()

    def put(self, message_id: str, reply: Message) -> None:
        """A reply that was taken before a crash."""
        with self.changed:
            self._replies[message_id] = reply

    def refuse(self, node_id: int, reason: str) -> None:
        """Answer in the place of an institution that will not."""
        owed, _ = self.of(node_id)
        if owed is not None:
            self.answer(node_id, owed, owed.failed(reason))

    def collect(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these instructions that are here, each handed out once."""
        with self.changed:
            return [self._replies.pop(one) for one in list(message_ids) if one in self._replies]

    def give_up(self, message_ids: Iterable[str]) -> None:
        """These instructions are no longer waited for; an answer that still comes is dropped."""
        wanted = set(message_ids)
        with self.changed:
            for node_id in [node for node, owed in self._owed.items() if owed.message_id in wanted]:
                del self._owed[node_id]
                self._partial.pop(node_id, None)
            for message_id in wanted:
                self._replies.pop(message_id, None)

    def break_off(self, problem: LeptonError) -> None:
        """Something went wrong in the event loop that ends the run."""
        with self.changed:
            self._problem = problem
            self.changed.notify_all()

    def raise_problem(self) -> None:
        """What went wrong in the event loop ends the run here, in the strategy's thread."""
        if self._problem is not None:
            raise self._problem

    def came(self, node_id: int) -> None:
        """The institution is connected."""
        with self.changed:
            self._gone_since.pop(node_id, None)
            self.changed.notify_all()

    def went(self, node_id: int) -> None:
        """It is not."""
        with self.changed:
            self._gone_since[node_id] = time.monotonic()
            self.changed.notify_all()

    def is_away(self, node_id: int) -> bool:
        """Gone for longer than the grace."""
        with self.changed:
            return time.monotonic() - self._gone_since.get(node_id, time.monotonic()) > self._grace_s

    def fail_the_long_gone(self, connected: Iterable[int]) -> None:
        """Answer for institutions that have been away longer than the grace."""
        here = set(connected)
        with self.changed:
            away = [node_id for node_id in self._owed if node_id not in here and self.is_away(node_id)]
            for node_id in away:
                gone_s = time.monotonic() - self._gone_since[node_id]
                self.refuse(node_id, f"not connected for {gone_s:.0f} s")
