"""NamedGrid: a Grid of Flower's own, whose nodes were asked for the institution that each of them is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from lepton_fl.errors import ConfigError
from lepton_fl.federation.grids import Around, by_name
from lepton_fl.flower import ConfigRecord, Grid, Message, MessageType, RecordDict

IDENTITY = "identity"
INSTITUTION = "institution"
_PAUSE_S = 0.05


class NamedGrid(Around):
    """The same nodes in the order of their institutions' names, which is what a strategy draws its cohort from."""

    def __init__(self, inner: Grid, names: Mapping[int, str]) -> None:
        super().__init__(inner)
        self.names = names

    def get_node_ids(self) -> Iterable[int]:
        """Every institution's node id, in the order of names."""
        return by_name(self.names)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See `Grid.send_and_receive`; Flower's own looks every three seconds, which is longer than many a round."""
        asked = list(self.push_messages(messages))
        replies: list[Message] = []
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            # To ask twice for a reply that was handed out is answered with an error.
            taken = {reply.metadata.reply_to_message_id for reply in replies}
            replies += self.pull_messages([one for one in asked if one not in taken])
            if len(replies) >= len(asked) or (until is not None and time.monotonic() >= until):
                return replies
            time.sleep(_PAUSE_S)


def named(inner: Grid, institutions: Iterable[str], wait_s: float, pause: Callable[[float], None]) -> NamedGrid:
    """The grid, once every node has said which institution it is, and all of them are there.

    Args:
        wait_s: for so many nodes to come.

    Raises:
        ConfigError: too few or too many nodes, one that refuses, or one that is no institution of this run.
    """
    wanted = sorted(institutions)
    nodes = _present(inner, len(wanted), wait_s, pause)
    if len(nodes) != len(wanted):
        raise ConfigError(
            f"this run has {len(wanted)} institutions and Flower's federation {len(nodes)} nodes; nothing was trained; "
            f"give --federation-config 'num-supernodes={len(wanted)}', or institutions={len(nodes)} where the task "
            "lets them be made up"
        )
    names = _asked(inner, nodes, wait_s)
    if sorted(names.values()) != wanted:
        raise ConfigError(
            f"{len(names)} of {len(nodes)} nodes said which institution they are, and they are not those of this run; "
            "nothing was trained; give every node the same settings"
        )
    return NamedGrid(inner, names)


def gathered(inner: Grid, institutions: int, wait_s: float, pause: Callable[[float], None]) -> NamedGrid:
    """The grid, once so many nodes are there and each has named its institution, whichever those are.

    Raises:
        ConfigError: too few or too many nodes, one that refuses, or two of one name.
    """
    nodes = _present(inner, institutions, wait_s, pause)
    if len(nodes) != institutions:
        raise ConfigError(
            f"institutions={institutions} are to take part and {len(nodes)} SuperNodes are there; nothing was trained; "
            f"start those that are missing, or give institutions={len(nodes)}"
        )
    names = _asked(inner, nodes, wait_s)
    if len(names) != len(nodes) or len({*names.values()}) != len(names) or "" in names.values():
        raise ConfigError(
            f"{len(nodes)} SuperNodes gave {len({*names.values()} - {''})} names of institutions; nothing was trained; "
            "let each node's home be that of another institution"
        )
    return NamedGrid(inner, names)


def said_by(reply: Message) -> str:
    """Why a node answers with an error, in one line that is not too long."""
    return " ".join(str(reply.error.reason).split())[:400]


def _present(inner: Grid, wanted: int, wait_s: float, pause: Callable[[float], None]) -> list[int]:
    began = time.monotonic()
    while len(nodes := list(inner.get_node_ids())) < wanted and time.monotonic() - began < wait_s:
        pause(_PAUSE_S)
    return nodes


def _asked(inner: Grid, nodes: Iterable[int], wait_s: float) -> dict[int, str]:
    """Who each of these nodes says that it is."""
    asked = [
        Message(RecordDict({IDENTITY: ConfigRecord({})}), node, MessageType.QUERY, group_id=IDENTITY) for node in nodes
    ]
    names: dict[int, str] = {}
    for reply in NamedGrid(inner, {}).send_and_receive(asked, timeout=wait_s):
        if reply.has_error():
            raise ConfigError(f"a node takes no part: {said_by(reply)}")
        told = reply.content.config_records[IDENTITY].get(INSTITUTION)
        names[reply.metadata.src_node_id] = told if isinstance(told, str) else ""
    return names
