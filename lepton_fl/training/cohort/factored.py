"""The sum of many institutions' updates, where nobody needs a single one: their weights are never written down.

After s steps of SGD an institution's weights are k W - sum over steps of c G^T A, with the round's model W, and the
inputs A and scaled output gradients G of a layer in each step. So what a layer makes of a batch is the product with W,
which is the same for everybody and one large product for all of them, and a correction by the products of this batch's
inputs with earlier ones: worth it while an institution's records are fewer than a layer is wide. The updates' sum is
one more large product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.cohort.chunks import Descent, Records
from lepton_fl.training.cohort.layers import Bend, Dense, Flat, Layer
from lepton_fl.training.cohort.losses import slopes_of, truths_of

_LARGEST = 1e5  # no value is near what a reply's check refuses


def is_worth_it(layers: Sequence[Layer], records: int) -> bool:
    """Whether corrections cost less than weights that are written down."""
    dense = [layer.weight.shape for layer in layers if isinstance(layer, Dense)]
    is_dense_first = isinstance(next(one for one in layers if not isinstance(one, Flat)), Dense)
    return is_dense_first and records * sum(map(sum, dense)) <= sum(out * inputs for out, inputs in dense)


@dataclass(frozen=True)
class _Stand:
    """Where the values are before a step."""

    of_start: float  # how much of the start is in them
    taken: float | Tensor  # how much of each earlier record's gradient is taken off them

    def corrected(self, made: Tensor, likeness: Tensor, earlier: Tensor) -> Tensor:
        """What the start made, less what earlier records took off by their likeness, which is changed."""
        if isinstance(self.taken, float):
            return torch.baddbmm(made, likeness, earlier, alpha=-self.taken)
        return torch.baddbmm(made, likeness.mul_(self.taken), earlier, alpha=-1.0)


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

    def forward(self, x: Tensor, now: slice, at: _Stand) -> Tensor:
        """This step's outputs."""
        if self._of_start is None:
            if not now.start:
                self.inputs = torch.empty(self._room, device=x.device)
            self.inputs[:, now] = x
            z = times_transposed(x.flatten(0, 1), self._weight, self._bias).view(*x.shape[:2], -1)
        else:
            z = self._of_start[:, now]
        z = z if at.of_start == 1.0 else z * at.of_start
        if not now.start:
            return z
        likeness = torch.bmm(self.inputs[:, now], self.inputs[:, : now.start].transpose(1, 2))
        if self._bias is not None:
            likeness.add_(1.0)
        return at.corrected(z, likeness, self.slopes[:, : now.start])

    def backward(self, g: Tensor, now: slice, at: _Stand) -> Tensor:
        """The gradient by this step's inputs."""
        below = times_transposed(g.flatten(0, 1), self._weight.t()).view(*g.shape[:2], -1)
        below = below if at.of_start == 1.0 else below * at.of_start
        if not now.start:
            return below
        likeness = torch.bmm(g, self.slopes[:, : now.start].transpose(1, 2))
        return at.corrected(below, likeness, self.inputs[:, : now.start])

    def is_within(self, room: float, most: float) -> bool:
        """Whether no value of any member can have moved by more than `room`; NaN has.

        Args:
            most: that is taken off a value of any record's gradient.
        """
        # Cauchy and Schwarz over the records; a bias has an input of 1.
        norms = _square(self.slopes) * max(_square(self.inputs), float(self.inputs.shape[1]))
        return most * math.sqrt(norms) <= room


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
    truths, begin = truths_of(records.labels, dense[-1].slopes.shape[-1]), 0
    for number, size in enumerate(records.sizes):
        now = slice(begin, begin + size)
        _step(program, records, truths[:, now], (now, _stand(descent, records.sizes[:number], start.device)))
        begin += size
    taken = descent.of_steps(records.sizes).to(start.device)
    if not _is_in_range(dense, start, taken):
        return None
    total = (descent.of_start(len(records.sizes)) - 1.0) * float(weights.sum()) * start
    counted = (weights[:, None] * -taken).flatten()
    for one in dense:
        # By rows, as the product wants them.
        g = torch.empty(one.slopes.shape[-1], len(counted), device=start.device)
        torch.mul(one.slopes.flatten(0, 1).t(), counted, out=g)
        one.layer.weight.of(total).add_(times_transposed(g, one.inputs.flatten(0, 1).t()))
        if one.layer.bias is not None:
            one.layer.bias.of(total).add_(g.sum(1))
    return total


def _stand(descent: Descent, sizes: Sequence[int], device: torch.device) -> _Stand:
    """After steps of so many records."""
    # Without a decay each step is taken off alike.
    taken = descent.rate if descent.keep == 1.0 else descent.of_steps(sizes).to(device)
    return _Stand(descent.of_start(len(sizes)), taken)


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


def _step(program: Sequence[_Layer | Bend], records: Records, truths: Tensor, at: tuple[slice, _Stand]) -> None:
    """One step of every member; its inputs and slopes are noted."""
    now, stand = at
    x, outputs = records.features[:, now], []
    for one in program:
        x = one.forward(x, now, stand) if isinstance(one, _Layer) else one.forward(x)
        outputs.append(x)
    g = slopes_of(x, truths).mul_(records.shares[:, now].unsqueeze(-1))
    for number in range(len(program) - 1, -1, -1):
        one = program[number]
        if isinstance(one, Bend):
            g = one.backward(g, outputs[number])
            continue
        one.slopes[:, now] = g
        if number:
            g = one.backward(g, now, stand)


def _is_in_range(dense: Sequence[_Layer], start: Tensor, taken: Tensor) -> bool:
    """Whether no value of any member can be what a reply's check refuses; NaN is not."""
    # Norms are the cheaper look, and a bound that is hardly ever missed.
    room, most = (_LARGEST - math.sqrt(_square(start))) / len(dense), float(taken.max())
    if all(one.is_within(room, most) for one in dense):
        return True
    moved = sum(_largest(one.slopes) * _largest(one.inputs).clamp(min=1.0) for one in dense) * taken.sum()
    return bool(_largest(start) + moved <= _LARGEST)


def _square(values: Tensor) -> float:
    """The sum of all values' squares; as cheap a look at each of them as there is."""
    flat = values.reshape(-1)
    return float(torch.dot(flat, flat))


def _largest(values: Tensor) -> Tensor:
    least, most = values.aminmax()
    return torch.maximum(-least, most)
