"""`ClippedSum` by book-keeping: one forward pass, one backward pass, norms and sums from what the layers noted.

A layer is taught by replacing its forward pass while the engine is attached: no hooks, and no name of the model
changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.clipping import add_clipped, norms_of
from lepton_fl.training.bookkeeping.compact import Compact, compact
from lepton_fl.training.bookkeeping.flat_sum import FlatSum
from lepton_fl.training.bookkeeping.pieces import Piece
from lepton_fl.training.bookkeeping.portions import MOST, portions, taken
from lepton_fl.training.bookkeeping.rules import RULES
from lepton_fl.training.bookkeeping.straight import StraightLine, straight_line
from lepton_fl.training.bookkeeping.tape import Tape
from lepton_fl.training.clipped_sum import refuse_tied_parameters, weights_of
from lepton_fl.training.examples import Examples, per_record_loss
from lepton_fl.training.flat import Slot


@dataclass(frozen=True)
class _Attached:
    model: nn.Module
    trained: tuple[tuple[str, nn.Parameter], ...]
    starts: tuple[int, ...]  # of each trained parameter in the flat vector
    taught: tuple[nn.Module, ...]
    was_training: tuple[tuple[nn.Module, bool], ...]
    size: int  # d
    straight: StraightLine | None  # the model, where it needs no autograd
    compact: Compact | None  # and where it is small


class BookKeeping:
    """Clipped sums at about the price of a plain step; for models all of whose layers have a rule."""

    most_in_float32 = MOST

    def __init__(self) -> None:
        self._tape = Tape()
        self._attached: _Attached | None = None
        self._layout: tuple[tuple[Slot, ...], ...] = ()  # of the pieces that were found complete
        self._flat: FlatSum | None = None  # of float32, as every sum over one portion
        self._narrow: FlatSum | None = None  # the last step's own, where that was of float32

    def attach(self, model: nn.Module) -> None:
        """See `ClippedSum.attach`."""
        if self._attached is not None:
            raise UnsupportedModel("the engine is attached to a model already; nothing was trained; this is a bug")
        refuse_tied_parameters(model)
        _refuse_coupling(model)
        stranger = without_rule(model)
        if stranger is not None:
            raise UnsupportedModel(f"book-keeping has no rule for {stranger}; nothing was trained; use another engine")
        trained = tuple((name, p) for name, p in model.named_parameters() if p.requires_grad)
        slots, starts = dict[torch.Tensor, Slot](), list[int]()
        start = 0
        for _, parameter in trained:
            slots[parameter] = Slot(start, tuple(parameter.shape))
            starts.append(start)
            start += parameter.numel()
        straight = straight_line(model, slots)
        small = None if straight is None else compact(straight)
        layers = [layer for _, layer in _layers(model)]
        forwards = [
            RULES[type(layer)](layer, {name: slots.get(p) for name, p in layer.named_parameters()}, self._tape)
            for layer in layers
        ]
        was_training = tuple((module, module.training) for module in model.modules())
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward
        model.train()
        self._attached = _Attached(model, trained, tuple(starts), tuple(layers), was_training, start, straight, small)

    def detach(self) -> None:
        """See `ClippedSum.detach`."""
        if self._attached is None:
            return
        for layer in self._attached.taught:
            del layer.forward
        for module, was_training in self._attached.was_training:
            module.training = was_training
        for _, parameter in self._attached.trained:
            parameter.grad = None
        self._tape.clear()
        self._attached, self._layout, self._flat, self._narrow = None, (), None, None

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        """See `ClippedSum.add`."""
        if self._attached is None:
            raise UnsupportedModel("the model is not attached; this is a bug")
        if owners is not None:
            owners = owners.to(out.device)
        if out.dtype is torch.float32 and len(batch) > MOST:
            raise UnsupportedModel(f"float32 adds up {MOST} records at most, and here are {len(batch)}; this is a bug")
        sums = (self._sum_for(out, self._attached.size), out)
        for part, of in portions(batch, owners):
            self._add(part, clipping_norm, (self._attached, sums), of)

    def _sum_for(self, out: Tensor, size: int) -> FlatSum:
        """`out` itself where it is of float32; else memory for one portion's sum."""
        if out.dtype is torch.float32:
            if self._narrow is None or self._narrow.vector is not out:
                self._narrow = FlatSum(out)
            return self._narrow
        if self._flat is None:
            self._flat = FlatSum(torch.empty(size, device=out.device))
        return self._flat

    def _add(
        self,
        batch: Examples,
        clipping_norm: float,
        into: tuple[_Attached, tuple[FlatSum, Tensor]],
        owners: Tensor | None,
    ) -> None:
        attached, sums = into
        while len(batch):
            weights = weights_of(batch, owners)
            # Which way is taken depends on no single record's numbers: both round otherwise.
            if owners is None and attached.compact is not None and attached.compact.fits(batch):
                kept = attached.compact.add(batch, clipping_norm, sums, weights)
            else:
                pieces = self._pieces(batch, attached)
                with torch.no_grad():
                    kept = add_clipped(pieces, clipping_norm, sums, (owners, weights))
            if kept is None:
                return
            # Again without the broken records: 0 * NaN is NaN, so no factor takes them out of a product of matrices.
            batch, owners = taken(batch, owners, kept.nonzero()[:, 0])

    def norms(self, batch: Examples) -> Tensor:
        """Of each record's gradient, before clipping, float64 [n]: for tests and measurements, never for release."""
        if self._attached is None:
            raise UnsupportedModel("the model is not attached; this is a bug")
        return norms_of(self._pieces(batch, self._attached))

    def _pieces(self, batch: Examples, attached: _Attached) -> list[Piece]:
        """What every layer adds to the gradients of these records; no gradient of a parameter is left or changed."""
        if attached.straight is not None:
            with torch.no_grad():
                pieces = attached.straight.pieces(batch)
            if pieces is not None:
                return pieces
        before = [parameter.grad for _, parameter in attached.trained]
        for _, parameter in attached.trained:
            parameter.grad = None
        self._tape.clear()
        try:
            per_record_loss(attached.model(batch.features), batch.labels).sum().backward()
            pieces = self._tape.pieces()
            for name, parameter in attached.trained:
                if parameter.grad is not None:
                    raise UnsupportedModel(
                        f"parameter {name} is used outside of its layer's forward pass; nothing was released; use the "
                        "layer"
                    )
            layout = tuple(piece.slots for piece in pieces)
            if layout != self._layout:
                _refuse_untaped(attached, pieces)
                self._layout = layout
            _refuse_shared_rows(attached, pieces, len(batch))
        finally:
            self._tape.clear()
            for (_, parameter), gradient in zip(attached.trained, before, strict=True):
                parameter.grad = gradient
        return pieces


