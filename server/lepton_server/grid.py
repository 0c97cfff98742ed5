"""HubGrid: Flower's Grid over the hub's streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lepton_fl.errors import LeptonError
from lepton_fl.flower import Grid, Message, RecordDict, Run, enter_run
from lepton_server.hub import Hub, RunTerms


class QuorumLost(LeptonError):
    """Too few institutions are connected, and waiting longer was not asked for."""

    exit_code = 10


class HubGrid(Grid):
    """Flower's Grid over the hub."""

    def __init__(self, hub: Hub, run: RunTerms, least: int) -> None:
        self._hub = hub
        self._members = run.members
        self._least = least  # connected institutions, without which a round does not begin
        self._run = enter_run(run.run_id)

    def set_run(self, run: Run) -> None:
        """See `Grid.set_run`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See `Grid.run`."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See `Grid.create_message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Every member of the run by name, connected or not: one that is away may be back before its round ends."""
        return sorted(self._members, key=lambda node_id: self._members[node_id])

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, without waiting for answers."""
        return [self._hub.push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers that have come, each handed out once."""
        with self._hub.changed:
            return [self._hub.replies.pop(one) for one in list(message_ids) if one in self._hub.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The answers of one round: all, or those that came before the round's end.

        Raises:
            QuorumLost: too few institutions are connected, and none came back in time.
        """
        self._wait_for_quorum()
        waiting = set(self.push_messages(messages))
        answers: list[Message] = []
        end = time.monotonic() + min(self._hub.limits.round_s, timeout or self._hub.limits.round_s)
        with self._hub.changed:
            while waiting and (left := end - time.monotonic()) > 0:
                self._hub.fail_the_long_gone()
                for message_id in [one for one in waiting if one in self._hub.replies]:
                    answers.append(self._hub.replies.pop(message_id))
                    waiting.discard(message_id)
                if waiting:
                    self._hub.changed.wait(min(left, 0.5))
        self._hub.give_up(waiting)
        return answers

    def _wait_for_quorum(self) -> None:
        wait_for_members(self._hub, lambda: len(self._members.keys() & self._hub.sessions.keys()) >= self._least)


def wait_for_members(hub: Hub, enough: Callable[[], bool]) -> None:
    """Until enough institutions are connected; raises `QuorumLost` after the limit."""
    end = time.monotonic() + hub.limits.quorum_s
    with hub.changed:
        while not enough():
            if not hub.changed.wait(max(0.0, min(1.0, end - time.monotonic()))) and time.monotonic() >= end:
                names = sorted(session.member.name for session in hub.sessions.values())
                raise QuorumLost(
                    f"after {hub.limits.quorum_s:.0f} s only {len(names)} institutions are connected "
                    f"({', '.join(names)}); nothing more was trained; look at the others, then run again"
                )
