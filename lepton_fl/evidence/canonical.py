"""The one form of a JSON document, so that a hash or a signature covers what is read.

Source: RFC 8785.
"""

from __future__ import annotations

from typing import Any

import rfc8785


def to_bytes(document: Any) -> bytes:
    """The one form of this document of dictionaries, lists, texts, numbers, booleans and None.

    Raises:
        ValueError: it has none: a whole number beyond 2^53, not a number, a key that is no text, half a character.
    """
    try:
        return rfc8785.dumps(document)
    except rfc8785.CanonicalizationError as error:
        raise ValueError(f"there is no one form of this document: {error}") from error
