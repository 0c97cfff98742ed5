"""A cohort of any size in chunks: one worker or several, outcomes in order, memory of a few chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import torch
from torch import nn

from lepton_fl.training.cohort.executor import Executor, Member, Outcome


class Trains(Protocol):
    """Trains a cohort."""

    def train(self, start: nn.Module, members: Iterable[Member]) -> Iterator[Outcome]:
        """What each member's training came to, in their order; members are asked for as they are needed.

        What an outcome holds is valid until the next one is asked for.
        """


class Pool:
    """See `Trains`. Chunks and workers change where something is computed, and nothing else."""

    def __init__(self, make: Callable[[], Executor], chunk: int, workers: int) -> None:
        """
        Args:
            make: an executor, of which each chunk in flight has its own.
            chunk: members that are trained together.
            workers: threads; 1: none but the caller's.
        """
        self._chunk, self._workers = chunk, workers
        # While a worker trains, what it trained before is still being read.
        self._executors = [make() for _ in range(1 if workers == 1 else 2 * workers)]

    def train(self, start: nn.Module, members: Iterable[Member]) -> Iterator[Outcome]:
        """See `Trains.train`."""
        if self._workers > 1:
            # Each worker computes with its share of the cores, and so does the caller meanwhile: threads that it does
            # not use spin on the workers' cores.
            whole = torch.get_num_threads()
            threads = max(1, whole // self._workers)
            torch.set_num_threads(threads)
            try:
                yield from self._beside(start, members, threads)
            finally:
                torch.set_num_threads(whole)
            return
        for chunk in _chunks(members, self._chunk):
            yield from self._executors[0].train(start, chunk)

    def _beside(self, start: nn.Module, members: Iterable[Member], threads: int) -> Iterator[Outcome]:
        free, busy = deque(self._executors), deque[tuple[Executor, Future[list[Outcome]]]]()
        with ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            for chunk in _chunks(members, self._chunk):
                if not free:
                    executor, done = busy.popleft()
                    yield from done.result()
                    free.append(executor)
                executor = free.popleft()
                busy.append((executor, pool.submit(_all, executor, start, chunk)))
            for _, done in busy:
                yield from done.result()


def _all(executor: Executor, start: nn.Module, members: list[Member]) -> list[Outcome]:
    return list(executor.train(start, members))


def _chunks(members: Iterable[Member], size: int) -> Iterator[list[Member]]:
    waiting = iter(members)
    while chunk := list(islice(waiting, size)):
        yield chunk
