"""A run's model and optimizer state as one safetensors file for each committed round."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from lepton_fl.federation.journal import StrategyState
from lepton_fl.files import write_secret
from lepton_fl.flower import Array, ArrayRecord
from lepton_server.database import StoreError

_MODEL, _STRATEGY = "model/", "strategy/"


class Checkpoints:
    """The files of one run; a file without its row in the database is rubbish, and one that differs an error."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def write(self, round: int, arrays: ArrayRecord, strategy: StrategyState) -> bytes:
        """Write a round's file; returns its SHA-256 for the row.

        Raises:
            StoreError: the disk is full; what was committed before stays.
        """
        named = {f"{_MODEL}{name}": array.numpy() for name, array in arrays.items()}
        named |= {f"{_STRATEGY}{path}": value for path, value in strategy.items()}
        blob = save(named)
        try:
            write_secret(self._path(round), blob)
        except OSError as error:
            raise StoreError(
                f"cannot write the model of round {round} to {self._folder}: {error.strerror}; the rounds before are "
                "safe; make room, then run the same command again"
            ) from error
        return hashlib.sha256(blob).digest()

    def read(self, round: int, sha256: bytes, names: Sequence[str]) -> tuple[ArrayRecord, StrategyState]:
        """What `write` wrote, the model in the order of these names.

        Raises:
            StoreError: missing, or not the file that was committed.
        """
        try:
            blob = self._path(round).read_bytes()
            if hashlib.sha256(blob).digest() != sha256:
                raise ValueError("another SHA-256")
            named = load(blob)
            arrays = ArrayRecord({name: Array(named[_MODEL + name]) for name in names})
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise StoreError(
                f"{self._path(round)} is not the model that was committed; nothing was changed; restore the home from "
                "a backup, or give the run up with abandon=true"
            ) from error
        state = {path.removeprefix(_STRATEGY): one for path, one in named.items() if path.startswith(_STRATEGY)}
        return arrays, state

    def forget_before(self, round: int) -> None:
        """Remove files that a later commit made needless."""
        for path in self._folder.glob("round-*.safetensors"):
            if path.name < self._path(round).name:
                path.unlink()

    def _path(self, round: int) -> Path:
        return self._folder / f"round-{round:08}.safetensors"
