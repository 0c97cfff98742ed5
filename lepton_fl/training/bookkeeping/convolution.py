"""Convolutions of one, two and three dimensions.

A record's weight gradient is g U^T, where U [d, L] has the patch under each of the L outputs as a column and g is
[p, L]. It is kept where it is small beside the layer's input and output; else only its norm is worked out, from itself
or from Gram matrices, whichever takes fewer multiplications, and the clipped sum is one convolution more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.kept import Kept
from lepton_fl.training.bookkeeping.lengths import LEAST_SHARE, squares
from lepton_fl.training.bookkeeping.pieces import Explicit, Piece, Product, Regroup
from lepton_fl.training.bookkeeping.tape import Forward, Place, Slots, Tape
from lepton_fl.training.flat import Slot

_BLOCK, _BLOCK_GPU = 1 << 19, 1 << 26  # numbers that are worked on at once: on a CPU, what fits into a core's cache
# Added up one after the other in float32, at no loss of speed: two million pixels that are alike would round their sum
# by a percent.
_POSITIONS = 1 << 14
_LANES = 8  # channels that are worked on at once
_KEPT = 3  # times input and output: the most that the records' own weight gradients may take
_CHEAPER = 4  # times fewer multiplications pay for Gram matrices


@dataclass(frozen=True)
class Geometry:
    """How the kernel moves over an input that is padded with zeros; one number for each dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def uses(self) -> int:
        """In how many outputs an input has a part, at most."""
        sizes = zip(self.kernel, self.stride, self.dilation, strict=True)
        return math.prod(math.ceil(size / step) if apart == 1 else size for size, step, apart in sizes)

    def patches(self, x: Tensor, outputs: tuple[int, ...]) -> Tensor:
        """What the kernel sees at each output, [n * groups, d / groups, L] from [n, channels, ...]."""
        if any(self.padding):
            x = F.pad(x, [pad for pad in reversed(self.padding) for _ in range(2)])
        records, channels, strides = x.shape[0], x.shape[1], x.stride()
        inside = [step * each for step, each in zip(strides[2:], self.dilation, strict=True)]
        outside = [step * each for step, each in zip(strides[2:], self.stride, strict=True)]
        shape, steps = (records, channels, *self.kernel, *outputs), (*strides[:2], *inside, *outside)
        size = channels // self.groups * math.prod(self.kernel)
        return x.as_strided(shape, steps).reshape(records * self.groups, size, math.prod(outputs))


