"""Whether the ledger here is the one that the operator saw last: yesterday's disk is noticed at the next stream."""

from __future__ import annotations

from lepton_client.ledger import Ledger
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


def refuse_put_back(ledger: Ledger, seen: LedgerHead | None) -> None:
    """Raise `LedgerPutBack` unless the ledger goes on from what the operator saw, or a person put it in its place."""
    if seen is None or ledger.hash_at(seen.position) == seen.sha256.hex():
        return
    if ledger.replaces(seen.ledger.hex()):
        return
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
