"""The histograms of an evaluation as a reply carries them, and what they become at the server: pooled, checked, named.

A reply is hostile until lengths, types and ranges were checked. Cells with noise may be negative; exact ones may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_fl.evaluation.histogram import Histogram
from lepton_fl.evaluation.loss import LARGEST_LOSS
from lepton_fl.evaluation.metrics import Metrics, metrics_of
from lepton_fl.explanation.ranking import Noisy
from lepton_fl.federation.evaluating import ATTRIBUTIONS, DECISIONS, OWN, SCORES, TUNE, Evaluating, Part, Tables
from lepton_fl.flower import MetricRecord

LOSS_UNIT = 1024  # of a summed loss under masks: exact to a thousandth of a nat
_LOSS, _NOISES = "loss-sum", "noises"


class BadHistograms(ValueError):
    """What should be histograms is none; the message says why, never a value."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation showed."""

    histograms: Mapping[str, Histogram]  # by name: decisions, scores, tune
    own: Mapping[str, Histogram] = field(default_factory=dict)  # of single institutions, each with all its noise
    loss_sum: float | None = None  # nats; None: not told
    attributions: Noisy | None = None  # by column; None: not told

    @property
    def scores(self) -> Histogram | None:
        """The finest histogram of the hold-out that was released, if any has more than the decisions."""
        return self.histograms.get(SCORES)

    @property
    def decisions(self) -> Histogram:
        """Below and above the decision threshold; of more than two classes, the guesses."""
        if DECISIONS in self.histograms:
            return self.histograms[DECISIONS]
        scores = self.histograms[SCORES]
        return scores.coarser(2) if scores.layout.labels == 2 else scores

    @property
    def tune(self) -> Histogram | None:
        """Of the people held out to steer the training."""
        return self.histograms.get(TUNE)

    def metrics(self) -> Metrics:
        """The round's line."""
        scores, decisions = self.scores, metrics_of(self.decisions)
        finest = decisions if scores is None else metrics_of(scores)
        loss = finest.loss
        if self.loss_sum is not None:
            loss = self.loss_sum / decisions.records if decisions.records else None
        return replace(decisions, auc=finest.auc, loss=loss)

    def __add__(self, other: Evaluated) -> Evaluated:
        pooled = {name: one + other.histograms[name] for name, one in self.histograms.items()}
        losses = (self.loss_sum, other.loss_sum)
        loss_sum = None if None in losses else sum(filter(None, losses))
        return Evaluated(pooled, {**self.own, **other.own}, loss_sum, _added(self.attributions, other.attributions))


def _added(one: Noisy | None, other: Noisy | None) -> Noisy | None:
    if one is None or other is None:
        return None
    return Noisy(one.total + other.total, one.variance + other.variance, one.clipping_norm)


def pooled(each: Sequence[Evaluated]) -> Evaluated | None:
    """All institutions together; None where nobody counted."""
    return reduce(add, each) if each else None


def to_record(
    tables: Tables, loss_sum: float | None, noises: int, own: Mapping[str, Tables] | None = None
) -> MetricRecord:
    """As a reply carries them.

    Args:
        noises: institutions whose noise is in each cell.
        own: institution to its own histograms, where a sum shows them side by side.
    """
    record = MetricRecord({name: one.ravel().tolist() for name, one in tables.items()})
    for institution, ones in (own or {}).items():
        for name, one in ones.items():
            record[f"{name}/{institution}"] = one.ravel().tolist()
    if loss_sum is not None:
        record[_LOSS] = loss_sum
    record[_NOISES] = noises
    return record


