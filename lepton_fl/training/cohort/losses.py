"""Cross-entropy of stacked outputs with its slope, as `examples.per_record_loss` has it of one institution's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def losses_and_slopes(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Each record's loss, float32 [members, records], and its derivative by the outputs, of the outputs' shape.

    Args:
        outputs: logits [members, records, k]; k = 1 for two classes (logit of class 1).
        labels: int64 [members, records].
    """
    if outputs.shape[-1] == 1:
        truth = labels.to(outputs.dtype).unsqueeze(-1)
        losses = functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none")[..., 0]
        return losses, torch.sigmoid(outputs).sub_(truth)
    logs = torch.log_softmax(outputs, dim=-1)
    chosen = labels.unsqueeze(-1)
    losses = -logs.gather(-1, chosen)[..., 0]
    return losses, logs.exp_().scatter_add_(-1, chosen, torch.full_like(chosen, -1, dtype=outputs.dtype))


def goals_of(labels: Tensor, shares: Tensor, outputs: int) -> Tensor:
    """What ideal outputs would be, times -shares: float32 [members, records, outputs].

    Args:
        labels: int64 [members, records].
        shares: float32 [members, records, 1].
    """
    if outputs == 1:
        return labels.unsqueeze(-1) * -shares
    goals = torch.zeros(*labels.shape, outputs, device=labels.device)
    return goals.scatter_(-1, labels.unsqueeze(-1), -shares)


def slopes_of(outputs: Tensor, shares: Tensor, goals: Tensor) -> Tensor:
    """The slopes alone, as `losses_and_slopes` has them, times shares.

    Args:
        goals: of `goals_of`.
    """
    if outputs.shape[-1] == 1:
        return torch.addcmul(goals, torch.sigmoid(outputs), shares)
    # Side by side it is some times faster than within rows as short as these.
    chances = torch.softmax(outputs.transpose(1, 2).contiguous(), dim=1)
    return torch.addcmul(goals, chances.transpose(1, 2), shares)
