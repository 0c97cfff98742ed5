"""Records as tensors: what a task loads, a model learns from and an evaluation counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """n records. `features`: float32 [n, ...]; `labels`: int64 [n], class numbers from 0."""

    features: Tensor
    labels: Tensor
    subjects: Tensor | None = None  # int64 [n] on the CPU, whom each is about, by any number; None: each its own

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: Tensor) -> Examples:
        """The records at these positions, int64 [m], in this order."""
        subjects = None if self.subjects is None else self.subjects.index_select(0, index)
        return Examples(self.features.index_select(0, index), self.labels.index_select(0, index), subjects)

    def to(self, device: torch.device) -> Examples:
        """The same records on that device; no copy where they are there already."""
        return Examples(self.features.to(device), self.labels.to(device), self.subjects)


@dataclass(frozen=True)
class Site:
    """One institution's records: to learn from, and held out (no subject is in both)."""

    institution: str
    train: Examples
    holdout: Examples


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
