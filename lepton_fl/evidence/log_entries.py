"""What stands in the log: kinds of entries, the exact fields of each, and the one form that is hashed.

Nothing here can identify a person, and no figure stands here that was not released: no names of people, no counts, no
metrics. What a person said or who it was stands as a salted commitment; the salt lies outside and can be deleted, after
which nobody can tell whose it was.

Source: RFC 8785 (the one form of JSON).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lepton_fl.errors import LeptonError
from lepton_fl.evidence import canonical

LARGEST = 64 << 10  # bytes of an entry
SALT_BYTES = 32
_LONGEST_NAME = 200  # characters of an institution's name
_MOST_NAMES = 10_000
_COMMITMENT = b"lepton-fl/commitment/1\0"

DECLINED, FAILED, NOT_ASKED, SECOND_REPLY, UNUSABLE = "declined", "failed", "not asked", "second reply", "unusable"
REASONS = (DECLINED, FAILED, NOT_ASKED, SECOND_REPLY, UNUSABLE)  # why a round left an institution's answer out
ENDED = ("finished", "failed", "abandoned")
RELEASED, HELD, OVERRIDDEN = "released", "held", "overridden"
VERDICTS = (RELEASED, HELD, OVERRIDDEN)
EDITIONS = ("public", "consortium")
ACTIONS = ("open", "close")


class BadEntry(LeptonError):
    """What should go into the log is no entry of it."""

    exit_code = 9


Holds = Callable[[Any], bool]


def _matches(pattern: str) -> Holds:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _among(words: tuple[str, ...]) -> Holds:
    return lambda value: isinstance(value, str) and value in words


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_NAMES and all(_is_name(one) for one in value)


def _are_reasons(value: Any) -> bool:
    return isinstance(value, dict) and _are_names([*value]) and all(one in REASONS for one in value.values())


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and bool(0 <= value < float("inf"))


def _is_time(value: Any) -> bool:
    try:
        return bool(as_text(datetime.fromisoformat(value)) == value)
    except (ValueError, TypeError):
        return False


def _or_none(holds: Holds) -> Holds:
    return lambda value: value is None or holds(value)


_SHA256, _RUN = _matches("[0-9a-f]{64}"), _matches("[1-9][0-9]{0,19}")
_WORD, _BASE64, _PEM = _matches("[a-z][a-z0-9 ._-]{0,79}"), _matches("[A-Za-z0-9+/]{8,400}={0,2}"), _matches("(?s).+")

FIELDS: Mapping[str, Mapping[str, Holds]] = {
    # The key that signs heads from here on, and the operator's signature over it.
    "log-key": {"key": _SHA256, "certificate": _PEM, "signature": _BASE64},
    # The certificate's key, as its SHA-256.
    "enrolled": {"institution": _is_name, "key": _SHA256, "again": _is_flag},
    "renewed": {"institution": _is_name, "key": _SHA256, "until": _is_time},
    "revoked": {"institution": _is_name},
    # A run's contract, as its SHA-256.
    "run": {"run": _RUN, "contract": _SHA256},
    # The clause of the policy by which it refused; empty where it accepted. Signed by the institution if it did.
    "decision": {
        "run": _RUN,
        "institution": _is_name,
        "accepted": _is_flag,
        "clause": _or_none(_WORD),
        "certificate": _or_none(_PEM),
        "signature": _or_none(_BASE64),
    },
    # The model after the round; `skipped` is whether it is the one before. Epsilon: spent up to here by whoever was
    # asked most often.
    "round": {
        "run": _RUN,
        "round": _is_whole,
        "model": _SHA256,
        "cohort": _are_names,
        "replied": _are_names,
        "refused": _are_reasons,
        "skipped": _is_flag,
        "epsilon": _or_none(_is_number),
    },
    # Something was released besides the models: an evaluation, attributions. Epsilon and delta are what the run's
    # releases up to this one cost each of the people they are `of`, say those held out; None: nothing covers them.
    "release": {
        "run": _RUN,
        "round": _is_whole,
        "what": _WORD,
        "of": _WORD,
        "epsilon": _or_none(_is_number),
        "delta": _or_none(_is_number),
        "sha256": _or_none(_SHA256),
    },
    "gate": {"run": _RUN, "verdict": _among(VERDICTS), "failed": _are_names, "sha256": _SHA256},
    "override": {"run": _RUN, "by": _SHA256, "reason": _SHA256},
    "feedback": {
        "run": _RUN,
        "id": _WORD,
        "action": _among(ACTIONS),
        "category": _WORD,
        "text": _SHA256,
        "by": _or_none(_SHA256),
    },
    "report": {"run": _RUN, "edition": _among(EDITIONS), "status": _WORD, "sha256": _SHA256},
    # The model file that was written at the end, as the SHA-256 of its bytes.
    "run-ended": {"run": _RUN, "state": _among(ENDED), "model": _or_none(_SHA256)},
}


@dataclass(frozen=True)
class Entry:
    """One entry."""

    kind: str
    at: datetime
    fields: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The one form, which is hashed.

        Raises:
            BadEntry: a kind or a field that the log does not have, or of another type.
        """
        _refuse_unknown(self.kind, self.fields)
        content = canonical.to_bytes({"at": as_text(self.at), "fields": dict(self.fields), "kind": self.kind})
        if len(content) > LARGEST:
            raise BadEntry(f"an entry of {len(content)} bytes is too long for the log; nothing was written")
        return content


def read(content: bytes) -> Entry:
    """The entry that these bytes are the one form of; raises `BadEntry`."""
    if len(content) > LARGEST:
        raise BadEntry(f"an entry of {len(content)} bytes is too long for the log; it was not read")
    try:
        plain = json.loads(content)
        entry = Entry(plain["kind"], datetime.fromisoformat(plain["at"]), plain["fields"])
        is_one_form = entry.to_bytes() == content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadEntry("it is no entry of a log; nothing of it was believed") from error
    if not is_one_form:
        raise BadEntry("it is not in the one form that entries have; nothing of it was believed")
    return entry


def as_text(moment: datetime) -> str:
    """UTC, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def commitment(text: str, salt: bytes) -> str:
    """What stands in the log for a text about a person: hex SHA-256, opened by whoever has text and salt."""
    return hashlib.sha256(_COMMITMENT + salt + text.encode()).hexdigest()


def reason_word(reason: str) -> str:
    """One of `REASONS` for what a round says of an answer that it left out; free text does not get into the log."""
    fixed = {"it was not asked in this round": NOT_ASKED, "a second reply was ignored": SECOND_REPLY}
    if reason.startswith("it declined:"):
        return DECLINED
    if reason.startswith(("it failed:", "it refused")):
        return FAILED
    return fixed.get(reason, UNUSABLE)


def clause_word(refused: str) -> str:
    """The name of a policy's clause, without what the institution said about it."""
    found = re.match(r"policy(\.[a-z_]{1,40}){1,3}", refused)
    return found[0] if found else "other"


def _refuse_unknown(kind: str, fields: Mapping[str, Any]) -> None:
    wanted = FIELDS.get(kind) if isinstance(kind, str) else None
    if wanted is None or not isinstance(fields, Mapping):
        raise BadEntry("the log has no entries of this kind; nothing was written; use one of its kinds")
    if {*fields} != {*wanted}:
        raise BadEntry(f"an entry {kind} has the fields {', '.join(sorted(wanted))} and no others; nothing was written")
    for name, holds in wanted.items():
        if not holds(fields[name]):
            raise BadEntry(f"the field {name} of an entry {kind} is not what it must be; nothing was written")
