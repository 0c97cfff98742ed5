"""Integrated gradients: how much each input moved a record's logit away from that of a public baseline.

The baseline is the record whose every feature is 0 as it is scaled: each number in the middle of its declared bounds,
no category, nothing missing. It is nobody's. The attributions of a record add up to the logit's difference
(completeness), exactly for a linear model and to within the sum's error for any other.

Source: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_fl.training.device import device_of

STEPS = 64  # points on the way from the baseline to the record


@dataclass(frozen=True)
class Explained:
    """One record's logit, and what moved it."""

    label: int  # class whose logit it is: of two classes the second, of more the likeliest
    logit: float
    baseline: float  # the same logit of the baseline
    attributions: npt.NDArray[np.float64]  # [inputs]; they add up to logit - baseline


def explain(model: nn.Module, record: Tensor) -> Explained:
    """Integrated gradients of one record, by the midpoint rule, a function of this record and the model alone.

    One record at a time: in a batch, float32 rounding would let the others have a part in it.

    Args:
        record: float32, features of one record, on any device.
    """
    model.eval()
    record = record.detach().to(device_of(model))
    with torch.no_grad():
        ends = model(torch.stack([torch.zeros_like(record), record])).double()
    label = int(ends[1].argmax()) if ends.shape[1] > 1 else 0
    middles = (torch.arange(STEPS, device=record.device, dtype=record.dtype) + 0.5) / STEPS
    points = (middles.reshape(-1, *[1] * record.dim()) * record).requires_grad_(True)
    (gradients,) = torch.autograd.grad(model(points)[:, label].sum(), points)
    attributions = (gradients.double().mean(dim=0) * record.double()).flatten().cpu().numpy()
    shown = label if ends.shape[1] > 1 else 1
    return Explained(shown, float(ends[1, label]), float(ends[0, label]), attributions)
