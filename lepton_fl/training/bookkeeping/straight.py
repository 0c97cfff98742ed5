"""Dense layers one after the other: forward and backward by hand, since for a small network autograd is half of a step.

The same operations as by the layers' rules and autograd, so the same numbers but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.bookkeeping.pieces import Piece, Product
from lepton_fl.training.examples import Examples, loss_gradient
from lepton_fl.training.flat import Slot

_ops = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """What is done to each output by itself."""

    of: Callable[[Tensor], Tensor]
    in_place: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]  # the gradient of outputs, changed to that of inputs; and the outputs


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(
        torch.relu, torch.relu_, lambda g, y: _ops.threshold_backward.grad_input(g, y, 0, grad_input=g)
    ),
    nn.Tanh: Activation(torch.tanh, torch.tanh_, lambda g, y: _ops.tanh_backward.grad_input(g, y, grad_input=g)),
    nn.Sigmoid: Activation(
        torch.sigmoid, torch.sigmoid_, lambda g, y: _ops.sigmoid_backward.grad_input(g, y, grad_input=g)
    ),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Dense:
    """A trained linear layer."""

    layer: nn.Linear
    weight: Slot
    bias: Slot | None


@dataclass(frozen=True)
class StraightLine:
    """A network of nothing but trained linear layers and activations, after flattening."""

    layers: tuple[Dense | type[nn.Module], ...]
    flattens: bool

    def pieces(self, batch: Examples) -> list[Piece] | None:
        """What the layers add to every record's gradient, last layer first; None for records of another shape."""
        x, kept = batch.features, list[Tensor]()
        if self.flattens and x.dim() > 2:
            x = x.flatten(1)
        if x.dim() != 2 or len(x) != len(batch.labels):
            return None
        is_own = False
        for layer in self.layers:
            if isinstance(layer, Dense):
                kept.append(x)
                x = times_transposed(x, layer.layer.weight, layer.layer.bias)
            else:
                # A layer's outputs are nobody else's; what another activation left is read again on the way back.
                x = ACTIVATIONS[layer].in_place(x) if is_own else ACTIVATIONS[layer].of(x)
                kept.append(x)
            is_own = isinstance(layer, Dense)
        g, found = loss_gradient(x, batch.labels), list[Piece]()
        first = next(number for number, layer in enumerate(self.layers) if isinstance(layer, Dense))
        for number in range(len(self.layers) - 1, first - 1, -1):
            layer = self.layers[number]
            if not isinstance(layer, Dense):
                g = ACTIVATIONS[layer].back(g, kept[number])
                continue
            found.append(Product(((layer.weight, kept[number]),), () if layer.bias is None else (layer.bias,), g))
            if number > first:
                g = times_transposed(g, layer.layer.weight.t())
        return found


def straight_line(model: nn.Module, slots: Mapping[Tensor, Slot]) -> StraightLine | None:
    """The model as a straight line; None if it is none, or if anything else is attached to it."""
    leaves = _leaves(model)
    if leaves is None or sum(isinstance(leaf, nn.Linear) for leaf in leaves) == 0:
        return None
    layers: list[Dense | type[nn.Module]] = []
    for number, leaf in enumerate(leaves):
        if type(leaf) is nn.Flatten:
            if number or (leaf.start_dim, leaf.end_dim) != (1, -1):
                return None
        elif isinstance(leaf, nn.Linear):
            weight, bias = slots.get(leaf.weight), None if leaf.bias is None else slots.get(leaf.bias)
            if weight is None or (leaf.bias is not None and bias is None):
                return None
            layers.append(Dense(leaf, weight, bias))
        else:
            layers.append(type(leaf))
    return StraightLine(tuple(layers), type(leaves[0]) is nn.Flatten)


def _leaves(model: nn.Module) -> list[nn.Module] | None:
    """The layers in their order; None where one is of another kind, there twice, or not as torch made it."""
    modules, found = [model], list[nn.Module]()
    while modules:
        module = modules.pop(0)
        if any(getattr(module, hooks) for hooks in _HOOKS) or "forward" in vars(module):
            return None
        if type(module) is nn.Sequential:
            modules[:0] = list(module)
        elif type(module) in (nn.Linear, nn.Flatten, *ACTIVATIONS):
            found.append(module)
        else:
            return None
    linear = [id(leaf) for leaf in found if isinstance(leaf, nn.Linear)]
    return found if len(set(linear)) == len(linear) else None
