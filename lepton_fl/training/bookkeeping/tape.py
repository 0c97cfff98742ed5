"""What a backward pass leaves behind: one piece for each layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_fl.training.bookkeeping.pieces import Piece
from lepton_fl.training.flat import Slot

Slots = Mapping[str, Slot | None]
"""By a parameter's name in its layer; None where it is frozen."""
Forward = Callable[..., Any]
"""A layer's forward pass."""


class Tape:
    """Layers note here, in their backward pass, what they add to every record's gradient."""

    def __init__(self) -> None:
        self._pieces: dict[Hashable, Piece] = {}

    def note(self, key: Hashable, piece: Piece) -> None:
        """Remember a piece; with the key of an earlier one, the sum of both."""
        earlier = self._pieces.get(key)
        self._pieces[key] = piece if earlier is None else earlier.joined(piece)

    def pieces(self) -> list[Piece]:
        """What was noted, in the order of the backward pass."""
        return list(self._pieces.values())

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()


@dataclass(frozen=True)
class Place:
    """Where a layer with one weight and one bias notes its piece."""

    weight: Slot | None  # None: frozen, or absent
    bias: Slot | None
    tape: Tape
    key: Hashable

    @property
    def is_frozen(self) -> bool:
        """Whether there is nothing to note."""
        return self.weight is None and self.bias is None

    def note(self, piece: Piece) -> None:
        """See `Tape.note`."""
        self.tape.note(self.key, piece)


Rule = Callable[[Any, Slots, Tape], Forward]
"""A layer, where its parameters lie, and a tape, to a forward pass of the same values whose backward pass notes a piece
and leaves the parameters' own gradients alone. Raises `UnsupportedModel` for an option that it does not know."""
