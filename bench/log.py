"""What the log adds to a round at the operator, and what it costs to prove, export and verify it.

Usage: .venv/bin/python bench/log.py [ENTRIES]     (default 3000)

An entry is one transaction, synced; in a round it is part of the one that commits the model, so that this is more than
it adds there. Proofs are measured on a tree of 100,000 entries. Writes bench/results/log.json.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lepton_server.home import Addresses, Home, init
from lepton_server.log import Log
from machine import store

from lepton_fl.evidence import log_bundle
from lepton_fl.evidence.merkle import HASH_BYTES, Tree, leaf_hash
from lepton_fl.evidence.verify import verify

_TREE = 100_000
_NAMES = ["Cleveland", "Hungary", "Switzerland", "VA Long Beach"]


def took_ms(act: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def proofs(tree: Tree) -> dict[str, float]:
    """The cost of a proof, and the most bytes that one has."""
    size = len(tree)
    made: list[Sequence[bytes]] = []
    consistency_ms = took_ms(lambda: made.extend(tree.consistency(first, size) for first in range(1, size, 97)))
    return {
        "tree": size,
        "consistency_ms": consistency_ms / len(made),
        "consistency_bytes": HASH_BYTES * max(map(len, made)),
        "inclusion_bytes": HASH_BYTES * max(len(tree.inclusion(index, size)) for index in range(0, size, 97)),
    }


def logged(home: Home, entries: int) -> dict[str, float]:
    """A log of so many rounds: to write, to open, to export and to verify."""
    log, sizes = Log(home), list[int]()
    fields = {"run": "7", "model": "ab" * 32, "cohort": _NAMES, "replied": _NAMES, "refused": {}, "skipped": False}
    append_ms = took_ms(lambda: [log.append("round", {**fields, "round": n, "epsilon": 0.1}) for n in range(entries)])
    ca = home.authority().certificate
    return {
        "entries": entries,
        "append_ms": append_ms / entries,
        "open_ms": took_ms(lambda: Log(home).close()),
        "export_ms": took_ms(lambda: sizes.append(len(log.bundle().to_bytes()))),
        "bytes_an_entry": sizes[0] / entries,
        "verify_ms": took_ms(lambda: verify(log_bundle.read(log.bundle().to_bytes()), ca)),
    }


def main(entries: int) -> None:
    """Measure, print, and write the figures."""
    found = proofs(Tree(leaf_hash(b"%d" % number) for number in range(_TREE)))
    with tempfile.TemporaryDirectory() as folder:
        home = init(Path(folder) / "server", "bench", Addresses(("127.0.0.1",), 1, 2), datetime.now(UTC))
        found |= logged(home, entries)
    for name, value in found.items():
        sys.stdout.write(f"{name:<20} {value:.3g}\n")
    store("log", found, ("lepton-fl", "rfc8785"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
