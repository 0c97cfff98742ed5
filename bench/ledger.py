"""What the ledger adds to a round: its durable entries, beside one durable write of the same disk.

Usage: .venv/bin/python bench/ledger.py [ROUNDS]     (default 300)

A round writes four entries (reserved, settled, left, and left for its evaluation), each a line and a head that are
synced before the next. A durable write of 200 bytes is measured in turn: two of them, and the sync of a folder, are
what an entry needs at least. Also: opening a ledger of those rounds, every entry verified, and a filter's decision.
Writes bench/results/ledger.json.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lepton_client.ledger import Ledger
from machine import store

from lepton_fl.files import write_secret
from lepton_fl.privacy.accounting import Segment
from lepton_fl.privacy.books import Declared, Left, Step
from lepton_fl.privacy.rdp_filter import Filter

_DECISIONS = 100


def took_ms(act: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - began)


def one_round(ledger: Ledger, round: int) -> None:
    """Every entry of a round."""
    ledger.reserve("run", round, f"train {round}")
    ledger.settle("run", round, 0.1)
    for instruction in (f"train {round}", f"evaluate {round}"):
        ledger.left(Left("run", round, instruction, "noised-update", 614, "ab" * 32, 0.5, "policy.may_leave"))


def main(rounds: int) -> None:
    """Measure, print, and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        now = lambda: datetime.now(UTC)  # noqa: E731 - a clock
        ledger = Ledger.open(path / "ledger", now)
        step = Step(10.0, 0.1)
        ledger.declare(Declared("run", "bench", "data", "record", "relation", 1e-5, 50.0, step, 1, rounds, "", ""))
        one, raw = [], []
        for round in range(1, rounds + 1):
            one.append(took_ms(lambda round=round: one_round(ledger, round)))  # type: ignore[misc]
            raw.append(took_ms(lambda: write_secret(path / "raw", os.urandom(200))))
        opened = statistics.median(took_ms(lambda: Ledger.open(path / "ledger", now)) for _ in range(11))
        entries = ledger.head.position
    filter, history = Filter(6.0, 1e-5), (Segment(1.1, 0.0128, 2000), Segment(0.8, 0.0512, 400), Segment(2.0, 0.1, 300))
    filter.divergence(history)
    decision = took_ms(lambda: [filter.divergence(history) for _ in range(_DECISIONS)]) / _DECISIONS
    figures = {
        "rounds": rounds,
        "round_ms": statistics.median(one),
        "durable_write_ms": statistics.median(raw),
        "round_over_durable_write": statistics.median(one) / statistics.median(raw),
        "entries": entries,
        "open_ms": opened,
        "filter_decision_ms": decision,
    }
    for name, value in figures.items():
        sys.stdout.write(f"{name:<26} {value:.3g}\n")
    store("ledger", figures, ("lepton-fl", "dp-accounting"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
