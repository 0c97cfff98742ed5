"""Records as tensors: what a task loads, a model learns from and an evaluation counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """n records. `features`: float32 [n, ...]; `labels`: int64 [n], class numbers from 0."""

    features: Tensor
    labels: Tensor
    subjects: Tensor | None = None  # int64 [n] on the CPU, whom each is about, by any number; None: each its own
    groups: Tensor | None = None  # int64 [n] on the CPU, cell of the task's groups; None: everybody in cell 0
    weights: Tensor | None = None  # float64 [n] in (0, 1], of its clipped gradient; None: all count 1

    def __len__(self) -> int:
        return self.labels.shape[0]

    def at(self, index: Tensor) -> Examples:
        """The records at these positions, int64 [m], in this order."""
        return Examples(
            self.features.index_select(0, index),
            self.labels.index_select(0, index),
            None if self.subjects is None else self.subjects.index_select(0, index),
            None if self.groups is None else self.groups.index_select(0, index),
            None if self.weights is None else self.weights.index_select(0, index),
        )

    def to(self, device: torch.device) -> Examples:
        """The same records on that device; no copy where they are there already."""
        if self.features.device == device:
            return self
        weights = None if self.weights is None else self.weights.to(device)
        return Examples(self.features.to(device), self.labels.to(device), self.subjects, self.groups, weights)


@dataclass(frozen=True)
class Site:
    """One institution's records: to learn from, and held out twice over (no subject is in two of them)."""

    institution: str
    train: Examples
    holdout: Examples  # for figures alone
    tune: Examples  # for choices during training; empty where `holdout.tune` is 0
    # [cells, labels], this institution's own, of its records by group and label; None: all equal, or as instructed.
    weights: npt.NDArray[np.float64] | None = field(default=None, kw_only=True)


def per_record_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each record, float32 [n].

    Args:
        outputs: logits; [n, 1] for two classes (logit of class 1), else [n, classes].
        labels: int64 [n].
    """
    if outputs.shape[1] == 1:
        return torch.nn.functional.binary_cross_entropy_with_logits(
            outputs[:, 0], labels.to(outputs.dtype), reduction="none"
        )
    return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")


def loss_gradient(outputs: Tensor, labels: Tensor) -> Tensor:
    """What `per_record_loss`, added up, changes by with each output; the shape of `outputs`."""
    if outputs.shape[1] == 1:
        return torch.sigmoid(outputs).sub_(labels.to(outputs.dtype)[:, None])
    # Class by class in memory: torch's softmax over few numbers that follow one another takes many times as long.
    gradient = torch.softmax(outputs.t(), dim=0)
    return gradient.scatter_(0, labels[None], -1.0, reduce="add").t().contiguous()
