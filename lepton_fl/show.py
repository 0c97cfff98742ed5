"""How `status` shows what it found: a table for people or JSON for machines, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")

EVERY_S = 2.0


@dataclass(frozen=True)
class Look(Generic[T]):
    """What to show."""

    status: Callable[[datetime], T]  # looked up at this moment
    lines: Callable[[T], list[str]]


def show(look: Look[T], as_json: bool, is_watched: bool) -> None:
    """The status is on stdout; a watched one is looked up every 2 s until Ctrl-C, which is its normal end."""

    def text() -> str:
        found = look.status(datetime.now(UTC))
        return to_json(found) if as_json else "\n".join(look.lines(found))

    if not is_watched:
        _say(text())
        return
    with suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and not as_json:
            _watch_in_place(text)
        while True:
            _say(text())
            time.sleep(EVERY_S)


def _watch_in_place(text: Callable[[], str]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            live.update(Text(text()), refresh=True)
            time.sleep(EVERY_S)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def to_json(status: DataclassInstance) -> str:
    """One line of JSON, its keys the fields; moments as RFC 3339, in UTC."""
    return json.dumps(asdict(status), default=_moment)


def _moment(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return value.astimezone(UTC).isoformat(timespec="seconds")


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago that was, to one unit; a moment in the future is now."""
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def at(moment: datetime) -> str:
    """To the minute, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def counted_institutions(count: int) -> str:
    """`1 institution`, `4 institutions`."""
    return f"{count} institution{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Somebody else's text as one short line that cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
