"""Looks after open streams: closes those of institutions that fell silent, were revoked, or whose certificate ended.

One look a second for all streams, so that a revocation cuts within two and a hundred idle streams cost nothing.
"""

from __future__ import annotations

import time
from datetime import datetime

import grpc

from lepton_fl.link import frames
from lepton_server.renewal import ended
from lepton_server.session import Session

REVOKED = "this institution was revoked"
LOOK_S = 1.0
HEARD_S = 10.0  # how often it is written down who was heard


def look_after(session: Session, is_member: bool, now: datetime) -> None:
    """Close the stream if it may not go on."""
    if not is_member:
        session.close(grpc.StatusCode.PERMISSION_DENIED, REVOKED)
    elif now >= session.not_after:
        session.close(grpc.StatusCode.UNAUTHENTICATED, ended(session.not_after))
    elif time.monotonic() - session.last_heard > frames.SILENCE_S:
        session.close(grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was heard for {frames.SILENCE_S:.0f} s")


def heard_of_late(sessions: list[Session]) -> list[str]:
    """The institutions that said something since the last time this was written down."""
    return [session.member.name for session in sessions if time.monotonic() - session.last_heard < HEARD_S]
