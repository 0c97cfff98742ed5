"""Finished replies on disk until the server has them, so that nothing is trained twice for one answer."""

from __future__ import annotations

from pathlib import Path

from lepton_fl.link import frames
from lepton_fl.link.certificates import write_secret
from lepton_fl.link.frames import Assembler, BadFrame, Parts
from lepton_fl.v1.federation_pb2 import Begin

_LENGTH_BYTES = 4


class Spool:
    """One file for each instruction answered and not yet acknowledged; mode 0600, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, message_id: str, parts: Parts) -> None:
        """Remember the answer to this instruction; answers to earlier ones are no longer wanted."""
        for old in self._folder.iterdir():
            old.unlink()
        head = frames.begin(parts, "", message_id).SerializeToString()
        body = b"".join((parts.envelope, *parts.arrays))
        write_secret(self._path(message_id), len(head).to_bytes(_LENGTH_BYTES, "big") + head + body)

    def find(self, message_id: str) -> Parts | None:
        """The answer to this instruction, if it was given already and is undamaged."""
        try:
            content = self._path(message_id).read_bytes()
            length = int.from_bytes(content[:_LENGTH_BYTES], "big")
            announced = Begin.FromString(content[_LENGTH_BYTES : _LENGTH_BYTES + length])
            return Assembler(announced, len(content)).add(content[_LENGTH_BYTES + length :])
        except FileNotFoundError:
            return None
        except (BadFrame, ValueError):
            # Damaged by the machine, not by a peer: the instruction is simply carried out again.
            self.forget(message_id)
            return None

    def forget(self, message_id: str) -> None:
        """The server has it."""
        self._path(message_id).unlink(missing_ok=True)

    def _path(self, message_id: str) -> Path:
        # A peer chose the id: only its hexadecimal digits may become a file name.
        return self._folder / ("".join(digit for digit in message_id if digit in "0123456789abcdef")[:64] or "none")
