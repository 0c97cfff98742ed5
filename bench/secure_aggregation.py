"""Secure aggregation: masking beside memcpy and beside Flower's own functions, and what a whole round costs more.

Usage: .venv/bin/python bench/secure_aggregation.py [LENGTH COHORT]     (default: all sizes)

Everything runs in this process on one thread. Whatever is compared is measured in turn, since the machine's other work
comes and goes, and only the ratios mean something elsewhere. The client's time holds quantiser, all masks and packing,
spread over the streams (one for each peer and the own); the yardstick copies the same 4 bytes a parameter. The
operator's time is for 10 % of the institutions dropped out after they shared. The whole round is `secure_round`'s,
without the network, over which its vectors take 3 bytes a parameter where the plain round's take 4.

Writes bench/results/secure_aggregation.json, unless a size is given. The figures at its head are of the largest size,
10^7 parameters and 50 institutions; `round_overhead` is what a whole round of 10^6 parameters adds to a plain one of
10 s, for the larger of two cohorts.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from machine import store
from numpy.typing import NDArray
from secure_round import RoundTime, round_time

from lepton_fl.secure_aggregation.chunks import CHUNK_WORDS
from lepton_fl.secure_aggregation.key_stream import key_stream
from lepton_fl.secure_aggregation.masks import Stream, add_masks
from lepton_fl.secure_aggregation.packing import add_packed, pack, signed
from lepton_fl.secure_aggregation.quantise import dequantise, quantise
from lepton_fl.secure_aggregation.vector import Schema, Segment

try:
    import flower_masks
except ImportError:  # Flower's functions are of its legacy part, and may go
    flower_masks = None  # type: ignore[assignment]

_SIZES = ((10**6, 10), (10**6, 50), (10**7, 10), (10**7, 50))  # the last one's figures are the heads
_REPETITIONS = 9
_FLOWER_WORK = 10**9  # words that Flower masks for one client in all repetitions; some 5 s
_UNMASKED_STREAMS = 10  # of Flower's unmasking, from which the whole is extrapolated
_ROUND_LENGTH, _ROUND_COHORTS, _ROUND_S = 10**6, (10, 50), 10.0
_WIRE_BITS, _BOUND = 24, 0.25
_PACKAGES = ("lepton-fl", "cryptography", "numpy", "flwr")


@dataclass(frozen=True)
class Work:
    """Vectors of one size, and the keys of one institution."""

    length: int
    cohort: int
    values: NDArray[np.float32]
    streams: tuple[Stream, ...]  # with each peer, and the own
    source: NDArray[np.uint32] = field(repr=False)
    target: NDArray[np.uint32] = field(repr=False)

    @property
    def dropped(self) -> int:
        """A tenth of the institutions."""
        return max(1, round(self.cohort / 10))

    @property
    def unmasked_streams(self) -> int:
        """The survivors' own masks, and theirs with each who dropped out."""
        return (self.cohort - self.dropped) * (1 + self.dropped)


def work(length: int, cohort: int) -> Work:
    """Random values; all memory is touched."""
    values = np.random.default_rng(0).normal(0, 0.02, length).astype(np.float32)
    streams = tuple(Stream(os.urandom(32), 1 - 2 * (number % 2)) for number in range(cohort))
    return Work(length, cohort, values, streams, np.ones(length, np.uint32), np.zeros(length, np.uint32))


def upload(given: Work) -> NDArray[np.uint8]:
    """What an institution sends: quantised, masked, packed."""
    schema = Schema((Segment("update", "values", given.length, _BOUND),), given.cohort, _WIRE_BITS)
    integers, _ = quantise(given.values, schema.quantiser(schema.segments[0]), os.urandom)
    words = integers.view(np.uint32)
    add_masks(words, given.streams)
    return pack(words, _WIRE_BITS)


