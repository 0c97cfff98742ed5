"""Who belongs to the federation: members, their keys, and invitations."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lepton_fl.evidence.log_entries import Entry
from lepton_server import log_rows
from lepton_server.database import Database, StoreError, as_text, as_time


@dataclass(frozen=True)
class Institution:
    """A member, or one that was."""

    name: str
    node_id: int
    enrolled_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class Invited:
    """An invitation as the operator keeps it: without its secret."""

    institution: str
    expires_at: datetime
    spent_by: bytes | None  # hash of the key that used it


class Store:
    """Membership in the operator's database; one connection, used by one thread."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def invite(self, institution: str, secret: bytes, expires_at: datetime, now: datetime) -> None:
        """Remember an invitation; an earlier one for the same name that is still open is withdrawn.

        Raises:
            StoreError: the name was revoked, or is a member's whose certificate has not ended.
        """
        with self._db.transaction():
            known = self._find(institution)
            if known is not None:
                self._refuse_present(known, now)
            self._db.execute(
                "UPDATE invitations SET withdrawn_at = ? WHERE institution = ? AND spent_by IS NULL",
                (as_text(now), institution),
            )
            self._db.execute(
                "INSERT INTO invitations (secret_hash, institution, expires_at) VALUES (?, ?, ?)",
                (_hash(secret), institution, as_text(expires_at)),
            )
            self._db.note(now, institution, "invited", f"until {as_text(expires_at)}")

    def invited(self, secret: bytes, now: datetime) -> Invited:
        """The open invitation behind a secret, or the one that this institution's own key already used.

        Raises:
            StoreError: unknown, withdrawn or expired. One sentence for all who cannot show a known secret.
        """
        row = self._db.execute(
            "SELECT institution, expires_at, spent_by, withdrawn_at FROM invitations WHERE secret_hash = ?",
            (_hash(secret),),
        ).fetchone()
        if row is None or row[3] is not None:
            raise StoreError("the invitation is unknown or was replaced by a newer one; ask the operator for another")
        found = Invited(row[0], as_time(row[1]), row[2])
        if found.spent_by is None and now >= found.expires_at:
            raise StoreError("the invitation expired; ask the operator for another")
        return found

    def enrol(self, secret: bytes, key_hash: bytes, certificate: bytes, times: tuple[datetime, datetime]) -> bytes:
        """Spend an invitation and add the member, together or not at all; returns the member's certificate.

        A member that comes back stays who it was, node id included; this key then is its only one.
        A repeat with the same secret and key, say after a lost answer, returns the first certificate again.

        Args:
            times: now, and the certificate's end.

        Raises:
            StoreError: the invitation was used by another key, or cannot be used; or the key is somebody else's.
        """
        now, not_after = times
        with self._db.transaction():
            found = self.invited(secret, now)
            if found.spent_by is not None:
                return self._first_certificate(found, key_hash)
            name = found.institution
            is_back = self._find(name) is not None
            if not is_back:
                self._add(name, key_hash, now)
            self._keep_only(key_hash, name, certificate, not_after)
            self._db.execute("UPDATE invitations SET spent_by = ? WHERE secret_hash = ?", (key_hash, _hash(secret)))
            self._db.note(now, name, "enrolled again" if is_back else "enrolled", key_hash.hex())
            log_rows.enter(
                self._db, Entry("enrolled", now, {"institution": name, "key": key_hash.hex(), "again": is_back})
            )
        return certificate

    def _first_certificate(self, found: Invited, key_hash: bytes) -> bytes:
        if found.spent_by != key_hash:
            raise StoreError("the invitation was used already; if that was not you, tell the operator at once")
        member = self.member(key_hash)
        if member is None or member.name != found.institution:
            raise StoreError(f"{found.institution} was revoked, or has another key since; ask the operator")
        (certificate,) = self._db.execute("SELECT certificate FROM keys WHERE key_hash = ?", (key_hash,)).fetchone()
        return bytes(certificate)

    def revoke(self, institution: str, now: datetime) -> None:
        """Keep an institution out from now on; its open invitations are withdrawn too.

        Raises:
            StoreError: there is no such member or invitation.
        """
        with self._db.transaction():
            withdrawn = self._db.execute(
                "UPDATE invitations SET withdrawn_at = ? "
                "WHERE institution = ? AND spent_by IS NULL AND withdrawn_at IS NULL",
                (as_text(now), institution),
            ).rowcount
            revoked = self._db.execute(
                "UPDATE institutions SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL",
                (as_text(now), institution),
            ).rowcount
            if not withdrawn and not revoked:
                raise StoreError(f"there is no member or open invitation {institution}; nothing was changed")
            self._db.note(now, institution, "revoked", "")
            log_rows.enter(self._db, Entry("revoked", now, {"institution": institution}))

    def member(self, key_hash: bytes) -> Institution | None:
        """The member with this key, unless it was revoked."""
        row = self._db.execute(
            "SELECT i.name, i.node_id, i.enrolled_at, i.revoked_at "
            "FROM keys k JOIN institutions i ON i.name = k.institution WHERE k.key_hash = ? AND i.revoked_at IS NULL",
            (key_hash,),
        ).fetchone()
        return None if row is None else _institution(row)

    def member_keys(self) -> set[bytes]:
        """The hash of every key whose institution was not revoked."""
        rows = self._db.execute(
            "SELECT k.key_hash FROM keys k JOIN institutions i ON i.name = k.institution WHERE i.revoked_at IS NULL"
        )
        return {bytes(key_hash) for (key_hash,) in rows}

    def revoked_nodes(self) -> set[int]:
        """Node ids of former members."""
        rows = self._db.execute("SELECT node_id FROM institutions WHERE revoked_at IS NOT NULL")
        return {node_id for (node_id,) in rows}

    def institutions(self) -> list[Institution]:
        """All members and former members, by name."""
        rows = self._db.execute("SELECT name, node_id, enrolled_at, revoked_at FROM institutions ORDER BY name")
        return [_institution(row) for row in rows]

    def certificate_ends(self) -> dict[str, datetime]:
        """When each institution's certificate ends; the last of it, of one that was revoked."""
        return {name: as_time(end) for name, end in self._db.execute("SELECT institution, not_after FROM keys")}

    def open_invitations(self, now: datetime) -> list[Invited]:
        """Invitations that could still be used, by name."""
        rows = self._db.execute(
            "SELECT institution, expires_at FROM invitations WHERE spent_by IS NULL AND withdrawn_at IS NULL "
            "AND expires_at > ? ORDER BY institution",
            (as_text(now),),
        )
        return [Invited(name, as_time(expires_at), None) for name, expires_at in rows]

    def _find(self, name: str) -> Institution | None:
        query = "SELECT name, node_id, enrolled_at, revoked_at FROM institutions WHERE name = ?"
        row = self._db.execute(query, (name,)).fetchone()
        return None if row is None else _institution(row)

    def renew(self, key_hash: bytes, certificate: bytes, times: tuple[datetime, datetime]) -> None:
        """Keep a newer certificate for a member's key.

        Args:
            times: now, and the certificate's end.

        Raises:
            StoreError: the key is no member's, or its member was revoked; nothing was changed.
        """
        now, not_after = times
        with self._db.transaction():
            member = self.member(key_hash)
            if member is None:
                raise StoreError("this certificate is not a member's, or was revoked; nothing was signed")
            self._db.execute(
                "UPDATE keys SET certificate = ?, not_after = ? WHERE key_hash = ?",
                (certificate, as_text(not_after), key_hash),
            )
            self._db.note(now, member.name, "renewed", f"until {as_text(not_after)}")
            fields = {"institution": member.name, "key": key_hash.hex(), "until": as_text(not_after)}
            log_rows.enter(self._db, Entry("renewed", now, fields))

    def _refuse_present(self, known: Institution, now: datetime) -> None:
        """Raise for whoever needs no invitation, or may have none; a member whose certificate ended may come back."""
        if known.revoked_at:
            raise StoreError(f"{known.name} was revoked; nobody was invited; choose another name")
        query = "SELECT max(not_after) FROM keys WHERE institution = ?"
        (end,) = self._db.execute(query, (known.name,)).fetchone()
        if end is not None and now < as_time(end):
            raise StoreError(
                f"{known.name} is a member already, with a certificate until {as_time(end):%Y-%m-%d %H:%M} UTC; nobody "
                "was invited; it renews by itself, and can be invited again once it has ended"
            )

    def _add(self, name: str, key_hash: bytes, now: datetime) -> None:
        node_id = int.from_bytes(key_hash[:8], "big") >> 1
        if node_id <= 1 or self._db.execute("SELECT 1 FROM institutions WHERE node_id = ?", (node_id,)).fetchone():
            raise StoreError("this key's node id is taken; nothing was enrolled; make another key and try again")
        self._db.execute(
            "INSERT INTO institutions (name, node_id, enrolled_at) VALUES (?, ?, ?)", (name, node_id, as_text(now))
        )

    def _keep_only(self, key_hash: bytes, name: str, certificate: bytes, not_after: datetime) -> None:
        owner = self._db.execute("SELECT institution FROM keys WHERE key_hash = ?", (key_hash,)).fetchone()
        if owner is not None and owner[0] != name:
            raise StoreError("this key is another institution's; nothing was enrolled; make another key and try again")
        self._db.execute("DELETE FROM keys WHERE institution = ?", (name,))
        self._db.execute(
            "INSERT INTO keys (key_hash, institution, certificate, not_after) VALUES (?, ?, ?, ?)",
            (key_hash, name, certificate, as_text(not_after)),
        )


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(b"lepton-fl/invitation-secret" + secret).digest()


def _institution(row: tuple[str, int, str, str | None]) -> Institution:
    return Institution(row[0], row[1], as_time(row[2]), None if row[3] is None else as_time(row[3]))
