"""Whether the ledger here is the one that the operator saw last: yesterday's disk is noticed at the next stream."""

from __future__ import annotations

from lepton_client.ledger import Ledger
from lepton_client.put_back import Countersigned
from lepton_fl.errors import LeptonError
from lepton_fl.link.ledger_head import LedgerHead


class LedgerPutBack(LeptonError):
    """The ledger is older than, or another than, the one that the operator countersigned."""

    exit_code = 3


def head_of(ledger: Ledger) -> LedgerHead | None:
    """The ledger's last entry, as it is told to the operator; None while it has none."""
    first, head = ledger.hash_at(1), ledger.head
    if first is None or head.position == 0:
        return None
    return LedgerHead(bytes.fromhex(first), head.position, bytes.fromhex(head.sha256))


def seen_of(ledger: Ledger, seen: LedgerHead | None) -> int:
    """The position up to which the operator saw this ledger; 0 where it saw none of it, or one that it replaces."""
    return seen.position if seen is not None and ledger.hash_at(seen.position) == seen.sha256.hex() else 0


def refuse_put_back(ledger: Ledger, seen: LedgerHead | None, operator: str) -> None:
    """The ledger goes on from what the operator saw, or a person put it in its place; else nobody can use it any more.

    Args:
        operator: the federation of whoever saw it, as `Declared.operator`.

    Raises:
        LedgerPutBack: it does not. That is noted beside the ledger first, so that every process stops, also offline.
        OSError: it could not be noted.
    """
    if seen is None or seen_of(ledger, seen) or ledger.replaces(seen.ledger.hex()):
        return
    ledger.note_put_back(Countersigned(seen.ledger.hex(), seen.position, seen.sha256.hex(), operator))
    here = ledger.head.position
    what = (
        f"it ends at entry {here}, and the operator countersigned entry {seen.position}"
        if here < seen.position
        else f"its entry {seen.position} is not the one that the operator countersigned"
    )
    raise LedgerPutBack(
        f"the ledger was put back or replaced: {what}; nothing was read or sent; bring back the newest ledger, or "
        'decide with lepton-client ledger accept --reason "..."'
    )
