"""The exact loss of a hold-out: told beside exact counts alone, since it would undo the noise of others."""

from __future__ import annotations

import torch
from torch import nn

from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples, per_record_loss

LARGEST_LOSS = 100.0  # nats, per record: declared, so that no record (and no broken model) makes a sum unbounded


def summed_loss(model: nn.Module, examples: Examples, physical_batch: int) -> float:
    """The cross-entropy summed over all records, in nats, each one's at most `LARGEST_LOSS`."""
    loss_sum, device = 0.0, device_of(model)
    model.eval()
    with torch.inference_mode():
        for index in torch.arange(len(examples)).split(physical_batch) if len(examples) else ():
            part = examples.at(index).to(device)
            losses = per_record_loss(model(part.features), part.labels).double().nan_to_num(nan=LARGEST_LOSS)
            loss_sum += float(losses.clamp(max=LARGEST_LOSS).sum())
    return loss_sum
