"""Who is drawn into a step: records, each by itself, or subjects with whatever records they have.

Under a promise per subject, a coin is tossed for each subject and none for a record. What a subject adds to a step
depends on that subject's own records and coins alone, so adding or removing a person with everything that is known of
them changes one clipped contribution.

Source: McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models" (sampling whole users).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_fl.privacy.randomness import Stream
from lepton_fl.training.examples import Examples


@dataclass(frozen=True)
class Part:
    """A physical batch of a step."""

    index: Tensor  # int64 [n], positions among the institution's records
    owners: Tensor | None  # int64 [n], whose record each is, 0..subjects-1 in this batch; None: each is its own


def drawn_records(records: int, sampling_rate: float, sampling: Stream, physical_batch: int) -> Iterator[Part]:
    """A Poisson draw over records, in batches of at most `physical_batch`."""
    drawn = torch.from_numpy(np.flatnonzero(sampling.bernoulli(records, sampling_rate)))
    for start in range(0, len(drawn), physical_batch):
        yield Part(drawn[start : start + physical_batch], None)


def drawn_subjects(
    examples: Examples, sampling_rate: float, most: int, sampling: Stream, physical_batch: int
) -> Iterator[Part]:
    """A Poisson draw over subjects, each with up to `most` of their records; no batch splits a subject.

    Args:
        most: records of one subject in a step, at most `physical_batch`; who has more takes part with so many of
            them, chosen afresh in each step by the sampling stream.
    """
    order, starts = _grouped(examples)
    coins = sampling.bernoulli(len(starts) - 1, sampling_rate)
    drawn = np.flatnonzero(coins)
    sizes = np.minimum(starts[drawn + 1] - starts[drawn], most)
    ends = np.cumsum(sizes)
    first = 0
    while first < len(drawn):
        before = ends[first] - sizes[first]
        last = int(np.searchsorted(ends, before + physical_batch, side="right"))
        rows = [_rows(order[starts[one] : starts[one + 1]], most, sampling) for one in drawn[first:last].tolist()]
        owners = np.repeat(np.arange(last - first), sizes[first:last])
        yield Part(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(owners))
        first = last


def most_records_of_a_subject(examples: Examples) -> int:
    """The largest number of records that one subject has; exact, so it stays at the institution. 0 without records."""
    return int(np.diff(_grouped(examples)[1]).max(initial=0))


def _rows(own: npt.NDArray[np.int64], most: int, sampling: Stream) -> npt.NDArray[np.int64]:
    """All of one subject's records, or `most` of them in their order."""
    return own if len(own) <= most else own[np.sort(sampling.permutation(len(own))[:most])]


def _grouped(examples: Examples) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions [n] subject by subject, and [subjects + 1] where each subject's begin."""
    if examples.subjects is None:
        return np.arange(len(examples)), np.arange(len(examples) + 1)
    subjects = examples.subjects.numpy()
    order = np.argsort(subjects, kind="stable")
    _, starts = np.unique(subjects[order], return_index=True)
    return order, np.append(starts, len(subjects))
