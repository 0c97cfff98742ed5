"""Feedback on a run: what somebody found wrong with its model, open until it is answered.

The words and the name lie in the operator's home, and a copy in the run's folder for its next report; the log gets
salted commitments alone. What is on disk and not yet in the log, because of a crash, gets there with the next verb.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_fl.errors import ConfigError
from lepton_fl.files import replace_file, write_secret
from lepton_server.log import Log

KINDS = ("error", "unfair", "harm", "question", "other")
NAME = "feedback.json"
OPEN, CLOSE = "open", "close"
_LONGEST = 4000  # characters of a text


@dataclass(frozen=True)
class Feedback:
    """One matter."""

    id: str  # f1, f2, ...
    run: str
    kind: str
    about: str
    by: str | None  # as they gave their name
    opened_at: str  # UTC
    closed_at: str | None
    resolution: str | None
    logged: tuple[str, ...]  # what the log has of it: open, close

    @property
    def is_open(self) -> bool:
        """Nobody has answered yet."""
        return self.closed_at is None


def read(home: Path) -> tuple[Feedback, ...]:
    """Every matter of this home, the first one first.

    Raises:
        ConfigError: the file was changed by hand, and not well.
    """
    path = home / NAME
    if not path.exists():
        return ()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Feedback(**{**one, "logged": tuple(one["logged"])}) for one in document["feedback"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path}; nothing was changed; restore it from a backup") from error


def opened(known: Sequence[Feedback], said: Mapping[str, str | None], now: datetime) -> Feedback:
    """A new matter.

    Args:
        said: `run`, `kind`, `about`, and `by` or None.

    Raises:
        ConfigError: a kind that there is not, or a text that says nothing.
    """
    kind = str(said["kind"])
    if kind not in KINDS:
        raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {kind[:40]}; nothing was noted")
    about = _text("--about", str(said["about"]))
    by = said["by"]
    number = 1 + max((int(one.id[1:]) for one in known), default=0)
    return Feedback(
        id=f"f{number}",
        run=str(said["run"]),
        kind=kind,
        about=about,
        by=None if by is None else _text("--by", by),
        opened_at=_at(now),
        closed_at=None,
        resolution=None,
        logged=(),
    )


def closed(known: Sequence[Feedback], id: str, resolution: str, now: datetime) -> Feedback:
    """This matter, answered; raises `ConfigError` if it is not open."""
    for one in known:
        if one.id == id and one.is_open:
            return replace(one, closed_at=_at(now), resolution=_text("--resolution", resolution))
    still = ", ".join(one.id for one in known if one.is_open) or "none"
    raise ConfigError(f"there is no open feedback {id[:40]!r} (open: {still}); nothing was changed")


def keep(home: Path, known: Sequence[Feedback], one: Feedback) -> tuple[Feedback, ...]:
    """The home holds this matter as it is now, and every other one as it was."""
    kept = (*(other for other in known if other.id != one.id), one)
    every = tuple(sorted(kept, key=lambda each: int(each.id[1:])))
    write_secret(home / NAME, _document([asdict(each) for each in every]))
    return every


def enter(log: Log, one: Feedback) -> Feedback:
    """The log has what happened to this matter, each step once; returned as it now is."""
    for action, text in ((OPEN, one.about), (CLOSE, one.resolution)):
        if text is None or action in one.logged:
            continue
        by = log.commit(one.by) if one.by is not None and action == OPEN else None
        fields = {"run": one.run, "id": one.id, "action": action, "category": one.kind, "text": log.commit(text)}
        log.append("feedback", {**fields, "by": by}, f"feedback/{one.id}/{action}")
        one = replace(one, logged=(*one.logged, action))
    return one


def copy_to(folder: Path, every: Sequence[Feedback], run: str) -> None:
    """The run's folder holds what its next report shows: its matters, without names."""
    if not folder.is_dir():
        return
    shown = [
        {name: value for name, value in asdict(one).items() if name not in ("by", "logged")}
        for one in every
        if one.run == run
    ]
    replace_file(folder / NAME, _document(shown))


def lines(every: Sequence[Feedback]) -> list[str]:
    """Open ones first, for people."""
    if not every:
        return ["no feedback"]
    shown = sorted(every, key=lambda one: not one.is_open)
    return [
        f"{one.id:<5} {'open' if one.is_open else 'closed':<7} {one.opened_at[:10]}  run {one.run}  {one.kind}: "
        f"{one.about}{'' if one.resolution is None else f'; answered: {one.resolution}'}"
        for one in shown
    ]


def as_json(every: Sequence[Feedback]) -> str:
    """One line."""
    return json.dumps({"feedback": [asdict(one) for one in every]})


def _document(content: list[dict[str, Any]]) -> bytes:
    return (json.dumps({"schema": "lepton-fl/feedback/1", "feedback": content}, indent=2) + "\n").encode()


def _text(option: str, said: str) -> str:
    plain = " ".join("".join(one if one.isprintable() else " " for one in said).split())
    if not 0 < len(plain) <= _LONGEST:
        raise ConfigError(f"{option} must be 1 to {_LONGEST} characters of text; nothing was noted; write it again")
    return plain


def _at(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")
