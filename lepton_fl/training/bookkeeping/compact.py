"""Clipped sums of small dense networks in a few compiled passes, where torch's calls would be most of a step.

The same operations as in `straight` and `clipping`, so the same numbers but for rounding. Owners are left to these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.training.bookkeeping.dense_kernels import Passes, library
from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.lengths import lost
from lepton_fl.training.bookkeeping.matmul import WORTH_IT
from lepton_fl.training.bookkeeping.straight import ACTIVATIONS, Activation, Dense, StraightLine
from lepton_fl.training.clipped_sum import LARGEST_NORM
from lepton_fl.training.examples import Examples

_LINE = 16  # float32 numbers of a line of the cache, and of the widest vector
_ROWS = 32  # room is made for a multiple of so many records
_WIDEST = 1024  # numbers whose squares are added up in float32


@dataclass(frozen=True)
class _Layer:
    dense: Dense
    activation: Activation | None  # that follows
    weight: Tensor  # [p, d], of the model itself
    bias: Tensor | None  # [p], of the model itself
    turned: Tensor  # [d, p and more], the weight the other way round
    start: Tensor  # [p and more], the bias
    zeros: Tensor  # [d]
    summed: Tensor | None  # [d, p], the gradient the other way round, where rows are longer then

    @classmethod
    def of(cls, dense: Dense, activation: Activation | None) -> _Layer:
        """The layer with memory of its own."""
        outputs, inputs = dense.layer.weight.shape
        wide = -(-outputs // _LINE) * _LINE
        bias = None if dense.bias is None else dense.layer.bias.detach()
        turned, start, zeros = (torch.zeros(*shape) for shape in ((inputs, wide), (wide,), (inputs,)))
        summed = torch.zeros(inputs, outputs) if inputs < outputs else None
        return cls(dense, activation, dense.layer.weight.detach(), bias, turned, start, zeros, summed)


class _Room:
    """Memory for so many records."""

    def __init__(self, records: int, layers: list[_Layer]) -> None:
        self.records = -(-records // _ROWS) * _ROWS
        self.outputs = [torch.empty(self.records, len(layer.start)) for layer in layers]
        self.slopes = [torch.empty(self.records, len(layer.weight)) for layer in layers]  # of each layer's outputs
        self.squared = torch.empty(len(layers), 2, self.records, dtype=torch.float64)  # of inputs and slopes
        self.lengths = [pair.unbind() for pair in self.squared.unbind()]
        self.factors = torch.empty(self.records)
        self.norms = torch.empty(self.records, dtype=torch.float64)


class Compact:
    """A straight line of small layers on the CPU, while it is attached."""

    def __init__(self, layers: list[_Layer], flattens: bool, passes: Passes) -> None:
        self._passes = passes
        self._layers, self._flattens = layers, flattens
        self._room = _Room(0, layers)
        self._sum: FlatSum | None = None
        self._parts: list[tuple[Tensor, Tensor | None]] = []  # of the sum: each layer's weight and bias

    def fits(self, batch: Examples) -> bool:
        """Whether these records are of the form that is known here: float32 rows on the CPU, each with a class."""
        x, labels = self._rows(batch), batch.labels
        classes = len(self._layers[-1].weight)
        if x.shape != (labels.shape[0], self._layers[0].weight.shape[1]) or not x.is_cpu:
            return False
        if (x.dtype, labels.dtype) != (torch.float32, torch.int64):
            return False
        # One output tells two classes, and any number of a label is a number there.
        return classes == 1 or (int(labels.min()) >= 0 and int(labels.max()) < classes)

    def add(
        self, batch: Examples, clipping_norm: float, sums: tuple[FlatSum, Tensor], weights: Tensor | None
    ) -> Tensor | None:
        """See `clipping.add_clipped`.

        Args:
            batch: records that fit.
            weights: float64 [n], at most 1.
        """
        x, labels, records = self._rows(batch).contiguous(), batch.labels.contiguous(), len(batch)
        if records > self._room.records:
            self._room = _Room(records, self._layers)
        room = self._room
        inputs = [x, *room.outputs]
        self._forward(inputs, records)
        self._backward(inputs[-1], labels, records)
        bounds = (clipping_norm, LARGEST_NORM * clipping_norm)
        given = None if weights is None else weights.double().contiguous()
        if not self._passes.clip(records, room.squared, bounds, given, (room.factors, room.norms)):
            return room.norms[:records] < bounds[1]
        flat, out = sums
        flat.begin(out)
        self._sum_up(inputs, records, flat)
        flat.end(out)
        return None

    def _rows(self, batch: Examples) -> Tensor:
        x = batch.features.detach()
        return x.flatten(1) if self._flattens and x.dim() > 2 else x

    def _forward(self, inputs: list[Tensor], records: int) -> None:
        for number, layer in enumerate(self._layers):
            width = layer.weight.shape[1]
            more = lost(width) + (layer.bias is not None)  # a bias has an input of 1
            self._passes.measure(records, inputs[number], width, more, self._room.lengths[number][0])
            self._passes.lay(layer.weight, layer.bias, layer.turned, layer.start)
            self._passes.multiply(records, inputs[number], layer.turned, layer.start, inputs[number + 1])
            if layer.activation is not None:
                layer.activation.in_place(self._room.outputs[number][:records, : len(layer.weight)])

    def _backward(self, outputs: Tensor, labels: Tensor, records: int) -> None:
        room = self._room
        self._passes.slopes(records, outputs, labels, room.slopes[-1])
        for number in range(len(self._layers) - 1, -1, -1):
            layer, slopes = self._layers[number], room.slopes[number]
            g, width = slopes, len(layer.weight)
            if layer.activation is not None:
                layer.activation.back(slopes[:records], room.outputs[number][:records, :width])
            self._passes.measure(records, g, width, lost(width), room.lengths[number][1])
            if number:
                self._passes.multiply(records, g, layer.weight, layer.zeros, room.slopes[number - 1])

    def _sum_up(self, inputs: list[Tensor], records: int, flat: FlatSum) -> None:
        if self._sum is not flat:
            self._sum, self._parts = flat, [_parts(layer.dense, flat) for layer in self._layers]
        factors = self._room.factors
        for number, layer in enumerate(self._layers):
            a, g, (weight, bias) = inputs[number], self._room.slopes[number], self._parts[number]
            if layer.summed is None:
                self._passes.add_outer(records, factors, g, a, weight)
            else:
                layer.summed.zero_()
                self._passes.add_outer(records, factors, a, g, layer.summed)
                self._passes.add_turned(layer.summed, weight)
            if bias is not None:
                self._passes.add_rows(records, factors, g, bias)


def compact(line: StraightLine) -> Compact | None:
    """The line with compiled passes; None where there are none, or a layer is large, elsewhere, or no layer at all."""
    layers, waiting, compiled = list[_Layer](), list(line.layers), library()
    if compiled is None:
        return None
    while waiting:
        dense, following = waiting.pop(0), None
        if not isinstance(dense, Dense) or not _is_small(dense):
            return None
        if waiting and not isinstance(waiting[0], Dense):
            following = ACTIVATIONS[waiting[0]]
            waiting.pop(0)
        layers.append(_Layer.of(dense, following))
    return Compact(layers, line.flattens, Passes(compiled))


def _is_small(dense: Dense) -> bool:
    given = [dense.layer.weight] if dense.layer.bias is None else [dense.layer.weight, dense.layer.bias]
    # Larger ones are worth the products of `matmul`.
    return (
        0 < dense.layer.weight.numel() < WORTH_IT
        and max(dense.layer.weight.shape) <= _WIDEST
        and all(each.dtype is torch.float32 and each.device.type == "cpu" and each.is_contiguous() for each in given)
    )


def _parts(dense: Dense, flat: FlatSum) -> tuple[Tensor, Tensor | None]:
    return flat.of(dense.weight), None if dense.bias is None else flat.of(dense.bias)
