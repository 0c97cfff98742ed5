"""Loops in C that installation built beside their source: see `hatch_build.py`."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

_DIGEST = "lepton_source"  # in each library: of what it was made of


def library_of(source: Path) -> ctypes.CDLL | None:
    """What this source was made into; None where it was not, or where what lies there is of another source."""
    try:
        found = ctypes.CDLL(str(path_of(source)))
        digest = ctypes.c_char_p.in_dll(found, _DIGEST).value
    except (OSError, ValueError):
        return None
    expected = hashlib.sha256()
    for file in (source, *sorted(source.parent.glob("*.h"))):
        expected.update(file.read_bytes())
    return found if digest == expected.hexdigest().encode() else None


def path_of(source: Path) -> Path:
    """Where the library of a source is."""
    # Not by the module's own name: Python would take it for the module.
    return source.with_name(f"lib{source.stem}.so")
