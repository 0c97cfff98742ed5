"""What Flower's Grids are made of here, so that each of them says only what it does otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lepton_fl.flower import Grid, Message, RecordDict, Run


class OfRun(Grid):
    """Knows its run and how a message is made; whom it reaches, and how, is for who inherits."""

    def __init__(self, run: Run) -> None:
        self._run = run

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


class Around(OfRun):
    """Another grid's run and its messages."""

    def __init__(self, inner: Grid) -> None:
        self._inner = inner

    def set_run(self, run: Run) -> None:
        """See `Grid.set_run`."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """See `Grid.run`."""
        return self._inner.run

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid.get_node_ids`."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid.push_messages`."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid.pull_messages`."""
        return self._inner.pull_messages(message_ids)


def by_name(names: Mapping[int, str]) -> list[int]:
    """Node ids in the order of their institutions' names: whom a strategy samples must not depend on ids."""
    return sorted(names, key=names.__getitem__)