def from_record(evaluating: Evaluating, round: int, record: Mapping[str, object], most: tuple[int, int]) -> Evaluated:
    """What a reply shows of this round's model.

    Args:
        most: records that one institution may count, and institutions whose noise may be in it.

    Raises:
        BadHistograms: another histogram than is due, a wrong length, a cell out of range.
    """
    parts = {part.name: part for part in evaluating.parts(round)}
    noises = record.get(_NOISES)
    most_records, most_noises = most
    if type(noises) is not int or not 1 <= noises <= most_noises:
        raise BadHistograms("it does not say whose noise is in its histograms")
    histograms = {
        name: _histogram(part, record.get(name), (most_records, noises))
        for name, part in parts.items()
        if part.layout is not None and name != OWN
    }
    attributions = None
    if evaluating.explaining is not None and ATTRIBUTIONS in parts:
        total = _numbers(parts[ATTRIBUTIONS], record.get(ATTRIBUTIONS), (most_records, noises))
        variance = float(parts[ATTRIBUTIONS].variance * noises)
        attributions = Noisy(total, variance, evaluating.explaining.clipping_norm)
    own = {
        key.split("/", 1)[1]: _histogram(parts[OWN], cells, (most_records, 1))
        for key, cells in record.items()
        if OWN in parts and key.startswith(f"{OWN}/")
    }
    loss_sum = None if evaluating.is_private else _loss(record, histograms[SCORES])
    return Evaluated(histograms, own, loss_sum, attributions)


def _histogram(part: Part, cells: object, bounds: tuple[int, int]) -> Histogram:
    if part.layout is None:
        raise BadHistograms(f"its {part.name} are no histogram")
    return Histogram(part.layout, _numbers(part, cells, bounds), float(part.variance * bounds[1]))


def _numbers(part: Part, cells: object, bounds: tuple[int, int]) -> npt.NDArray[np.int64]:
    most_records, noises = bounds
    if not isinstance(cells, list) or len(cells) != part.cells:
        raise BadHistograms(f"its {part.name} do not have the expected length")
    most = part.most(most_records) * noises
    least = -most if part.variance else 0
    if not all(type(cell) is int and least <= cell <= most for cell in cells):
        raise BadHistograms(f"its {part.name} are not whole numbers in the expected range")
    table: npt.NDArray[np.int64] = np.array(cells, dtype=np.int64).reshape(part.shape)
    if not part.variance and table.sum() > most:
        raise BadHistograms("it counts more records than the weight cap")
    return table


def _loss(record: Mapping[str, object], scores: Histogram) -> float:
    loss = record.get(_LOSS)
    most = LARGEST_LOSS * int(scores.table.sum()) * (1 + 1e-9) + 1
    if isinstance(loss, bool) or not isinstance(loss, int | float) or not 0 <= loss <= most:
        raise BadHistograms("its loss is out of range")
    return float(loss)


def as_plain(evaluated: Evaluated, *, is_final: bool) -> dict[str, Any]:
    """What a report keeps: the decisions and what steers; at the end, all of it. Nothing here was not released."""
    kept = {DECISIONS: evaluated.decisions, **({} if evaluated.tune is None else {TUNE: evaluated.tune})}
    if is_final:
        kept |= {name: one for name, one in evaluated.histograms.items() if name != TUNE}
        kept |= {f"{OWN}/{institution}": one for institution, one in evaluated.own.items()}
    plain: dict[str, Any] = {
        name: {"bins": one.layout.bins, "table": one.table.ravel().tolist(), "variance": one.variance}
        for name, one in kept.items()
    }
    if evaluated.attributions is not None:
        told = evaluated.attributions
        plain[ATTRIBUTIONS] = {"table": told.total.tolist(), "variance": told.variance}
    return plain


def from_plain(evaluating: Evaluating, plain: Mapping[str, Any]) -> Evaluated:
    """What `as_plain` kept."""
    histograms, own, attributions = {}, {}, None
    for name, one in plain.items():
        if name == ATTRIBUTIONS and evaluating.explaining is not None:
            total = np.array(one["table"], dtype=np.int64)
            attributions = Noisy(total, one["variance"], evaluating.explaining.clipping_norm)
            continue
        layout = evaluating.layout(name, one["bins"])
        table = np.array(one["table"], dtype=np.int64).reshape(layout.shape)
        made = Histogram(layout, table, one["variance"])
        if name.startswith(f"{OWN}/"):
            own[name.split("/", 1)[1]] = made
        else:
            histograms[name] = made
    return Evaluated(histograms, own, None, attributions)
