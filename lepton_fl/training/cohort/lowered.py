"""Dense networks of many institutions as batched matrix products: no autograd, no record's gradient in memory.

Each layer's weights are [members, out, in]; a step without privacy is added to them inside the product that makes the
gradient. Under privacy a record's gradient norm follows from the norms of a layer's input and of its output's gradient,
and the clipped sum is one product more.

Source: Goodfellow 2015, "Efficient Per-Example Gradient Computations" (norms); Lee and Kifer 2021, "Scaling up
Differentially Private Deep Learning with Fast Per-Example Gradient Clipping" (products of scaled gradients).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.clipped_sum import LARGEST_NORM
from lepton_fl.training.cohort import products
from lepton_fl.training.cohort.chunks import Batch, Descent, Records
from lepton_fl.training.cohort.clipped import clipped_sums
from lepton_fl.training.cohort.factored import Factored, is_worth_it
from lepton_fl.training.cohort.layers import BENDS, Bend, Dense, Flat, Layer
from lepton_fl.training.cohort.losses import losses_and_slopes
from lepton_fl.training.cohort.slots import no_rule, slots_of
from lepton_fl.training.flat import Slot


def lower(model: nn.Module) -> tuple[Layer, ...]:
    """The model as layers of this module.

    Raises:
        UnsupportedModel: naming the layer that there is no rule for.
    """
    places = slots_of(model)
    layers = tuple(_layers("", model, places))
    used = sum(slot.numel for one in layers if isinstance(one, Dense) for slot in _slots(one))
    if used != sum(slot.numel for slot in places.values()):
        raise no_rule("a parameter that two layers share, or none uses")
    return layers


def _slots(layer: Dense) -> list[Slot]:
    return [slot for slot in (layer.weight, layer.bias) if slot is not None]


def _layers(name: str, module: nn.Module, places: dict[str, Slot]) -> Iterator[Layer]:
    kind, prefix = type(module), f"{name}." if name else ""
    if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise no_rule(f"{name or 'the model'}, whose forward is not its type's own")
    if kind is nn.Sequential:
        for child, one in module.named_children():
            yield from _layers(f"{prefix}{child}", one, places)
    elif kind is nn.Linear:
        yield Dense(places[f"{prefix}weight"], places.get(f"{prefix}bias"))
    elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        yield Flat()
    elif kind in BENDS:
        yield BENDS[kind]
    elif kind is not nn.Identity:
        raise no_rule(f"layer {name or 'the model'} ({kind.__name__})")


@dataclass(frozen=True)
class _Passed:
    """A layer that records went through, with its input; of a bend its output."""

    layer: Layer
    seen: Tensor


@dataclass(frozen=True)
class _Factors:
    """A dense layer's, whose product is a member's clipped sum, member by member."""

    layer: Dense
    slopes: Sequence[Tensor]  # [1, out, records]
    seen: Sequence[Tensor]  # [1, records, in]
    of_bias: Sequence[Tensor]  # the slopes, [records, out]

    def views(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where the layer's weight, [1, out, in], and bias lie in a vector [d]."""
        return self.layer.weight.of(out)[None], None if self.layer.bias is None else self.layer.bias.of(out)


