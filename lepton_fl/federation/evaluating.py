"""How a run counts its hold-out: when, in which histograms, under which noise, and what each of them costs whom.

Everybody works it out from the contract. Under `evaluation=private` a histogram leaves with integer noise, and is paid
for before a record is scored; under `evaluation=exact` it leaves as it is, and no epsilon covers it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import Layout, count, noised
from lepton_fl.evaluation.metrics import SCORE_BINS
from lepton_fl.evaluation.plan import Plan, Release
from lepton_fl.evaluation.settings import Evaluation
from lepton_fl.explanation.release import UNITS, cost, vector
from lepton_fl.fairness.marginal import along
from lepton_fl.privacy.accounting import SKELLAM, epsilon_of_history
from lepton_fl.privacy.books import HELD_OUT, TUNED_ON, Step
from lepton_fl.privacy.randomness import Stream
from lepton_fl.privacy.skellam import table
from lepton_fl.tasks.features import Features
from lepton_fl.tasks.groups import Attribute, Groups
from lepton_fl.training.examples import Examples, Site

DECISIONS, SCORES, OWN, TUNE, ATTRIBUTIONS = ("decisions", "scores", "own", "tune", "attributions")
_DECISION_BINS = 2  # below and above the decision threshold
Tables = Mapping[str, npt.NDArray[np.int64]]
"""Histograms of one institution, by their names."""


@dataclass(frozen=True)
class Part:
    """One histogram of a release, or the attributions of its columns."""

    name: str
    layout: Layout | None  # None: it is no histogram
    shape: tuple[int, ...]
    variance: int  # of one institution's noise in each cell; 0: exact
    unit: int = 1  # the most that one record adds to a cell

    @property
    def cells(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    def most(self, records: int) -> int:
        """What no cell of one institution exceeds in size, of at most so many records, noise included."""
        return self.unit * records + (table(self.variance).radius if self.variance else 0)


@dataclass(frozen=True)
class Explaining:
    """Which columns the model looks at, told once, with the last evaluation."""

    features: Features
    clipping_norm: float  # L2, of a record's attributions by column
    variance: int  # of one institution's noise in each coordinate
    watched: tuple[tuple[str, ...], int]  # sensitive columns, and among how many first ones they are pointed out

    def step(self, shares: int) -> Step:
        """What it costs who is held out."""
        return Step(cost(self.variance, shares).noise_multiplier, 1.0, SKELLAM, cost(self.variance, 1).noise_multiplier)


@dataclass(frozen=True)
class Charge:
    """What some rounds' evaluations cost one part of the data."""

    name: str  # of the releases, within the run
    part: str  # of `books.PARTS`
    step: Step
    releases: int


