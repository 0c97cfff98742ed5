"""The log's rows in the operator's database: an entry is part of the change that it tells of."""

from __future__ import annotations

from lepton_fl.evidence.log_bundle import Identity
from lepton_fl.evidence.log_entries import Entry
from lepton_fl.link.signature import Signed
from lepton_server.database import Database


def enter(db: Database, entry: Entry, once: str | None = None) -> int:
    """Append an entry in the transaction that is under way; returns its index, from 0.

    Args:
        once: names what may be entered once; an entry that is there already stays, and nothing is appended.
    """
    if once is not None:
        known = db.execute("SELECT position FROM log_entries WHERE once = ?", (once,)).fetchone()
        if known is not None:
            return int(known[0])
    (position,) = db.execute("SELECT count(*) FROM log_entries").fetchone()
    values = (position, once, entry.to_bytes())
    db.execute("INSERT INTO log_entries (position, once, content) VALUES (?, ?, ?)", values)
    return int(position)


def entries(db: Database, start: int = 0) -> list[bytes]:
    """The entries from this index on, in order."""
    rows = db.execute("SELECT content FROM log_entries WHERE position >= ? ORDER BY position", (start,))
    return [bytes(content) for (content,) in rows]


def keep_head(db: Database, institution: str, head: tuple[int, bytes, bytes]) -> None:
    """Remember a countersigned head.

    Args:
        head: its size, the institution's public key, the note.
    """
    values = (institution, *head)
    statement = "INSERT INTO log_heads (institution, size, key, note) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    db.execute(statement, values)


def last_heads(db: Database) -> dict[str, tuple[bytes, bytes]]:
    """Each institution's largest countersigned head, as its public key and the note."""
    rows = db.execute(
        "SELECT institution, key, note FROM log_heads AS one WHERE size = "
        "(SELECT max(size) FROM log_heads WHERE institution = one.institution) ORDER BY rowid"
    )
    return {name: (bytes(key), bytes(note)) for name, key, note in rows}


def keep_identity(db: Database, identity: Identity) -> None:
    """Remember whose key countersigns, and the signature that says so."""
    db.execute(
        "INSERT INTO log_identities (institution, key, certificate, signature) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        (identity.institution, identity.key, identity.signed.certificate, identity.signed.value),
    )


def identities(db: Database) -> list[Identity]:
    """Every key that ever countersigned, or could."""
    rows = db.execute("SELECT institution, key, certificate, signature FROM log_identities ORDER BY rowid")
    return [Identity(name, bytes(key), Signed(bytes(pem), bytes(value))) for name, key, pem, value in rows]


def contracts(db: Database) -> list[tuple[bytes, Signed]]:
    """The contracts of the log's runs, as the operator signed them."""
    rows = db.execute("SELECT contract, certificate, signature FROM contracts ORDER BY rowid")
    return [(bytes(content), Signed(bytes(pem), bytes(value))) for content, pem, value in rows]


def keep_text(db: Database, commitment: str, salt: bytes, text: str) -> None:
    """What a commitment in the log stands for."""
    db.execute("INSERT INTO log_texts (commitment, salt, text) VALUES (?, ?, ?)", (commitment, salt, text))


def text_of(db: Database, commitment: str) -> tuple[bytes, str] | None:
    """Salt and text of a commitment; None once they were forgotten."""
    row = db.execute("SELECT salt, text FROM log_texts WHERE commitment = ?", (commitment,)).fetchone()
    return None if row is None else (bytes(row[0]), str(row[1]))


def forget_text(db: Database, commitment: str) -> bool:
    """Nobody can tell any more what the commitment stands for; whether anybody could."""
    return db.execute("DELETE FROM log_texts WHERE commitment = ?", (commitment,)).rowcount > 0