class Lowered:
    """See `together.Gradients`."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = lower(model)
        self._factored = Factored(self._layers)
        self._clipped_sums = clipped_sums(self._layers)

    def plain(self, values: Tensor, batch: Batch, shares: Tensor, out: Tensor) -> Tensor:
        """See `together.Gradients.plain`."""
        outputs, passed = self._forward(values, batch.features)
        losses, slopes = losses_and_slopes(outputs, batch.labels)
        for layer, seen, g in _backward(passed, values, slopes.mul_(shares.unsqueeze(-1))):
            products.add_product(layer.weight.of(out), g.transpose(1, 2), seen, keep=0.0)
            if layer.bias is not None:
                torch.sum(g, 1, out=layer.bias.of(out))
        return losses

    def descend(self, values: Tensor, batch: Batch, shares: Tensor, descent: Descent, out: Tensor) -> Tensor:
        """out = keep * values - rate * gradient, without the gradient in memory; `out` may be `values`."""
        outputs, passed = self._forward(values, batch.features)
        losses, slopes = losses_and_slopes(outputs, batch.labels)
        members = len(out)
        for layer, seen, g in _backward(passed, values, slopes.mul_(shares.unsqueeze(-1))):
            before = layer.weight.of(values).expand(members, -1, -1)
            products.add_product(layer.weight.of(out), g.transpose(1, 2), seen, descent.keep, -descent.rate, before)
            if layer.bias is not None:
                torch.add(layer.bias.of(values) * descent.keep, g.sum(1), alpha=-descent.rate, out=layer.bias.of(out))
        return losses

    def is_worth_summing(self, records: int) -> bool:
        """See `together.Summing`."""
        return is_worth_it(self._layers, records)

    def summed(
        self, values: Sequence[Tensor], records: Records, descent: Descent, weights: Sequence[int]
    ) -> Tensor | None:
        """See `together.Summing`."""
        return self._factored.summed(values, records, descent, weights)

    def clipped(self, values: Tensor, batch: Batch, target: float, rows: Sequence[Tensor]) -> Iterator[int]:
        """See `together.Gradients.clipped`."""
        if self._clipped_sums is not None and self._clipped_sums.can_take(values, batch):
            yield from self._clipped_sums.clipped(values, batch, target, rows)
            return
        factors: list[_Factors] = []
        for layer, seen, g in self._clipped(values, batch, target):
            factors.append(_Factors(layer, g.transpose(1, 2).split(1), seen.split(1), g.unbind()))
        views, of = list[tuple[Tensor, Tensor | None]](), None
        for member, out in enumerate(rows):
            if out is not of:  # a view costs as much as a small product
                views, of = [one.views(out) for one in factors], out
            for one, (weight, bias) in zip(factors, views, strict=True):
                products.add_product(weight, one.slopes[member], one.seen[member], keep=0.0)
                if bias is not None:
                    torch.sum(one.of_bias[member], 0, out=bias)
            yield member

    def _clipped(self, values: Tensor, batch: Batch, target: float) -> Iterator[tuple[Dense, Tensor, Tensor]]:
        """Each dense layer, its inputs, and its output's gradients times each record's factor."""
        outputs, passed = self._forward(values, batch.features)
        _, slopes = losses_and_slopes(outputs, batch.labels)
        found = list(_backward(passed, values, slopes.mul_(batch.present.unsqueeze(-1))))
        squares = torch.zeros(batch.labels.shape, dtype=torch.float64, device=values.device)
        for layer, seen, g in found:
            has_bias = int(layer.bias is not None)
            squares += _squares(g) * (_squares(seen) + has_bias)
        norms = squares.sqrt_()
        # NaN and infinity fail the comparison; so does a norm whose factor would lose its bits in float32.
        bad = ~(norms < LARGEST_NORM * target)
        norms = torch.where(bad, 0.0, norms)
        factors = target / norms.clamp(min=target)
        if batch.weights is not None:
            factors = factors * batch.weights.to(factors.device)
        factors32, any_bad = factors.to(torch.float32).unsqueeze(-1), bool(bad.any())
        for layer, seen, g in found:
            scaled, inputs = g * factors32, seen
            if any_bad:  # 0 * NaN would be NaN, in the whole sum
                scaled, inputs = (one.masked_fill(bad.unsqueeze(-1), 0.0) for one in (scaled, seen))
            yield layer, inputs, scaled

    def _forward(self, values: Tensor, x: Tensor) -> tuple[Tensor, list[_Passed]]:
        passed = []
        for layer in self._layers:
            if isinstance(layer, Flat):
                x = x.flatten(2)
            elif isinstance(layer, Dense):
                passed.append(_Passed(layer, x))
                x = _dense(layer, values, x)
            else:
                x = layer.forward(x)
                passed.append(_Passed(layer, x))
        return x, passed


def _dense(layer: Dense, values: Tensor, x: Tensor) -> Tensor:
    weight, bias = layer.weight.of(values), None if layer.bias is None else layer.bias.of(values)
    if values.dim() == 1:
        return times_transposed(x.flatten(0, 1), weight, bias).view(*x.shape[:2], -1)
    return products.times_transposed(x, weight, bias)


def _backward(passed: list[_Passed], values: Tensor, g: Tensor) -> Iterator[tuple[Dense, Tensor, Tensor]]:
    """Each dense layer from the last to the first, its input, and its output's gradient.

    What is below a layer is worked out before the layer is told of, so that its weights may change then.
    """
    first = next(number for number, one in enumerate(passed) if isinstance(one.layer, Dense))
    for number in range(len(passed) - 1, first - 1, -1):
        layer, seen = passed[number].layer, passed[number].seen
        if isinstance(layer, Dense):
            below = g
            if number > first:
                weight = layer.weight.of(values)
                below = _of_inputs(g, weight)
            yield layer, seen, g
            g = below
        elif isinstance(layer, Bend):
            g = layer.backward(g, seen)


def _of_inputs(g: Tensor, weight: Tensor) -> Tensor:
    """The gradient by a dense layer's inputs."""
    if weight.dim() == 2:
        return times_transposed(g.flatten(0, 1), weight.t()).view(*g.shape[:2], -1)
    return products.times(g, weight)


def _squares(rows: Tensor) -> Tensor:
    """Of each record's vector, the squared norm, float64 [members, records]."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    return norms.square_()
