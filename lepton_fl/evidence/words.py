"""Text from elsewhere made fit to be seen: nothing in it can turn a line around or run off the page."""

from __future__ import annotations

import unicodedata

# Marks that reorder what stands beside them; between other letters nobody needs them.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: object, limit: int | None = None) -> str:
    """The text with U+FFFD for control characters and marks of direction, shortened to a number of characters."""
    shown = "".join("\ufffd" if _is_hidden(one) else one for one in str(text))
    if limit is not None and len(shown) > limit:
        return f"{shown[: limit - 1]}…"
    return shown


def _is_hidden(one: str) -> bool:
    return one in _TURNING or (unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one not in "\n\t")
