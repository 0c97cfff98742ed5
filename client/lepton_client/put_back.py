"""A ledger that was put back stays stopped until a person decides: what an operator saw of it is noted beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from lepton_fl.files import write_secret
from lepton_fl.privacy.chain import Damaged

PUT_BACK = "put_back.json"


@dataclass(frozen=True)
class Countersigned:
    """An entry that an operator saw, and that the ledger here does not have; digests in hex."""

    ledger: str  # SHA-256 of its first entry
    position: int
    sha256: str
    operator: str  # federation whose operator saw it, as `Declared.operator`


def note(folder: Path, seen: Countersigned) -> None:
    """Every process that opens this folder knows from now on; the caller holds the folder."""
    write_secret(folder / PUT_BACK, json.dumps(asdict(seen)).encode() + b"\n")


def find(folder: Path) -> Countersigned | None:
    """What was noted, if anything; raises `Damaged` if it cannot be read."""
    try:
        content = (folder / PUT_BACK).read_bytes()
    except FileNotFoundError:
        return None
    try:
        seen = Countersigned(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        seen = None
    if seen is None or [type(value) for value in asdict(seen).values()] != [str, int, str, str]:
        raise Damaged(0, "it was put back, and the note about it was changed")
    return seen


def refuse_noted(folder: Path, entry: Callable[[int], str | None], replaced: Collection[str]) -> None:
    """Raise `Damaged` if something was noted that the ledger neither has nor was put in the place of.

    Args:
        entry: the SHA-256 of the ledger's entry at a position; None if it has none there.
        replaced: ledgers that a person gave up for this one.
    """
    seen = find(folder)
    if seen is None or seen.ledger in replaced or entry(seen.position) == seen.sha256:
        return
    raise Damaged(
        seen.position,
        f"is not the one that the operator of federation {seen.operator[:16]} countersigned: the ledger was put back",
    )
