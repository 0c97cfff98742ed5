"""The sum of many institutions' updates, where nobody needs a single one: their weights are hardly ever written down.

After s steps of SGD an institution's weights are k W - sum over steps of c G^T A, with the round's model W, and the
inputs A and scaled output gradients G of a layer in each step. So what a layer makes of a batch is the product with W,
which is the same for everybody and one large product for all of them, and a correction by the products of this batch's
inputs with earlier ones: worth it while an institution's records are fewer than a layer is wide. The updates' sum is
one more large product. A layer that is narrower is written down for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from lepton_fl.training.cohort.chunks import Descent, Records
from lepton_fl.training.cohort.dense import Counted, Stand, Start, Unwritten, Walk, Written
from lepton_fl.training.cohort.layers import Bend, Dense, Flat, Layer, bends_of
from lepton_fl.training.cohort.losses import goals_of, slopes_of
from lepton_fl.training.cohort.walk import Walker


def is_worth_it(layers: Sequence[Layer], records: int) -> bool:
    """Whether corrections cost less than weights that are written down."""
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    is_dense_first = isinstance(next(one for one in layers if not isinstance(one, Flat)), Dense)
    return is_dense_first and sum(_corrections(one, records) - one.weight.numel for one in dense) <= 0


def _corrections(layer: Dense, records: int) -> int:
    """The numbers of which a layer's corrections are made."""
    return records * sum(layer.weight.shape)


class Factored:
    """A dense network's sums of updates, in memory and views of it that are used again by a chunk that is alike."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """
        Args:
            layers: of which the first that is not flat is dense.
        """
        self._layers = [
            (one, Unwritten(one), Written(one)) if isinstance(one, Dense) else one
            for one in layers
            if not isinstance(one, Flat)
        ]
        self._program: list[Unwritten | Written | Bend] = []
        self._dense: list[Unwritten | Written] = []
        self._steps: list[slice] = []
        self._fitting: tuple[object, ...] = ()
        self._features = torch.empty(0)
        dense = [one for one in layers if isinstance(one, Dense)]
        self._outputs = dense[-1].weight.shape[0] if dense else 0
        self._widths = [(one.weight.shape[1], one.weight.shape[0]) for one in dense]
        self._bends = bends_of(layers)
        self._walker: Walker | None = None

    def summed(
        self, values: Sequence[Tensor], records: Records, descent: Descent, weights: Sequence[int]
    ) -> Tensor | None:
        """The sum of weight * (values - start) over the members, float32 [d]; None where a value may be out of range.

        Args:
            values: the start's, float32, as its state has them.
            weights: of each member.
        """
        device, ends = records.features.device, list(accumulate((one.numel() for one in values), initial=0))
        start = Start(dict(zip(ends, values, strict=False)), descent)
        total = torch.empty(ends[-1], device=device)
        # Every call is a little cheaper so, which is seen where calls are carried out at once.
        with torch.inference_mode() if device.type == "cpu" else torch.no_grad():
            return total if self._is_written(start, records, weights, total) else None

    def _is_written(self, start: Start, records: Records, weights: Sequence[int], total: Tensor) -> bool:
        """Whether no value may be out of range; the sum is in `total` then."""
        first, descent = self._fit(records), start.descent
        for one in self._dense:
            one.begin(start)
        held = [one.walked() for one in self._dense]
        if self._walker is not None and self._walker.can_take(held, records):
            squares: Sequence[Sequence[float]] = self._walker.take(held, records, descent)
        else:
            self._train(first, records, descent)
            squares = [one.squares() for one in self._dense]
        steps = len(self._steps)
        walk = Walk(descent.of_start(steps), descent.of_steps(steps), records.sizes)
        if not all(one.is_in_range(walk, own) for one, own in zip(self._dense, squares, strict=True)):
            return False
        counted = _counted(weights, walk, total.device)
        for one in self._dense:
            one.write_to(total, counted)
        return True

    def _fit(self, records: Records) -> Unwritten:
        """There is room for such records; the first layer, which knows its inputs."""
        rows, device = records.labels.shape, records.features.device
        is_new = self._fitting != (fitting := (rows, records.sizes, device))
        if is_new:
            ends = accumulate(records.sizes)
            self._steps = [slice(end - size, end) for end, size in zip(ends, records.sizes, strict=True)]
            self._program = [self._chosen(number, rows[1]) for number in range(len(self._layers))]
            self._dense = [one for one in self._program if not isinstance(one, Bend)]
            for one in self._dense:
                one.fit(rows, self._steps, device)
                if isinstance(one, Unwritten) and one is not self._program[0]:
                    one.see(self._steps)
            if self._bends is not None:
                self._walker = Walker(self._bends, self._widths, records.sizes)
            self._fitting = fitting
        first = self._program[0]
        assert isinstance(first, Unwritten)  # noqa: S101 - for the type checker
        if is_new or self._features is not records.features:
            first.see(self._steps, records.features.view(*rows, -1))
            self._features = records.features
        return first

    def _chosen(self, number: int, records: int) -> Unwritten | Written | Bend:
        layer = self._layers[number]
        if isinstance(layer, Bend):
            return layer
        dense, unwritten, written = layer
        # What the start makes of the first layer's inputs is one product for all steps.
        return written if number and _corrections(dense, records) > dense.weight.numel else unwritten

    def _train(self, first: Unwritten, records: Records, descent: Descent) -> None:
        """All steps of every member."""
        shares = records.shares.unsqueeze(-1)
        held = first.of_start(first.inputs), shares, goals_of(records.labels, shares, self._outputs)
        # Of each step: what the start makes of the first layer's inputs, its records' shares and goals.
        parts = zip(*(one.split(list(records.sizes), 1) for one in held), strict=True)
        for step, (of_start, share, goal) in enumerate(parts):
            at = _stand(descent, records.sizes[:step], shares.device)
            x = first.corrected(of_start, step, at)
            outputs = [x]
            for one in self._program[1:]:
                x = one.forward(x) if isinstance(one, Bend) else one.forward(x, step, at)
                outputs.append(x)
            g = slopes_of(x, share, goal)
            for number in range(len(outputs) - 1, 0, -1):
                one = self._program[number]
                if isinstance(one, Bend):
                    g = one.backward(g, outputs[number])
                else:
                    below = one.backward(g, step, at)
                    one.descend(g, step)
                    g = below
            first.descend(g, step)


def _stand(descent: Descent, sizes: Sequence[int], device: torch.device) -> Stand:
    """After steps of so many records."""
    # Without a decay each step is taken off alike.
    taken = descent.rate if descent.keep == 1.0 else _of_records(descent.of_steps(len(sizes)), sizes).to(device)
    return Stand(descent.of_start(len(sizes)), taken)


def _counted(weights: Sequence[int], walk: Walk, device: torch.device) -> Counted:
    of_start = (walk.of_start - 1.0) * sum(weights)
    if len({*weights}) == len({*walk.taken}) == 1:
        return Counted(float(weights[0]), of_start, -weights[0] * walk.taken[0])
    members = torch.tensor(weights, dtype=torch.float32)
    of_records = (members[:, None] * -_of_records(walk.taken, walk.sizes)).flatten()
    return Counted(members.to(device), of_start, of_records.to(device))


def _of_records(of_steps: Sequence[float], sizes: Sequence[int]) -> Tensor:
    return torch.tensor(of_steps).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
