"""The federation's link: an empty round of three institutions, and 50 MiB both ways beside a bare gRPC stream.

Usage: .venv/bin/python bench/link.py [ROUNDS [TRANSFERS]]     (default 300 and 11)

The server's product code runs in this process, each institution's agent in one of its own, over mutual TLS on
loopback with every digest, spool and fsync. Institutions answer at once, so what is measured is the link. A transfer
and its yardstick are measured in turn. Writes bench/results/link.json; docs/performance.md says what the figures are.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
from empty import empty_terms
from lepton_server.grid import HubGrid, Least
from lepton_server.journal import Inbox, RunJournal
from loopback import Loopback, federation
from machine import store
from raw import SIZE, Raw, streams

from lepton_fl.federation.journal import RoundReport
from lepton_fl.files import write_secret
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import PlainVoice
from lepton_fl.run import Carrier, Names, Prepared, conduct, prepare

INSTITUTIONS = 3
_WARM_UP_ROUNDS, _WARM_UP_TRANSFERS = 20, 2
_ARRAYS = 16  # that the 50 MiB are made of
_PACKAGES = ("lepton-fl", "grpcio", "protobuf", "flwr", "numpy", "cryptography")


class TimedGrid(HubGrid):
    """The product's grid, and how long each training phase took."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.train_s: list[float] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See `Grid.send_and_receive`."""
        asked = list(messages)
        began = time.perf_counter()
        answers = super().send_and_receive(asked, timeout=timeout)
        if asked[0].metadata.message_type == MessageType.TRAIN:
            self.train_s.append(time.perf_counter() - began)
        return answers


class Watch(PlainVoice):
    """Says nothing, and notes when each round was over."""

    def __init__(self) -> None:
        super().__init__()
        self._write = lambda line: None
        self.over_at: list[float] = []

    def round_done(self, report: RoundReport) -> None:
        """See `Voice`."""
        assert len(report.replied) == INSTITUTIONS, report.refused  # noqa: S101 - else the figure is none
        self.over_at.append(time.perf_counter())


def prepared(rounds: int, names: tuple[str, ...]) -> Prepared:
    """A run of FedAvg over 39 parameters, without privacy."""
    return prepare(empty_terms(rounds), Names("empty", "logistic", "fedavg"), names, None)


