"""When Python looks for garbage: seldom while a command is loaded, as usual while it works, not when it ends."""

from __future__ import annotations

import atexit
import gc

_USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Garbage is looked for seldom until `collect_again`, and not at all when the process ends.

    Hundreds of thousands of objects are loaded that live as long as the command does; to look through them again and
    again took a tenth of its start, and at its end, once more, half a second.
    """
    gc.set_threshold(50_000, 20, 20)
    atexit.register(gc.freeze)


def collect_again() -> None:
    """Garbage is looked for as usual, but not among what was loaded: rounds leave models behind.

    Flower collects it for each reply that it unpacks, and need not see what stays either.
    """
    gc.freeze()
    gc.set_threshold(*_USUAL)
