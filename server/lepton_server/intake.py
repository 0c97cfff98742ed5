"""Replies on their way in: announced, grown chunk by chunk, believed only from the stream that owes them."""

from __future__ import annotations

import asyncio
import logging

from lepton_fl.errors import LeptonError
from lepton_fl.link.frames import LARGEST_ENVELOPE, Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import Begin
from lepton_server.disk import Disk
from lepton_server.journal import Inbox
from lepton_server.owing import Owed, Owing
from lepton_server.session import Session, Upload, acknowledgement

_log = logging.getLogger(__name__)


class Intake:
    """Takes replies in, in the event loop; what was taken is on disk before it is acknowledged."""

    def __init__(self, owing: Owing, disk: Disk) -> None:
        self._owing, self._disk = owing, disk
        self._inbox: Inbox | None = None
        self._reply_bytes = 0

    def begin_run(self, inbox: Inbox, reply_bytes: int) -> None:
        """Keep replies there; their arrays have at most so many bytes."""
        self._inbox, self._reply_bytes = inbox, reply_bytes

    def taken(self, message_id: str) -> Parts | None:
        """The reply to this instruction, if it was taken before a crash; not in the event loop."""
        inbox = self._inbox
        return None if inbox is None else self._disk.wait(lambda _: inbox.find(message_id))

    def announced(self, session: Session, announced: Begin) -> None:
        """A reply begins, or goes on where it was cut off."""
        if session.upload is not None and session.upload.is_wanted:
            raise BadFrame("a message begins inside another")
        node_id, reply_to = session.member.node_id, announced.reply_to_message_id
        is_wanted = self._owing.find(node_id, reply_to) is not None
        came = self._owing.take_partial(node_id) if is_wanted else None
        if came is not None and came.continues(announced) and announced.offset:
            session.upload = Upload(came, is_wanted=True)
            return
        if not is_wanted:
            # Late or never asked for: nothing of it is kept.
            announced.offset = 0
        session.upload = Upload(Assembler(announced, LARGEST_ENVELOPE + self._reply_bytes), is_wanted)
        if not is_wanted:
            _log.info("%s sent a reply that nobody waits for", session.member.name)
            session.post(acknowledgement(reply_to))

    async def grown(self, session: Session, data: bytes) -> None:
        """The next chunk; after the last one the reply is taken and acknowledged."""
        upload = session.upload
        if upload is None:
            raise BadFrame("a chunk comes without a message")
        if not upload.is_wanted:
            session.upload = upload if upload.assembler.skip(data) else None
            return
        parts = upload.assembler.add(data)
        if parts is None:
            return
        session.upload = None
        reply_to = upload.assembler.announced.reply_to_message_id
        await self._take(session, reply_to, parts)
        session.post(acknowledgement(reply_to))

    def set_aside(self, session: Session) -> None:
        """Keep what came of a wanted reply, for the institution's next stream."""
        if session.upload is not None and session.upload.is_wanted:
            self._owing.set_aside(session.member.node_id, session.upload.assembler)
        session.upload = None

    async def _take(self, session: Session, message_id: str, parts: Parts) -> None:
        """Believe a reply: only from the stream that owes it, its identity taken from the certificate."""
        node_id, inbox = session.member.node_id, self._inbox
        owed = self._owing.find(node_id, message_id)
        if owed is None or inbox is None:
            return
        try:
            await asyncio.to_thread(_write, inbox, owed, parts)
            await self._disk.aside(lambda _: inbox.count(message_id, session.member.name, parts))
        except LeptonError as error:
            # Not acknowledged, so the institution keeps it; the run stops and can be continued.
            self._owing.break_off(error)
            raise
        self._owing.answer(node_id, owed, owed.decoded(parts))


def _write(inbox: Inbox, owed: Owed, parts: Parts) -> None:
    """Beside other institutions' replies, so that the disk takes them together; never beside the same reply."""
    with owed.writing:
        inbox.write(owed.message_id, parts)
