"""The sum of many institutions' updates, where nobody needs a single one: their weights are never written down.

After s steps of SGD an institution's weights are k W - sum over steps of c G^T A, with the round's model W, and the
inputs A and scaled output gradients G of a layer in each step. So what a layer makes of a batch is the product with W,
which is the same for everybody and one large product for all of them, and a correction by the products of this batch's
inputs with earlier ones: worth it while an institution's records are fewer than a layer is wide. The updates' sum is
one more large product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.cohort.chunks import Descent, Records
from lepton_fl.training.cohort.layers import Bend, Dense, Flat, Layer
from lepton_fl.training.cohort.losses import losses_and_slopes

_LARGEST = 1e5  # no value is near what a reply's check refuses


def is_worth_it(layers: Sequence[Layer], records: int) -> bool:
    """Whether corrections cost less than weights that are written down."""
    dense = [layer.weight.shape for layer in layers if isinstance(layer, Dense)]
    is_dense_first = isinstance(next(one for one in layers if not isinstance(one, Flat)), Dense)
    return is_dense_first and records * sum(map(sum, dense)) <= sum(out * inputs for out, inputs in dense)


class _Layer:
    """A dense layer's inputs and scaled output gradients of the steps so far."""

    def __init__(self, layer: Dense, start: Tensor, shape: torch.Size) -> None:
        self.layer = layer
        self._weight = layer.weight.of(start)
        self._bias = None if layer.bias is None else layer.bias.of(start)
        self._of_start: Tensor | None = None
        out, inputs = layer.weight.shape
        self._room = (*shape, inputs)
        self.inputs = torch.empty(0)
        self.slopes = torch.empty(*shape, out, device=start.device)

    def knows_its_inputs(self, x: Tensor) -> None:
        """What the start makes of every record is one product."""
        made = times_transposed(x.flatten(0, 1), self._weight, self._bias)
        self.inputs, self._of_start = x, made.view(*x.shape[:2], -1)

    def forward(self, x: Tensor, now: slice, k: float, taken: Tensor) -> Tensor:
        """This step's outputs.

        Args:
            k: how much of the start is in the values.
            taken: how much of each earlier record's gradient is taken off them.
        """
        if self._of_start is None:
            if not now.start:
                self.inputs = torch.empty(self._room, device=x.device)
            self.inputs[:, now] = x
            z = times_transposed(x.flatten(0, 1), self._weight, self._bias).view(*x.shape[:2], -1)
        else:
            z = self._of_start[:, now]
        z = z if k == 1.0 else z * k
        if not now.start:
            return z
        likeness = torch.bmm(self.inputs[:, now], self.inputs[:, : now.start].transpose(1, 2))
        if self._bias is not None:
            likeness.add_(1.0)
        return torch.baddbmm(z, likeness.mul_(taken), self.slopes[:, : now.start], alpha=-1.0)

    def backward(self, g: Tensor, now: slice, k: float, taken: Tensor) -> Tensor:
        """The gradient by this step's inputs."""
        below = times_transposed(g.flatten(0, 1), self._weight.t()).view(*g.shape[:2], -1)
        below = below if k == 1.0 else below * k
        if not now.start:
            return below
        likeness = torch.bmm(g, self.slopes[:, : now.start].transpose(1, 2)).mul_(taken)
        return torch.baddbmm(below, likeness, self.inputs[:, : now.start], alpha=-1.0)


def summed(
    layers: Sequence[Layer], start: Tensor, records: Records, descent: Descent, weights: Tensor
) -> Tensor | None:
    """The sum of weight * (values - start) over the members, float32 [d]; None where a value may be out of range.

    Args:
        start: float32 [d].
        weights: float32 [members].
    """
    program = _program(layers, start, records)
    dense = [one for one in program if isinstance(one, _Layer)]
    begin = 0
    for number, size in enumerate(records.sizes):
        now = slice(begin, begin + size)
        taken = descent.of_steps(records.sizes[:number]).to(start.device)
        _step(program, records, now, (descent.of_start(number), taken))
        begin += size
    taken = descent.of_steps(records.sizes).to(start.device)
    if not _is_in_range(dense, start, taken):
        return None
    total = (descent.of_start(len(records.sizes)) - 1.0) * float(weights.sum()) * start
    counted = (weights[:, None] * taken).flatten()[:, None]
    for one in dense:
        g = one.slopes.flatten(0, 1) * counted
        one.layer.weight.of(total).sub_(times_transposed(g.t(), one.inputs.flatten(0, 1).t()))
        if one.layer.bias is not None:
            one.layer.bias.of(total).sub_(g.sum(0))
    return total


def _program(layers: Sequence[Layer], start: Tensor, records: Records) -> list[_Layer | Bend]:
    """The layers with their memory; the first, a dense one, works on all steps' records at once."""
    x = records.features.flatten(2) if isinstance(layers[0], Flat) else records.features
    made = [
        _Layer(layer, start, records.labels.shape) if isinstance(layer, Dense) else layer
        for layer in layers
        if not isinstance(layer, Flat)
    ]
    if isinstance(made[0], _Layer):
        made[0].knows_its_inputs(x)
    return made


def _step(program: Sequence[_Layer | Bend], records: Records, now: slice, at: tuple[float, Tensor]) -> None:
    """One step of every member; its inputs and slopes are noted."""
    k, taken = at
    x, outputs = records.features[:, now], []
    for one in program:
        x = one.forward(x, now, k, taken) if isinstance(one, _Layer) else one.forward(x)
        outputs.append(x)
    _, g = losses_and_slopes(x, records.labels[:, now])
    g.mul_(records.shares[:, now].unsqueeze(-1))
    for number in range(len(program) - 1, -1, -1):
        one = program[number]
        if isinstance(one, Bend):
            g = one.backward(g, outputs[number])
            continue
        one.slopes[:, now] = g
        if number:
            g = one.backward(g, now, k, taken)


def _is_in_range(dense: Sequence[_Layer], start: Tensor, taken: Tensor) -> bool:
    """Whether no value of any member can be what a reply's check refuses; NaN is not."""
    moved = sum(_largest(one.slopes) * _largest(one.inputs).clamp(min=1.0) for one in dense) * taken.sum()
    return bool(_largest(start) + moved <= _LARGEST)


def _largest(values: Tensor) -> Tensor:
    least, most = values.aminmax()
    return torch.maximum(-least, most)