@dataclass(frozen=True)
class Convolution:
    """A convolution's gradients, by its input and its output's gradient."""

    geometry: Geometry
    weight: Slot
    bias: Slot | None
    x: Tensor  # [n, channels, ...]
    g: Tensor  # [n, p, ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """See `Piece.slots`."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def records(self) -> int:
        """See `Piece.records`."""
        return self.x.shape[0]

    @property
    def kept(self) -> Piece:
        """The same piece in the form that it is kept in."""
        most = _KEPT * (self.x[:1].numel() + self.g[:1].numel())
        if self.weight.numel > most or self._is_gram_cheaper(_CHEAPER):
            return self
        return Kept.of(self.weight, (rows for _, rows in self._rows()), self._biases())

    def squared_norms(self) -> Tensor:
        """See `Piece.squared_norms`."""
        if not self._is_gram_cheaper():
            found = torch.cat([squares(rows) for _, rows in self._rows()])
            # The sum is worked out another way, so it rounds otherwise: see LEAST_SHARE.
            longest = squares(self.x.flatten(1)).mul_(squares(self.g.flatten(1))).mul_(self.geometry.uses)
            found = torch.maximum(found, longest.mul_(LEAST_SHARE**2))
            return sum((piece.squared_norms() for piece in self._biases()), found)
        biases = () if self.bias is None else (self.bias,)
        slot = Slot(0, (self.weight.shape[0] // self.geometry.groups, math.prod(self.weight.shape[1:])))
        norms = []
        for _, g, patches in self._blocks():
            group = Product(((slot, patches.transpose(1, 2)),), biases, g.transpose(1, 2))
            norms.append(group.squared_norms().view(-1, self.geometry.groups).sum(dim=1))
        return torch.cat(norms)

    def add(self, factors: Tensor, flat: FlatSum) -> None:
        """See `Piece.add`."""
        made, zeros = self.geometry, (0,) * len(self.geometry.kernel)
        weight = self.x.new_empty(1).expand(self.weight.shape)  # its shape alone is read
        how = (made.stride, made.padding, made.dilation, False, zeros, made.groups, (False, True, False))
        scale = factors.view(-1, *(1,) * (self.g.dim() - 1))
        some = max(1, _POSITIONS // max(1, self.g.shape[2:].numel()))
        for x, g, each in zip(self.x.split(some), self.g.split(some), scale.split(some), strict=True):
            scaled = g * each
            flat.of(self.weight).add_(torch.ops.aten.convolution_backward(scaled, x, weight, None, *how)[1])
            if self.bias is not None:
                flat.of(self.bias).add_(scaled.flatten(2).sum(dim=(0, 2)))

    def of_owners(self, regroup: Regroup) -> Piece:
        """See `Piece.of_owners`; never more than a block of the records' own gradients is there at once."""
        total = self.g.new_zeros(regroup.count, self.weight.numel)
        for block, rows in self._rows():
            total.index_add_(0, regroup.owners[block], rows * regroup.shares[block, None])
        biases = [piece.of_owners(regroup).explicit() for piece in self._biases()]
        return Explicit(((self.weight, total), *(part for piece in biases for part in piece.parts)))

    def joined(self, other: Piece) -> Piece:
        """See `Piece.joined`."""
        return self.explicit().joined(other)

    def explicit(self) -> Explicit:
        """See `Piece.explicit`."""
        rows = torch.cat([rows for _, rows in self._rows()])
        return Explicit(((self.weight, rows), *(part for piece in self._biases() for part in piece.parts)))

    def _biases(self) -> tuple[Explicit, ...]:
        return () if self.bias is None else (Explicit(((self.bias, self.g.flatten(2).sum(dim=2)),)),)

    def _is_gram_cheaper(self, times: int = 1) -> bool:
        positions, outputs = math.prod(self.g.shape[2:]), self.weight.shape[0] // self.geometry.groups
        inputs = math.prod(self.weight.shape[1:])
        return times * positions * (inputs + outputs) < inputs * outputs

    def _rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of the records' own weight gradients, [m, numel]; on a CPU, each record is a convolution's group."""
        made = self.geometry
        if self.x.device.type != "cpu":
            for block, g, patches in self._blocks():
                yield block, torch.bmm(g, patches.transpose(1, 2)).view(-1, self.weight.numel)
            return
        zeros, weight = (0,) * len(made.kernel), self.x.new_empty(1)  # its shape alone is read
        for block in self._cut(self.x[:1].numel() + self.g[:1].numel() + self.weight.numel):
            x, g = self.x[block], self.g[block]
            groups, shape = len(x) * made.groups, (len(x) * self.weight.shape[0], *self.weight.shape[1:])
            how = (made.stride, made.padding, made.dilation, False, zeros, groups, (False, True, False))
            one = (g.reshape(1, -1, *g.shape[2:]), x.reshape(1, -1, *x.shape[2:]), weight.expand(shape), None)
            yield block, torch.ops.aten.convolution_backward(*one, *how)[1].view(-1, self.weight.numel)

    def _blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some records at a time: which, their g [m * groups, p / groups, L], their patches [m * groups, ..., L]."""
        outputs, groups = tuple(self.g.shape[2:]), self.geometry.groups
        g = self.g.reshape(self.records, groups, -1, math.prod(outputs))
        for block in self._cut(self.x.shape[1] * math.prod(self.geometry.kernel) * math.prod(outputs)):
            yield block, g[block].flatten(0, 1), self.geometry.patches(self.x[block], outputs)

    def _cut(self, numbers: int) -> Iterator[slice]:
        """Blocks of records that need so many numbers each."""
        step = max(1, (_BLOCK if self.x.device.type == "cpu" else _BLOCK_GPU) // numbers)
        for start in range(0, self.records, step):
            yield slice(start, min(start + step, self.records))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, made: Geometry, place: Place) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.made, ctx.place = made, place
        zeros = (0,) * len(made.kernel)
        return torch.convolution(x, weight, bias, made.stride, made.padding, made.dilation, False, zeros, made.groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        place, made = ctx.place, ctx.made
        g = g.contiguous()
        if place.weight is None:
            place.note(Explicit(((place.bias, g.flatten(2).sum(dim=2)),)))
        else:
            place.note(Convolution(made, place.weight, place.bias, x, g).kept)
        into = None
        if ctx.needs_input_grad[0]:
            zeros = (0,) * len(made.kernel)
            how = (made.stride, made.padding, made.dilation, False, zeros, made.groups, (True, False, False))
            into = torch.ops.aten.convolution_backward(g, x, weight, None, *how)[0]
        return into, None, None, None, None


def convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.Conv1d`, `nn.Conv2d` and `nn.Conv3d`, with any stride, padding, dilation and groups."""
    place = Place(slots["weight"], slots.get("bias"), tape, layer)
    kernel, dilation = tuple(layer.kernel_size), tuple(layer.dilation)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    around = _around(layer.padding, kernel, dilation)
    is_even = mode == "constant" and all(before == after for before, after in around)
    padding = tuple(before for before, _ in around) if is_even else (0,) * len(kernel)
    made = Geometry(kernel, tuple(layer.stride), padding, dilation, layer.groups)

    def forward(x: Tensor) -> Tensor:
        if x.dim() != len(kernel) + 2:
            raise UnsupportedModel(
                "a convolution is given one record without a dimension for records; nothing was released; keep records "
                "in the first dimension"
            )
        if not is_even:
            x = F.pad(x, [each for pair in reversed(around) for each in pair], mode)
        if place.is_frozen:
            zeros = (0,) * len(kernel)
            how = (made.stride, made.padding, made.dilation, False, zeros, made.groups)
            return torch.convolution(x, layer.weight, layer.bias, *how)
        given = (layer.weight, layer.bias, made, place)
        output: Tensor = _Convolution.apply(x, *given)  # type: ignore[no-untyped-call]
        return _channels_last(output)

    return forward


def _channels_last(images: Tensor) -> Tensor:
    """The same numbers in the order that a CPU pools, and convolves again, several times faster in."""
    is_faster = images.dim() == 4 and images.device.type == "cpu" and images.shape[1] >= _LANES
    return images.contiguous(memory_format=torch.channels_last) if is_faster else images


def _around(
    padding: str | tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[tuple[int, int]]:
    """What is added before and after each dimension."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        missing = [each * (size - 1) for each, size in zip(dilation, kernel, strict=True)]
        return [(number // 2, number - number // 2) for number in missing]
    return [(int(number), int(number)) for number in padding]
