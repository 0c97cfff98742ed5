"""A round's mean as its models come: no more of a cohort is in memory than one chunk.

For strategies that need the mean only. What comes of it does not depend on chunks or workers: models are added in the
order of names, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lepton_fl.federation.arrays import LARGEST_VALUE, BadArrays, Template
from lepton_fl.federation.codec import array_of
from lepton_fl.federation.cohort_release import CohortRelease, clipped
from lepton_fl.flower import ArrayRecord
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

    def __init__(self, folding: Folding, before: Tensor) -> None:
        """
        Args:
            before: float32 [d], the model that was sent out.
        """
        self._folding, self._before = folding, before
        self._total = torch.zeros(len(before), dtype=torch.float64)
        self._room = torch.empty(min(_BLOCK, len(before)), dtype=torch.float64)
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
            self._total += clipped(values.to(torch.float64) - self._before.to(torch.float64), self._target)
            self._weight = 1
            return
        counted = min(weight, self._folding.weight_cap)
        for part, total in zip(values.split(_BLOCK), self._total.split(_BLOCK), strict=True):
            total.add_(self._room[: len(part)].copy_(part), alpha=counted)
        self._weight += counted

    def add_sum(self, total: Tensor, weight: int) -> None:
        """Some institutions' models at once, which none can spoil: see `executor.Summed`.

        Args:
            total: float32 [d], the sum of weight * (model - the one sent out).
            weight: of all of them, each within the cap.
        """
        for part, own in zip(total.split(_BLOCK), self._total.split(_BLOCK), strict=True):
            own.add_(self._room[: len(part)].copy_(part))
        self._weight += weight
        self._moved += weight

    def reply(self, arrays: ArrayRecord, round: int) -> tuple[ArrayRecord, int]:
        """The mean's model and its weight, once somebody was added.

        Args:
            arrays: the model that was sent out.
        """
        template, release = self._folding.template, self._folding.release
        if release is None:
            mean = torch.empty_like(self._before)
            for out, before, total in zip(
                *(one.split(_BLOCK) for one in (mean, self._before, self._total)), strict=True
            ):
                if self._moved:
                    total.add_(self._room[: len(before)].copy_(before), alpha=self._moved)
                out.copy_(total.div_(self._weight))
            return arrays_of(mean, template), self._weight
        parts = dict(zip(template, self._total.split([math.prod(shape) for shape in template.values()]), strict=True))
        total = torch.cat([parts[name] for name in sorted(parts)])
        return release.of_sum(total.numpy(), arrays, round), 1


def refuse_broken(values: Tensor, template: Template) -> None:
    """Return if every value is one that `arrays.checked` takes; raises `BadArrays` naming the tensor."""
    # The squares' sum is the cheapest look at every value; NaN compares false.
    if float(torch.dot(values, values)) <= LARGEST_VALUE**2:
        return
    for name, part in zip(template, values.split([math.prod(shape) for shape in template.values()]), strict=True):
        if not bool((part.abs() <= LARGEST_VALUE).all()):
            raise BadArrays(f"{name} has values that are not finite or beyond {LARGEST_VALUE:g}")


def arrays_of(values: Tensor, template: Template) -> ArrayRecord:
    """A flat state as float32 arrays, named and ordered as the template."""
    parts = values.to(torch.float32).split([math.prod(shape) for shape in template.values()])
    return ArrayRecord(
        {name: array_of(part.numpy().reshape(template[name])) for name, part in zip(template, parts, strict=True)}
    )
