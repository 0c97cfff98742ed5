"""Replies on disk: an institution's until the server has them, the server's until their round is committed.

So nothing is trained twice for one reply, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError

from lepton_fl.files import write_secret
from lepton_fl.link import frames
from lepton_fl.link.frames import Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import Begin

_LENGTH_BYTES = 4


class Spool:
    """One file for each instruction that was answered; mode 0600, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, message_id: str, parts: Parts) -> None:
        """The reply to this instruction is on disk when this returns."""
        head = frames.begin(parts, "", message_id).SerializeToString()
        write_secret(self._path(message_id), len(head).to_bytes(_LENGTH_BYTES, "big"), head, *parts.all())

    def find(self, message_id: str) -> Parts | None:
        """The reply to this instruction, if it is here and undamaged."""
        try:
            content = self._path(message_id).read_bytes()
        except FileNotFoundError:
            return None
        try:
            length = int.from_bytes(content[:_LENGTH_BYTES], "big")
            announced = Begin.FromString(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
            if announced.reply_to_message_id != message_id:
                return None
            return Assembler(announced, len(content)).add(content[_LENGTH_BYTES + length :])
        except (BadFrame, DecodeError):
            return None

    def holds(self) -> list[str]:
        """The instructions whose replies are here."""
        return sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))

    def forget(self, message_id: str) -> None:
        """The reply is no longer needed."""
        self._path(message_id).unlink(missing_ok=True)

    def forget_others(self, message_id: str) -> None:
        """Keep this reply alone."""
        for path in self._folder.iterdir():
            if path != self._path(message_id):
                path.unlink()

    def _path(self, message_id: str) -> Path:
        # A peer chose the id: only its hexadecimal digits may become a file name.
        return self._folder / ("".join(digit for digit in message_id if digit in "0123456789abcdef")[:64] or "none")