def empty_rounds(here: Loopback, folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each training phase and of each whole round, after a warm-up."""
    made, voice = prepared(rounds + _WARM_UP_ROUNDS, here.names), Watch()
    run = here.begin(made.terms.rounds, reply_bytes=1 << 20)
    members = run.runs.node_ids(here.names)
    journal = RunJournal(run.runs, run.place, Randomness(None), lambda: members)
    grid = TimedGrid(here.hub, run.stored.run_id, journal.members, Least(1, 1))
    conduct(made, Carrier(grid, journal.members, journal, None), (Folder(folder), voice))
    here.end(run)
    whole_s = np.diff(voice.over_at)[_WARM_UP_ROUNDS - 1 :].tolist()
    return grid.train_s[_WARM_UP_ROUNDS:], whole_s


@dataclass
class Taken:
    """Seconds of one repetition after another, measured in turn."""

    ours: list[float] = field(default_factory=list)  # a training phase with 50 MiB both ways
    raw: list[float] = field(default_factory=list)  # the same bytes on the bare stream
    digest: list[float] = field(default_factory=list)  # SHA-256 of 50 MiB
    spool: list[float] = field(default_factory=list)  # 50 MiB to a new file and to the disk


def transfers(here: Loopback, raw: Raw, institutions: int, count: int) -> Taken:
    """50 MiB to so many institutions and back, and each part of that work by itself."""
    run = here.begin(count, reply_bytes=2 * SIZE)
    members = run.runs.node_ids(here.names[:institutions])
    grid = TimedGrid(here.hub, run.stored.run_id, members, Least(institutions, 1))
    inbox, model, content, taken = Inbox(run.runs, run.place), _model(), bytes(SIZE), Taken()
    for round in range(1, count + _WARM_UP_TRANSFERS + 1):
        there = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": round})})
        asked = [grid.create_message(there, MessageType.TRAIN, node_id, str(round)) for node_id in members]
        for answer in grid.send_and_receive(asked):
            _refuse_another(answer, model)
        inbox.clear()
        taken.raw.append(raw.seconds(institutions))
        taken.digest.append(_seconds(lambda: hashlib.sha256(content).digest()))
        taken.spool.append(_seconds(lambda: write_secret(run.place.folder / "spool", content)))
    here.end(run)
    taken.ours = grid.train_s
    return Taken(*(seconds[_WARM_UP_TRANSFERS:] for seconds in (taken.ours, taken.raw, taken.digest, taken.spool)))


def _model() -> ArrayRecord:
    values = np.random.default_rng(0).standard_normal((_ARRAYS, SIZE // 4 // _ARRAYS), dtype=np.float32)
    return ArrayRecord({f"layer {number}": Array(value) for number, value in enumerate(values)})


def _refuse_another(answer: Message, model: ArrayRecord) -> None:
    came = answer.content.array_records["arrays"]
    if any(came[name].data != model[name].data for name in model):
        raise RuntimeError("an answer came back other than it was sent")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, and the deciles around it, in milliseconds."""
    deciles = statistics.quantiles(seconds, n=10, method="inclusive")
    return {
        "median_ms": round(statistics.median(seconds) * 1e3, 2),
        "p10_ms": round(deciles[0] * 1e3, 2),
        "p90_ms": round(deciles[-1] * 1e3, 2),
        "repetitions": len(seconds),
    }


def transfer_figures(taken: Taken, institutions: int) -> dict[str, Any]:
    """The ratio to the bare stream, and to the sum of what a transfer cannot do without.

    The server hashes an instruction once; each institution hashes what comes and what goes, and the server what comes
    back: 1 + 3n digests, spread over the cores, and never fewer than two one after the other. Each reply is written to
    disk on both sides, here on one disk.
    """
    cores = os.cpu_count() or 1
    digests = max(2.0, (1 + 3 * institutions) / cores)
    parts = {
        "tls_ms": statistics.median(taken.raw) * 1e3,
        "digests_ms": digests * statistics.median(taken.digest) * 1e3,
        "spools_ms": 2 * institutions * statistics.median(taken.spool) * 1e3,
    }
    ours = spread(taken.ours)
    return {
        # Over pairs that were measured one after the other, since the machine's other work comes and goes.
        "over_raw": round(statistics.median(map(truediv, taken.raw, taken.ours)), 3),
        "over_parts": round(sum(parts.values()) / ours["median_ms"], 3),
        "ours": ours,
        "raw": spread(taken.raw),
        "parts": {name: round(value, 2) for name, value in parts.items()},
    }


def figures(folder: Path, rounds: int, count: int) -> dict[str, Any]:
    """Everything that is measured."""
    with federation(folder, INSTITUTIONS) as here:
        train_s, whole_s = empty_rounds(here, folder / "results", rounds)
        with streams(here) as raw:
            moved = {number: transfer_figures(transfers(here, raw, number, count), number) for number in (1, 3)}
    return {
        "empty_round_ms": spread(train_s)["median_ms"],
        "transfer_over_raw": min(one["over_raw"] for one in moved.values()),
        "empty_round": {"train": spread(train_s), "whole": spread(whole_s)},
        "transfers": {str(number): one for number, one in moved.items()},
    }


def lines(measured: dict[str, Any]) -> Iterator[str]:
    """The figures as a table."""

    def row(name: str, taken: dict[str, float]) -> str:
        return f"{name:34}{taken['median_ms']:9.1f}{taken['p10_ms']:9.1f}{taken['p90_ms']:9.1f}{taken['repetitions']:9}"

    yield f"{'ms':34}{'median':>9}{'p10':>9}{'p90':>9}{'times':>9}"
    yield row("empty round, training phase", measured["empty_round"]["train"])
    yield row("empty round, whole", measured["empty_round"]["whole"])
    for number, one in measured["transfers"].items():
        yield row(f"50 MiB both ways, {number} institution{'s' if int(number) > 1 else ''}", one["ours"])
        yield row("  bare gRPC stream", one["raw"])
        parts = ", ".join(f"{name.removesuffix('_ms')} {value:.0f}" for name, value in one["parts"].items())
        yield f"  {one['over_raw']:.2f} of the bare stream's throughput"
        yield f"  {one['over_parts']:.2f} of what the parts alone allow: {parts}"


def main() -> None:
    """Measure, print, store."""
    rounds, count = (int(text) for text in (*sys.argv[1:3], *("300", "11")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        measured = figures(Path(folder), rounds, count)
    for line in lines(measured):
        print(line)  # noqa: T201
    store("link", measured, _PACKAGES)


if __name__ == "__main__":
    main()
