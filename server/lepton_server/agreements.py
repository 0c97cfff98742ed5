"""What operator and institutions agreed to: contracts, who accepted them, and where each one's ledger stood last."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lepton_fl.evidence.log_entries import Entry, clause_word
from lepton_fl.link.ledger_head import LedgerHead
from lepton_fl.link.signature import Signed
from lepton_server import log_rows
from lepton_server.database import Database, as_text


@dataclass(frozen=True)
class Offered:
    """A contract as the operator signed it."""

    content: bytes
    signed: Signed


@dataclass(frozen=True)
class Seen:
    """The last head of an institution's ledger, as the operator saw and signed it."""

    head: LedgerHead
    at: float  # seconds since 1970, UTC
    signed: Signed


class Agreements:
    """Contracts, decisions and ledger heads; one connection, used by one thread."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def offer(self, run_id: int, offered: Offered) -> None:
        """Remember a run's contract; there is one for each run."""
        digest = hashlib.sha256(offered.content).hexdigest()
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO contracts (run_id, contract, certificate, signature) VALUES (?, ?, ?, ?)",
                (run_id, offered.content, offered.signed.certificate, offered.signed.value),
            )
            log_rows.enter(self._db, Entry("run", datetime.now(UTC), {"run": str(run_id), "contract": digest}))

    def offered(self, run_id: int) -> Offered | None:
        """A run's contract."""
        row = self._db.execute(
            "SELECT contract, certificate, signature FROM contracts WHERE run_id = ?", (run_id,)
        ).fetchone()
        return None if row is None else Offered(row[0], Signed(row[1], row[2]))

    def accept(self, run_id: int, institution: str, signed: Signed, now: datetime) -> None:
        """An institution countersigned; what it said before no longer counts."""
        with self._db.transaction():
            self._forget_refusal(run_id, institution)
            added = self._db.execute(
                "INSERT INTO decisions (run_id, institution, at, certificate, signature) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                (run_id, institution, as_text(now), signed.certificate, signed.value),
            ).rowcount
            if added:
                self._db.note(now, institution, "contract accepted", str(run_id))
                self._log_decision(run_id, institution, now, signed)

    def refuse(self, run_id: int, institution: str, clause: str, now: datetime) -> None:
        """An institution refused; it can still accept later."""
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO decisions (run_id, institution, at, refused) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET at = excluded.at, refused = excluded.refused WHERE signature IS NULL",
                (run_id, institution, as_text(now), clause),
            )
            self._db.note(now, institution, "contract refused", f"{run_id} {clause}")
            self._log_decision(run_id, institution, now, clause_word(clause))

    def accepted(self, run_id: int) -> set[str]:
        """The institutions that countersigned a run's contract."""
        rows = self._db.execute(
            "SELECT institution FROM decisions WHERE run_id = ? AND signature IS NOT NULL", (run_id,)
        )
        return {name for (name,) in rows}

    def last_seen(self, institution: str) -> Seen | None:
        """The last head of this institution's ledger."""
        row = self._db.execute(
            "SELECT ledger, position, sha256, at, certificate, signature FROM ledger_heads WHERE institution = ?",
            (institution,),
        ).fetchone()
        if row is None:
            return None
        return Seen(LedgerHead(row[0], row[1], row[2]), row[3], Signed(row[4], row[5]))

    def see(self, institution: str, seen: Seen, now: datetime) -> bool:
        """Remember a newer head; whether it is one. Another ledger is noted, and an older head is not taken."""
        with self._db.transaction():
            last = self.last_seen(institution)
            if last is not None and last.head.ledger == seen.head.ledger:
                if seen.head.position < last.head.position:
                    self._db.note(now, institution, "ledger put back", f"{last.head.position} {seen.head.position}")
                    return False
                if seen.head.position == last.head.position and seen.head.sha256 != last.head.sha256:
                    self._db.note(now, institution, "ledger differs", str(seen.head.position))
                    return False
            elif last is not None:
                self._db.note(now, institution, "another ledger", seen.head.ledger.hex())
            self._db.execute(
                "INSERT INTO ledger_heads (institution, ledger, position, sha256, at, certificate, signature) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET ledger = excluded.ledger, "
                "position = excluded.position, sha256 = excluded.sha256, at = excluded.at, "
                "certificate = excluded.certificate, signature = excluded.signature",
                (
                    institution,
                    seen.head.ledger,
                    seen.head.position,
                    seen.head.sha256,
                    seen.at,
                    seen.signed.certificate,
                    seen.signed.value,
                ),
            )
        return True

    def _forget_refusal(self, run_id: int, institution: str) -> None:
        self._db.execute(
            "DELETE FROM decisions WHERE run_id = ? AND institution = ? AND signature IS NULL", (run_id, institution)
        )

    def _log_decision(self, run_id: int, institution: str, now: datetime, said: Signed | str) -> None:
        """A signature, or the clause; what was said before, and is said again, has its entry already."""
        clause, signed = (said, None) if isinstance(said, str) else (None, said)
        fields = {
            "run": str(run_id),
            "institution": institution,
            "accepted": clause is None,
            "clause": clause,
            "certificate": None if signed is None else signed.certificate.decode(),
            "signature": None if signed is None else base64.b64encode(signed.value).decode(),
        }
        digest = hashlib.sha256(institution.encode()).hexdigest()
        log_rows.enter(self._db, Entry("decision", now, fields), f"decision/{run_id}/{digest}/{clause or 'accepted'}")
