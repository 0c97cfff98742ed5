"""What clipped gradients are added up in."""

from __future__ import annotations

from torch import Tensor

from lepton_fl.training.flat import Slot


class FlatSum:
    """A float32 vector of d numbers, with a view of each parameter's part that is made once.

    It is `out` itself, or else what is added to a wider `out` afterwards.
    """

    _BLOCK = 1 << 17  # numbers taken to float64 at once, which torch does in new memory

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self._views: dict[Slot, Tensor] = {}

    def begin(self, out: Tensor) -> None:
        """Ready to be added to."""
        if self.vector is not out:
            self.vector.zero_()

    def end(self, out: Tensor) -> None:
        """`out`, float64 [d], has what was added since the beginning; one of float32 has it already."""
        if self.vector is not out:
            for wide, narrow in zip(out.split(self._BLOCK), self.vector.split(self._BLOCK), strict=True):
                wide.add_(narrow)

    def of(self, slot: Slot) -> Tensor:
        """The parameter's part, in its shape."""
        view = self._views.get(slot)
        if view is None:
            view = self._views[slot] = slot.of(self.vector)
        return view
