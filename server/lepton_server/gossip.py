"""The log on its way to institutions and back: heads before instructions, what each one countersigned to all others.

A head that one institution countersigned is relayed to every other with the next instruction, with the proof that what
they are shown goes on from it. Whoever is shown another log than the others notices it then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from lepton_fl.evidence import note
from lepton_fl.evidence.log_bundle import Identity
from lepton_fl.evidence.note import BadNote, Note
from lepton_fl.link.frames import BadFrame
from lepton_fl.link.signature import Signed
from lepton_fl.v1.federation_pb2 import Checkpoint, Included, ServerFrame, Witnessed
from lepton_server.disk import Disk
from lepton_server.log import Head, Log
from lepton_server.session import Session

_log = logging.getLogger(__name__)


class Gossip:
    """Heads out and in; the log itself is used in the disk's thread alone."""

    def __init__(self, open_log: Callable[[], Log], disk: Disk) -> None:
        self._open_log, self._disk = open_log, disk
        self._opened: Log | None = None
        self._head: Head | None = None
        self._run = ""
        self._cosigned: dict[str, Note] = {}  # institution: the largest head that its key of now countersigned

    def look(self, run_id: int) -> None:
        """What is sent from now on shows the log as it is now; not in the event loop."""
        head = self._disk.wait(lambda _: self._log().head())
        self._head, self._run = head, str(run_id)

    def checkpoint(self, session: Session) -> ServerFrame:
        """The frame that goes out before an instruction; in the event loop."""
        head = self._head
        if head is None:
            raise RuntimeError("nobody looked at the log")
        size, seen = head.size, session.log_size
        proof = head.tree.consistency(seen, size) if seen <= size else []
        frame = Checkpoint(note=head.note.to_bytes(), from_size=seen, consistency=proof)
        session.log_size = size
        last = head.last_rounds.get(self._run)
        if last is not None and last[0] < size:
            index, content = last
            frame.last_round.CopyFrom(Included(index=index, entry=content, proof=head.tree.inclusion(index, size)))
        frame.cosigned.extend(self._for_others(session, head))
        return ServerFrame(checkpoint=frame)

    def _for_others(self, session: Session, head: Head) -> list[Witnessed]:
        found = []
        for name, kept in sorted(self._cosigned.items()):
            size = kept.checkpoint.size
            if name != session.member.name and session.relayed.get(name, 0) < size <= head.size:
                session.relayed[name] = size
                proof = head.tree.consistency(size, head.size)
                found.append(Witnessed(institution=name, note=kept.to_bytes(), consistency=proof))
        return found

    async def greeted(self, session: Session) -> None:
        """An institution said hello: its key is kept, and so is the head that it tells of."""
        name, said = session.member.name, session.hello.identity
        signed = Signed(said.signature.certificate, said.signature.value)
        identity = Identity(name, said.public_key, signed)
        kept = await self._disk.aside(lambda _: self._keep_identity(identity))
        if kept is not None:
            self._cosigned.setdefault(name, kept)
        if session.hello.log_head:
            session.log_size = _read(session.hello.log_head).checkpoint.size
            await self.cosigned(session, session.hello.log_head)

    async def cosigned(self, session: Session, content: bytes) -> None:
        """An institution countersigned a head.

        Raises:
            BadFrame: it is none, or not signed with the institution's key.
        """
        found, name, public = _read(content), session.member.name, session.hello.identity.public_key
        if found.cosigned_at(note.name_of(name), public) is None:
            raise BadFrame("a head of the log is sent that the institution did not countersign")
        is_ours = await self._disk.aside(lambda _: self._keep(name, public, found))
        if not is_ours:
            _log.error("%s saw another log than the one here: was this home put back?", name)
            return
        known = self._cosigned.get(name)
        if known is None or known.checkpoint.size < found.checkpoint.size:
            self._cosigned[name] = found.only(note.name_of(name))

    async def close(self) -> None:
        """Release the file."""
        await self._disk.aside(lambda _: self._close())

    # -- in the disk's thread

    def _log(self) -> Log:
        if self._opened is None:
            self._opened = self._open_log()
        return self._opened

    def _keep_identity(self, identity: Identity) -> Note | None:
        """Keep whose key it is; returns the last head that this very key countersigned under the log's key of now."""
        log = self._log()
        log.keep_identity(identity)
        key, content = log.last_heads().get(identity.institution, (b"", b""))
        if key != identity.key:
            return None
        kept = note.read(content)
        return kept if kept.is_signed(log.public) else None

    def _keep(self, name: str, public: bytes, found: Note) -> bool:
        """Keep a head that is one of this log's own; whether it is."""
        log = self._log()
        head, seen = log.head(), found.checkpoint
        is_ours = found.is_signed(log.public) and 0 < seen.size <= head.size and head.tree.root(seen.size) == seen.root
        if is_ours:
            log.keep_head(name, public, found.only(note.name_of(name)))
        return is_ours

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def _read(content: bytes) -> Note:
    try:
        return note.read(content)
    except BadNote as error:
        raise BadFrame(str(error)) from error
