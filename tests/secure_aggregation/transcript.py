"""One whole round of four, h03 dropping out after its shares, with seeded coins: every message as hexadecimal.

`python tests/secure_aggregation/transcript.py` writes it anew; then every peer of another version is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attempts import Attempt

FILE = Path(__file__).with_name("transcript.json")
LENGTH = 5


def _hex(messages: Mapping[str, bytes]) -> dict[str, str]:
    return {name: message.hex() for name, message in messages.items()}


def played() -> dict[str, Any]:
    """The messages in their order, the vectors that went in, and the sum that came out."""
    attempt = Attempt(4, length=LENGTH, seed="transcript")
    adverts = attempt.advertised()
    roster = attempt.operator.roster(adverts)
    shares = {name: member.share(roster) for name, member in attempt.members.items()}
    inboxes = attempt.operator.inboxes(shares)
    uploads = attempt.uploads(inboxes, without=["h03"])
    survivors = attempt.operator.survivors(uploads)
    echoed = attempt.echoed(survivors)
    echoes = attempt.operator.echoes(echoed)
    unmasks = attempt.unmasked(echoes)
    total = attempt.operator.total(unmasks)
    return {
        "identities": {name: key.public.hex() for name, key in attempt.identities.items()},
        "params": attempt.params.to_bytes().hex(),
        "adverts": _hex(adverts),
        "roster": roster.hex(),
        "shares": _hex(shares),
        "inboxes": _hex(inboxes),
        "vectors": {name: attempt.vectors[name].tolist() for name in uploads},
        "upload headers": {name: upload.header.hex() for name, upload in uploads.items()},
        "uploads": {name: upload.packed.tobytes().hex() for name, upload in uploads.items()},
        "survivors": survivors.hex(),
        "echo": _hex(echoed),
        "echoes": echoes.hex(),
        "unmasks": _hex(unmasks),
        "sum": (total.words & 0xFFFFFF).tolist(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(played(), indent=1) + "\n")