@dataclass(frozen=True)
class Evaluating:
    """The evaluations of one run."""

    settings: Evaluation
    groups: Groups
    labels: int  # classes
    rounds: int
    plan: Plan | None  # None: exact counts
    shares: int  # institutions that carry a histogram's noise together
    has_tune: bool  # some are held out to steer the training
    one_per_subject: bool  # the promise is per patient
    explaining: Explaining | None = None
    steered: Attribute | None = None  # alone in the histogram that steers: fewer cells, less noise; None: as the others

    @property
    def is_private(self) -> bool:
        """Whether noise covers what leaves."""
        return self.plan is not None

    def is_due(self, round: int) -> bool:
        """Whether this round ends in an evaluation."""
        if self.plan is not None:
            return self.plan.at(round) is not None
        return round == self.rounds or round % self.settings.every == 0

    def samples(self) -> tuple[int, ...]:
        """A round of each kind of evaluation that the run has."""
        routine = [round for round in range(1, self.rounds) if self.is_due(round)][:1]
        return (*routine, self.rounds)

    def is_final(self, round: int) -> bool:
        """Whether this is the run's last one."""
        return round == self.rounds

    def parts(self, round: int) -> tuple[Part, ...]:
        """The histograms of this round's evaluation; raises `ConfigError` where none is due."""
        if not self.is_due(round):
            raise ConfigError(
                f"round {round} has no evaluation in the plan; nothing was read; tell the operator (it is evaluated "
                f"every {self.settings.every} rounds and at the end)"
            )
        if self.plan is None:
            exact = [SCORES, *([TUNE] if self.has_tune else [])]
            return tuple(self._histogram(name, SCORE_BINS, 0) for name in exact)
        release = self.plan.final if self.is_final(round) else self.plan.routine
        return tuple(self._noised(release, is_final=self.is_final(round)))

    def _noised(self, release: Release, *, is_final: bool) -> Iterator[Part]:
        bins = self.settings.bins
        if release.decisions:
            yield self._histogram(DECISIONS, _DECISION_BINS, release.decisions)
        if release.scores:
            yield self._histogram(SCORES, bins, release.scores)
        if release.own:
            yield self._histogram(OWN, bins, release.own)
        if release.tune:
            yield self._histogram(TUNE, bins if is_final else _DECISION_BINS, release.tune)
        if is_final and self.explaining is not None:
            coordinates = len(self.explaining.features.names) + 1
            yield Part(ATTRIBUTIONS, None, (coordinates,), self.explaining.variance, UNITS)

    def _histogram(self, name: str, bins: int, variance: int) -> Part:
        layout = self.layout(name, bins)
        return Part(name, layout, layout.shape, variance)

    def layout(self, name: str, bins: int) -> Layout:
        """Of a histogram, with so many bins of a score of two labels."""
        groups = Groups((self.steered,)) if name == TUNE and self.steered is not None else self.groups
        return Layout(groups, self.labels, bins if self.labels == 2 else self.labels)

    def charges(self) -> tuple[Charge, ...]:
        """What the whole run's evaluations cost the people held out; empty where nothing covers them."""
        if self.plan is None:
            return ()
        routine, final = self.plan.routine, self.plan.final
        found = []
        for name, part, release, releases in (
            ("evaluations", HELD_OUT, routine, len(self.plan.routine_rounds)),
            ("final evaluation", HELD_OUT, final, 1),
            ("steering", TUNED_ON, routine, len(self.plan.routine_rounds)),
            ("final steering", TUNED_ON, final, 1),
        ):
            is_tune = part == TUNED_ON
            if releases and (release.tune if is_tune else release.decisions or release.scores or release.own):
                found.append(Charge(name, part, self._step(release, is_tune=is_tune), releases))
        if self.explaining is not None:
            found.append(Charge("final explanation", HELD_OUT, self.explaining.step(self.shares), 1))
        return tuple(found)

    def _step(self, release: Release, *, is_tune: bool) -> Step:
        multiplier = release.tune_multiplier if is_tune else release.multiplier
        return Step(multiplier(self.shares), 1.0, SKELLAM, multiplier(1))

    def epsilon_after(self, round: int, delta: float) -> float:
        """What the evaluations up to this round have told of who is held out, at most; infinite if no noise covers it.

        As against outsiders and the other institutions: with the noise that a sum has.
        """
        if self.plan is None:
            return math.inf
        releases = sum(one <= round for one in self.plan.routine_rounds)
        last = int(self.is_final(round))
        paid = tuple(
            one.step.segment(last if one.name.startswith("final") else releases, is_own=False)
            for one in self.charges()
            if one.part == HELD_OUT
        )
        return epsilon_of_history(paid, delta)

    def due(self, round: int) -> tuple[tuple[Charge, int], ...]:
        """What this round's evaluation is charged to, and which of the releases it is, from 1."""
        if self.plan is None:
            return ()
        is_final = self.is_final(round)
        number = 1 if is_final else self.plan.routine_rounds.index(round) + 1
        return tuple((one, number) for one in self.charges() if one.name.startswith("final") == is_final)

    def counted(self, model: nn.Module, site: Site, round: int, physical_batch: int) -> Tables:
        """The exact histograms of this round at one institution: nothing that may leave under a promise."""
        made: dict[str, npt.NDArray[np.int64]] = {}
        for part in self.parts(round):
            examples, one_each = self._tuned_on(site) if part.name == TUNE else site.holdout, self.one_per_subject
            if part.layout is not None:
                made[part.name] = count(model, examples, part.layout, physical_batch, one_per_subject=one_each)
            elif self.explaining is not None:
                of, norm = self.explaining.features, self.explaining.clipping_norm
                made[part.name] = vector(model, examples, of, norm, one_per_subject=one_each)
        return made

    def _tuned_on(self, site: Site) -> Examples:
        return site.tune if self.steered is None else along(site.tune, self.groups, self.steered)

    def nothing(self, round: int) -> Tables:
        """Of an institution that counts nothing: zeros, to which it still adds its noise, for the others' sake."""
        return {part.name: np.zeros(part.shape, dtype=np.int64) for part in self.parts(round)}

    def released(self, tables: Tables, round: int, stream: Stream) -> Tables:
        """The same with this institution's noise."""
        parts = {part.name: part for part in self.parts(round)}
        return {
            name: noised(one, parts[name].variance, stream) if parts[name].variance else one
            for name, one in tables.items()
        }
