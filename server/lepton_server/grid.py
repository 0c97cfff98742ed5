"""HubGrid: Flower's Grid over the hub's streams."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lepton_fl.errors import LeptonError
from lepton_fl.federation.codec import encode
from lepton_fl.federation.grids import OfRun, by_name
from lepton_fl.flower import NODE_UNAVAILABLE, Error, Message, enter_run
from lepton_fl.link.frames import Parts
from lepton_fl.show import counted_institutions
from lepton_server.hub import Hub
from lepton_server.supervision import REVOKED

_log = logging.getLogger(__name__)
_PATIENCE_S = 10.0  # a decision by policy takes no longer


class QuorumLost(LeptonError):
    """Too few institutions are connected, and waiting longer was not asked for."""

    exit_code = 10


@dataclass(frozen=True)
class Least:
    """Below which numbers a round does not begin."""

    connected: int  # members
    asked: int  # that the contract promises


class HubGrid(OfRun):
    """Flower's Grid over the hub."""

    def __init__(self, hub: Hub, run_id: int, members: Mapping[int, str], least: Least) -> None:
        """Args:
        members: who can be asked in the open round, node id to institution.
        """
        super().__init__(enter_run(run_id))
        self._hub, self._members, self._least = hub, members, least

    def get_node_ids(self) -> Iterable[int]:
        """Every member of the round by name, connected or not: one that is away may be back before its round ends."""
        return by_name(self._members)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, without waiting for answers."""
        # A round's instructions share their content, so it is encoded and hashed once.
        encoded: dict[int, Parts] = {}
        asked = list(messages)
        for message in asked:
            if id(message.content) not in encoded:
                encoded[id(message.content)] = encode(message)
        return [self._hub.push(message, encoded[id(message.content)]) for message in asked]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The answers that have come, each handed out once."""
        return self._hub.owing.collect(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The answers of one round: all, or those that came before the round's end.

        Raises:
            QuorumLost: too few institutions are connected, and none came back in time; or fewer are left than the
                contract promises.
        """
        self._wait_for_quorum()
        asked = list(messages)
        # Later steps of a masked round name no cohort: its threshold is what they are held against.
        if asked and "config" in asked[0].content.config_records and len(asked) < self._least.asked:
            raise QuorumLost(
                f"{counted_institutions(len(asked))} left to ask, and the contract promises at least "
                f"{self._least.asked}; the rounds before are safe; begin a new run with another least_cohort"
            )
        owing, waiting = self._hub.owing, set(self.push_messages(asked))
        answers: list[Message] = []
        end = time.monotonic() + min(self._hub.limits.round_s, timeout or self._hub.limits.round_s)
        with owing.changed:
            while waiting and (left := end - time.monotonic()) > 0:
                owing.raise_problem()
                owing.fail_the_long_gone(self._hub.sessions)
                for message_id in list(waiting):
                    came = owing.collect([message_id])
                    answers += came
                    waiting -= {message_id} if came else set()
                if waiting:
                    owing.changed.wait(min(left, 0.5))
        owing.give_up(waiting)
        return self._without_revoked(asked, answers)

    def _without_revoked(self, asked: list[Message], answers: list[Message]) -> list[Message]:
        """An update that came before its institution was revoked, and is not aggregated yet, is dropped."""
        revoked = self._hub.revoked()
        sent = {message.metadata.dst_node_id: message for message in asked}
        return [
            Message(Error(NODE_UNAVAILABLE, REVOKED), reply_to=sent[answer.metadata.src_node_id])
            if answer.metadata.src_node_id in revoked
            else answer
            for answer in answers
        ]

    def _wait_for_quorum(self) -> None:
        wait_for_members(
            self._hub, lambda: len(self._members.keys() & self._hub.sessions.keys()) >= self._least.connected
        )


def wait_for_decisions(hub: Hub, institutions: Sequence[str], least: int) -> None:
    """Until every institution that is here accepted or refused the contract, or the quorum's limit has passed.

    Raises:
        QuorumLost: fewer than `least` accepted it.
    """
    changed = hub.owing.changed
    began, is_told = time.monotonic(), False
    end = began + hub.limits.quorum_s
    with changed:
        while (undecided := hub.undecided(institutions)) and time.monotonic() < end:
            hub.owing.raise_problem()
            if not is_told and time.monotonic() - began > _PATIENCE_S:
                is_told = True
                _log.info("waiting for the decision on the contract of %s", ", ".join(sorted(undecided)))
            changed.wait(max(0.0, min(1.0, end - time.monotonic())))
        accepted, refused = sorted(hub.consent.accepted), dict(hub.consent.refused)
    if len(accepted) < least:
        why = "; ".join(f"{name} refused: {clause}" for name, clause in sorted(refused.items())) or "nobody refused it"
        raise QuorumLost(
            f"{len(accepted)} of {len(institutions)} institutions accepted the contract, and {least} are needed "
            f"({why}); nothing was trained; agree on other settings, then give them with abandon=true"
        )


def wait_for_members(hub: Hub, enough: Callable[[], bool], patience_s: float | None = None) -> None:
    """Until enough institutions are connected.

    Args:
        patience_s: go on after so long, whoever is there; None: the quorum's limit.

    Raises:
        QuorumLost: they did not come within the quorum's limit.
    """
    changed = hub.owing.changed
    end = time.monotonic() + (hub.limits.quorum_s if patience_s is None else patience_s)
    with changed:
        while not enough():
            hub.owing.raise_problem()
            if not changed.wait(max(0.0, min(1.0, end - time.monotonic()))) and time.monotonic() >= end:
                if patience_s is not None:
                    return
                names = sorted(session.member.name for session in hub.sessions.values())
                raise QuorumLost(
                    f"after {hub.limits.quorum_s:.0f} s only {counted_institutions(len(names))} connected "
                    f"({', '.join(names) or 'nobody'}); the rounds before are safe; look at the others, then run again"
                )
