"""What an institution answers when it is asked how good a model is: integer counts of its hold-out.

Counts add up over institutions exactly and in any order, and every figure in `metrics` follows from the
sum. They are exact here: in a simulation nothing leaves the process. No epsilon covers them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_fl.evaluation.metrics import SCORE_BINS
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples, per_record_loss

LARGEST_LOSS = 100.0  # nats, per record: declared, so that no record (and no broken model) makes a sum unbounded


@dataclass(frozen=True)
class Counts:
    """Two classes: int64 [2, SCORE_BINS], label by score bin. More: int64 [classes, classes], label by guess."""

    table: npt.NDArray[np.int64]
    loss_sum: float  # of the cross-entropy over the records, in nats, each at most LARGEST_LOSS

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.table + other.table, self.loss_sum + other.loss_sum)

    @property
    def records(self) -> int:
        """Counted records."""
        return int(self.table.sum())


def table_shape(outputs: int) -> tuple[int, int]:
    """Shape of `Counts.table` for a model with this many outputs."""
    return (2, SCORE_BINS) if outputs == 1 else (outputs, outputs)


def count(model: nn.Module, examples: Examples, outputs: int, physical_batch: int) -> Counts:
    """Score every record with the model as it is, without learning from it."""
    table = np.zeros(table_shape(outputs), dtype=np.int64)
    loss_sum, device = 0.0, device_of(model)
    model.eval()
    with torch.inference_mode():
        for index in torch.arange(len(examples)).split(physical_batch) if len(examples) else ():
            part = examples.at(index).to(device)
            logits = model(part.features)
            losses = per_record_loss(logits, part.labels).double().nan_to_num(nan=LARGEST_LOSS)
            loss_sum += float(losses.clamp(max=LARGEST_LOSS).sum())
            np.add.at(table, (part.labels.cpu().numpy(), _cells(logits)), 1)
    return Counts(table, loss_sum)


def _cells(logits: Tensor) -> npt.NDArray[np.int64]:
    """Score bin of class 1, or the likeliest class."""
    if logits.shape[1] > 1:
        return logits.argmax(dim=1).cpu().numpy()
    scores = torch.sigmoid(logits[:, 0].double())
    return (scores * SCORE_BINS).long().clamp(0, SCORE_BINS - 1).cpu().numpy()
