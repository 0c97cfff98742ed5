"""Where the protocol's randomness comes from."""

from __future__ import annotations

from collections.abc import Callable

# That many random bytes, independent and uniform: os.urandom in production, a seeded AES-CTR in a frozen transcript.
Source = Callable[[int], bytes]
