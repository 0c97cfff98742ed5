"""What leaves an institution when a model is evaluated: counts by group, label and score, and nothing else.

Counts add up over institutions exactly and in any order, and every figure follows from the sum. A subject is in one
cell at most once, so adding or removing one moves one cell by one: L1 and L2 sensitivity 1, however many groups,
labels and bins there are. That is what the noise of `plan` is calibrated to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_fl.errors import ConfigError
from lepton_fl.privacy import skellam
from lepton_fl.privacy.accounting import MOST_SKELLAM_PARAMETERS
from lepton_fl.privacy.randomness import Stream
from lepton_fl.tasks.groups import Groups
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples


@dataclass(frozen=True)
class Layout:
    """Which cells a histogram has, known from the declaration alone.

    Two labels: `bins` of the score of class 1, an even number, so that the threshold 1/2 is an edge. More labels: a bin
    for each guessed class.
    """

    groups: Groups
    labels: int
    bins: int

    def __post_init__(self) -> None:
        if self.labels < 2 or (self.labels == 2 and (self.bins < 2 or self.bins % 2)):
            raise ConfigError(
                f"a histogram of {self.labels} labels cannot have {self.bins} bins; nothing was counted; give at least "
                "two labels, and two of them an even number of bins"
            )
        if self.labels > 2 and self.bins != self.labels:
            raise ConfigError(
                f"a histogram of {self.labels} labels has a bin for each guess, not {self.bins}; nothing was counted"
            )
        if self.groups.cells * self.labels * self.bins > MOST_SKELLAM_PARAMETERS:
            raise ConfigError(
                f"a histogram of {self.groups.cells} groups, {self.labels} labels and {self.bins} bins is larger than "
                "noise is accounted for; nothing was counted; declare fewer groups or bins"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells of the groups, labels, bins."""
        return (self.groups.cells, self.labels, self.bins)

    def with_bins(self, bins: int) -> Layout:
        """The same with so many bins of the score; of more than two labels, the same."""
        return replace(self, bins=bins) if self.labels == 2 else self


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of held-out subjects, with the noise that is in them. A noised count may be negative."""

    layout: Layout
    table: npt.NDArray[np.int64]  # of the layout's shape
    variance: float  # of the noise in each cell; 0: the counts are exact

    def __post_init__(self) -> None:
        if self.table.shape != self.layout.shape:
            raise ValueError(f"a histogram of shape {self.layout.shape} has none of {self.table.shape}")

    def __add__(self, other: Histogram) -> Histogram:
        if self.layout != other.layout:
            raise ValueError("histograms of different layouts cannot be added")
        return Histogram(self.layout, self.table + other.table, self.variance + other.variance)

    def coarser(self, bins: int) -> Histogram:
        """Neighbouring bins added up to so many; a cell's noise grows with those it is made of.

        Raises:
            ValueError: not a divisor of the bins that there are, or more than two labels.
        """
        if bins == self.layout.bins:
            return self
        if self.layout.labels > 2 or self.layout.bins % bins:
            raise ValueError(f"{self.layout.bins} bins of {self.layout.labels} labels cannot be made {bins}")
        width = self.layout.bins // bins
        table = self.table.reshape(*self.table.shape[:2], bins, width).sum(axis=3)
        return Histogram(self.layout.with_bins(bins), table, self.variance * width)


def count(
    model: nn.Module, examples: Examples, layout: Layout, physical_batch: int, one_per_subject: bool
) -> npt.NDArray[np.int64]:
    """Score records with the model as it is, without learning from them: exact counts of the layout's shape.

    Args:
        one_per_subject: of several records of one subject one is counted, the same one for every model: for a promise
            to people. Else every record is counted, for a promise to records.
    """
    table = np.zeros(layout.shape, dtype=np.int64)
    counted = one_of_each(examples) if one_per_subject else torch.arange(len(examples))
    device = device_of(model)
    model.eval()
    with torch.inference_mode():
        for index in counted.split(physical_batch) if len(counted) else ():
            part = examples.at(index)
            bins = _bins(model(part.features.to(device)), layout)
            cells = np.zeros(len(part), dtype=np.int64) if part.groups is None else part.groups.numpy()
            np.add.at(table, (cells, part.labels.cpu().numpy(), bins), 1)
    return table


def noised(table: npt.NDArray[np.int64], variance: int, stream: Stream) -> npt.NDArray[np.int64]:
    """The counts with independent Skellam noise of this variance in each cell.

    Raises:
        ValueError: a variance below 1: a release without noise is no release of this kind.
    """
    return table + skellam.table(variance).sample(table.size, stream).reshape(table.shape)


def _bins(logits: Tensor, layout: Layout) -> npt.NDArray[np.int64]:
    """The bin of the score of class 1, or the likeliest class, int64 [n]; of a score that is no number, the first."""
    if layout.labels > 2:
        return logits.argmax(dim=1).cpu().numpy()
    logits = logits.double()
    scores = torch.sigmoid(logits[:, 0]) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)[:, 1]
    return (scores.nan_to_num(nan=0.0) * layout.bins).long().clamp(0, layout.bins - 1).cpu().numpy()


def one_of_each(examples: Examples) -> Tensor:
    """Where the one record of each subject is that counts, int64, ascending.

    The one with the least hash of the record itself: a function of the subject's own records. A choice by place or by
    the subjects' numbers would move with other people's records, and adding a subject could move more than one cell.
    """
    if examples.subjects is None:
        return torch.arange(len(examples))
    chosen: dict[int, tuple[bytes, int]] = {}
    _, numbers, records = examples.subjects.unique(return_inverse=True, return_counts=True)
    several = (records[numbers] > 1).tolist()
    for place, subject in enumerate(numbers.tolist()):
        key = (_hash(examples, place) if several[place] else b"", place)
        chosen[subject] = min(chosen.get(subject, key), key)
    return torch.tensor(sorted(place for _, place in chosen.values()), dtype=torch.int64)


def _hash(examples: Examples, place: int) -> bytes:
    group = -1 if examples.groups is None else int(examples.groups[place])
    record = hashlib.sha256(f"lepton-fl/counted-record/{int(examples.labels[place])}/{group}/".encode())
    record.update(np.ascontiguousarray(examples.features[place].cpu().numpy()).tobytes())
    return record.digest()