def without_rule(model: nn.Module) -> str | None:
    """The first trained layer that book-keeping does not know, with its type; None if it knows them all."""
    for name, layer in _layers(model):
        # Whatever else was attached to a layer could compute with its parameters too.
        is_bare = "forward" not in vars(layer) and not layer._forward_pre_hooks
        if type(layer) not in RULES or not is_bare:
            return f"layer {name or 'the model itself'} ({type(layer).__name__})"
    return None


def _layers(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Whatever has trained parameters of its own, or a rule; what is inside of the latter is the rule's."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return
    if type(model) in RULES or any(p.requires_grad for p in model.parameters(recurse=False)):
        yield name, model
    if type(model) not in RULES:
        for child_name, child in model.named_children():
            yield from _layers(child, f"{name}.{child_name}" if name else child_name)


def _refuse_coupling(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise UnsupportedModel(
                f"layer {name} ({type(module).__name__}) mixes the records of a batch; nothing was trained; choose a "
                "model whose layers treat each record alone (GroupNorm instead of BatchNorm)"
            )
    for name, _ in model.named_buffers():
        raise UnsupportedModel(
            f"buffer {name} would carry values computed from records past the noise; nothing was trained; choose "
            "layers without buffers"
        )


def _refuse_untaped(attached: _Attached, pieces: list[Piece]) -> None:
    """Every trained parameter took part, through its own layer and in one way."""
    places = sorted((slot.start, slot.start + slot.numel) for piece in pieces for slot in piece.slots)
    covered = {start for start, _ in places}
    for (name, _), start in zip(attached.trained, attached.starts, strict=True):
        if start not in covered:
            raise UnsupportedModel(
                f"parameter {name} takes no part in the model's output; nothing was released; remove it or freeze it"
            )
    # Squared norms add up where pieces are of different parameters: two of the same one would hide a part of its norm.
    if any(end > start for (_, end), (start, _) in pairwise(places)):
        raise UnsupportedModel(
            "a layer's parameters are used in two ways, as in attention of a sequence to itself and to another one; "
            "nothing was released; use two layers"
        )


def _refuse_shared_rows(attached: _Attached, pieces: list[Piece], records: int) -> None:
    """Every layer saw one row for each record."""
    for piece in pieces:
        if piece.records != records:
            first = piece.slots[0].start
            name = [n for (n, _), start in zip(attached.trained, attached.starts, strict=True) if start <= first][-1]
            raise UnsupportedModel(
                f"the layer of parameter {name} does not see one row for each record, so no record's influence is "
                "bounded; nothing was released; keep records in the first dimension"
            )
