"""A round's mean as its models come: no more of a cohort is in memory than one chunk.

For strategies that need the mean only. Single models are added in the order of names, in float64, so that what comes of
them does not depend on chunks or workers; an executor's sums are float32 already, and depend on chunks by its rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.federation.arrays import Template, refuse_broken, split
from lepton_fl.federation.codec import arrays_in
from lepton_fl.federation.cohort_release import CohortRelease, clipped
from lepton_fl.flower import ArrayRecord, array_record
from lepton_fl.privacy.noise import clip_target

_BLOCK = 1 << 16  # values taken to float64 at once, which stay in a core's cache


@dataclass(frozen=True)
class Folding:
    """How a run's rounds are folded."""

    template: Template
    weight_cap: int  # the most that an institution's weight can count
    release: CohortRelease | None  # under privacy=institution: clipped updates are added up, and the sum gets noise


class Fold:
    """The sum of one round so far."""

    def __init__(self, folding: Folding, before: Tensor, room: Tensor) -> None:
        """
        Args:
            before: float32 [d], the model that was sent out.
            room: float32 [d], which is written to; of use again for the next round, as new pages cost more than a sum.
        """
        self._folding, self._before, self._room = folding, before, room
        self._total: Tensor | None = None  # float64; float32 while it is one sum of an executor's
        self._weight, self._moved, release = 0, 0, folding.release
        self._target = math.inf
        if release is not None:
            mechanism = release.mechanism
            self._target = clip_target(mechanism.clipping_norm, mechanism.stddev, len(before))

    def add(self, values: Tensor, weight: int) -> None:
        """One institution's model, float32 [d], counts with its weight.

        Raises:
            BadArrays: a value is not finite or too large; it counts nothing.
        """
        refuse_broken(values, self._folding.template)
        if self._folding.release is not None:
            self._wide().add_(clipped(values.to(torch.float64) - self._before.to(torch.float64), self._target))
            self._weight = 1
            return
        counted = min(weight, self._folding.weight_cap)
        _add(self._wide(), values, counted)
        self._weight += counted

    def add_sum(self, total: Tensor, weight: int) -> None:
        """Some institutions' models at once, which none can spoil: see `executor.Summed`.

        Args:
            total: float32 [d], the sum of weight * (model - the one sent out).
            weight: of all of them, each within the cap.
        """
        if self._total is None:
            self._total = self._room.copy_(total)
        else:
            _add(self._wide(), total, 1)
        self._weight += weight
        self._moved += weight

    def reply(self, arrays: ArrayRecord, round: int) -> tuple[ArrayRecord, int]:
        """The mean's model and its weight, once somebody was added.

        Args:
            arrays: the model that was sent out.
        """
        template, release = self._folding.template, self._folding.release
        if release is None:
            return arrays_of(self._mean(), template), self._weight
        parts = dict(zip(template, split(self._wide(), template), strict=True))
        total = torch.cat([parts[name] for name in sorted(parts)])
        return release.of_sum(total.numpy(), arrays, round), 1

    def _wide(self) -> Tensor:
        """The sum so far, to be added to."""
        if self._total is None:
            self._total = torch.zeros(len(self._before), dtype=torch.float64)
        self._total = self._total.to(torch.float64)
        return self._total

    def _mean(self) -> Tensor:
        """Everybody's, in the room."""
        if self._total is not None and self._total.dtype is torch.float32:
            return torch.add(self._before, self._total, alpha=1 / self._weight, out=self._room)
        total = self._wide()
        if self._moved:
            _add(total, self._before, self._moved)
        return self._room.copy_(total.div_(self._weight))


def _add(total: Tensor, values: Tensor, weight: int) -> None:
    """total += weight * values, in float64; `values` are widened a block at a time."""
    for own, part in zip(total.split(_BLOCK), values.split(_BLOCK), strict=True):
        own.add_(part, alpha=weight)


def arrays_of(values: Tensor, template: Template) -> ArrayRecord:
    """A flat state as float32 arrays, named and ordered as the template."""
    return array_record(zip(template, arrays_in(values.to(torch.float32).numpy(), template.values()), strict=True))
