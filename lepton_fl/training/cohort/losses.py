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


def truths_of(labels: Tensor, outputs: int) -> Tensor:
    """What ideal outputs would be, float32 [members, records, outputs].

    Args:
        labels: int64 [members, records].
    """
    if outputs == 1:
        return labels.to(torch.float32).unsqueeze(-1)
    truths = torch.zeros(*labels.shape, outputs, device=labels.device)
    return truths.scatter_(-1, labels.unsqueeze(-1), 1.0)


def slopes_of(outputs: Tensor, truths: Tensor) -> Tensor:
    """The slopes alone, as `losses_and_slopes` has them.

    Args:
        truths: of `truths_of`.
    """
    chances = torch.sigmoid(outputs) if outputs.shape[-1] == 1 else torch.softmax(outputs, dim=-1)
    return chances.sub_(truths)