def unmask(given: Work, total: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The sum of the survivors' values."""
    schema = Schema((Segment("update", "values", given.length, _BOUND),), given.cohort, _WIRE_BITS)
    streams = (given.streams * given.unmasked_streams)[: given.unmasked_streams]
    add_masks(total, streams)
    return dequantise(signed(total, _WIRE_BITS), schema.quantiser(schema.segments[0]))


def add_uploads(given: Work, packed: NDArray[np.uint8]) -> None:
    """The survivors' uploads are summed."""
    total = np.zeros(given.length, np.uint32)
    for _ in range(given.cohort - given.dropped):
        add_packed(total, packed, _WIRE_BITS)


def encrypt_zeros(blocks: CipherContext, length: int) -> None:
    """The cipher alone: as many bytes as a mask of this length has, into one buffer."""
    out, zeros = (memoryview(bytearray(4 * CHUNK_WORDS)) for _ in range(2))
    for _ in range(-(-length // CHUNK_WORDS)):
        blocks.update_into(zeros, out)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _copy_s(given: Work) -> float:
    return statistics.median(_seconds(lambda: np.copyto(given.target, given.source)) for _ in range(9))


def ours(given: Work) -> dict[str, list[float]]:
    """Seconds of each part, measured in turn with memcpy."""
    taken: dict[str, list[float]] = {}
    total, packed = np.zeros(given.length, np.uint32), upload(given)
    parts: dict[str, Callable[[], object]] = {
        "client": lambda: upload(given),
        "masks": lambda: add_masks(total, given.streams),
        "counter_mode": lambda: encrypt_zeros(
            Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor(), given.length
        ),
        "key_stream": lambda: encrypt_zeros(key_stream(os.urandom(32)), given.length),
        "server_sum": lambda: add_uploads(given, packed),
        "server_unmask": lambda: unmask(given, total),
    }
    for _ in range(_REPETITIONS):
        for name, run in parts.items():
            taken.setdefault(f"{name} memcpy", []).append(_copy_s(given))
            taken.setdefault(name, []).append(_seconds(run))
    return taken


def _over_memcpy(taken: dict[str, list[float]], name: str, streams: int = 1) -> float:
    ratio: float = statistics.median(map(truediv, taken[name], taken[f"{name} memcpy"]))
    return round(ratio / streams, 2)


def own_figures(given: Work, taken: dict[str, list[float]]) -> dict[str, Any]:
    """Ratios to memcpy for each stream, upload or vector."""
    return {
        "length": given.length,
        "cohort": given.cohort,
        "bytes_per_parameter": len(upload(given)) / given.length,
        "memcpy_ms": _ms(taken["client memcpy"]),
        "client_ms": _ms(taken["client"]),
        "client_stream_over_memcpy": _over_memcpy(taken, "client", len(given.streams)),
        "mask_stream_over_memcpy": _over_memcpy(taken, "masks", len(given.streams)),
        "counter_mode_over_memcpy": _over_memcpy(taken, "counter_mode"),
        "key_stream_over_memcpy": _over_memcpy(taken, "key_stream"),
        "server_sum_ms": _ms(taken["server_sum"]),
        "server_upload_over_memcpy": _over_memcpy(taken, "server_sum", given.cohort - given.dropped),
        "server_unmask_ms": _ms(taken["server_unmask"]),
        "server_stream_over_memcpy": _over_memcpy(taken, "server_unmask", given.unmasked_streams),
    }


def beside_flower(given: Work) -> dict[str, Any]:
    """How many times as fast as Flower's own functions, each measured beside ours."""
    seeds, own = [flower_masks.pair_seed() for _ in range(given.cohort - 1)], os.urandom(32)
    client, theirs = [], []
    for _ in range(max(2, min(_REPETITIONS, _FLOWER_WORK // (given.length * given.cohort)))):
        theirs.append(_seconds(lambda: flower_masks.masked(given.values, seeds, own)))
        client.append(_seconds(lambda: upload(given)))
    wire, packed, survivors = (
        flower_masks.masked(given.values, seeds[:1], own),
        upload(given),
        given.cohort - given.dropped,
    )
    sum_s = _seconds(lambda: flower_masks.summed(wire, survivors)) / _seconds(lambda: add_uploads(given, packed))
    total, few = flower_masks.summed(wire, 1), seeds[:_UNMASKED_STREAMS]
    fixed_s = _seconds(lambda: flower_masks.unmasked(total, []))
    stream_s = (_seconds(lambda: flower_masks.unmasked(total, few)) - fixed_s) / len(few)
    their_s = fixed_s + stream_s * given.unmasked_streams
    return {
        "repetitions": len(theirs),
        "flower_client_ms": _ms(theirs),
        "client_speedup_over_flower": round(statistics.median(map(truediv, theirs, client)), 2),
        "server_sum_speedup_over_flower": round(sum_s, 2),
        "server_unmask_speedup_over_flower": round(
            their_s / _seconds(lambda: unmask(given, np.zeros(given.length, np.uint32))), 2
        ),
        "flower_unmask_extrapolated_from_streams": len(few),
        "flower_bytes_per_parameter": round(sum(map(len, wire)) / given.length, 3),
    }


def size_figures(length: int, cohort: int) -> dict[str, Any]:
    """Everything about one size of vector and cohort."""
    given = work(length, cohort)
    figures = own_figures(given, ours(given))
    return figures | (beside_flower(given) if flower_masks is not None else {})


def round_figures(cohort: int) -> dict[str, Any]:
    """What a whole round adds; the median of its repetitions."""
    dropped = max(1, round(cohort / 10))
    with tempfile.TemporaryDirectory() as folder:
        rounds = [round_time(_ROUND_LENGTH, cohort, dropped, Path(folder)) for _ in range(_REPETITIONS)]

    def middle(of: Callable[[RoundTime], float]) -> list[float]:
        return [of(one) for one in rounds]

    return {
        "cohort": cohort,
        "length": _ROUND_LENGTH,
        "dropped": dropped,
        "keys_ms": _ms(middle(lambda one: one.keys)),
        "member_ms": _ms(middle(lambda one: one.member)),
        "operator_ms": _ms(middle(lambda one: one.operator)),
        "plain_sum_ms": _ms(middle(lambda one: one.plain)),
        "added_s": round(statistics.median(middle(lambda one: one.added)), 4),
        "added_with_keys_s": round(statistics.median(middle(lambda one: one.added + one.keys)), 4),
    }


def _ms(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1e3, 2)


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """One block of figures, a line each."""
    yield from (f"  {name:42}{value:>14}" for name, value in figures.items())
    yield ""


def measured(sizes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """All figures, printed as they come."""
    load = round(os.getloadavg()[0], 2)
    rounds, by_size = [], []
    for cohort in _ROUND_COHORTS:
        rounds.append(round_figures(cohort))
        print("whole round", *lines(rounds[-1]), sep="\n", flush=True)  # noqa: T201
    for length, cohort in sizes:
        by_size.append(size_figures(length, cohort))
        print(f"{length:,} parameters", *lines(by_size[-1]), sep="\n", flush=True)  # noqa: T201
    last = by_size[-1]
    heads = ("client_stream_over_memcpy", "client_speedup_over_flower", "bytes_per_parameter")
    return {
        **{name: last[name] for name in heads if name in last},
        "round_overhead": round(max(one["added_s"] for one in rounds) / _ROUND_S, 4),
        "round_overhead_with_keys": round(max(one["added_with_keys_s"] for one in rounds) / _ROUND_S, 4),
        "load_average_before": load,  # of the last minute: what else the machine was doing
        "sizes": by_size,
        "rounds": rounds,
    }


def main() -> None:
    """Measure, print, store."""
    given = tuple(int(text) for text in sys.argv[1:3])
    figures = measured((given,) if len(given) == 2 else _SIZES)
    print(*lines({name: value for name, value in figures.items() if not isinstance(value, list)}), sep="\n")  # noqa: T201
    if not given:
        store("secure_aggregation", figures, _PACKAGES)


if __name__ == "__main__":
    main()
