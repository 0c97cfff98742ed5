"""What a run adds up under masks: the public schemas of its vectors, and the way from a reply to one and back.

A training vector holds the update times the institution's factor, and its weight; an evaluation vector the histograms
of the hold-out, with their noise or exact, and whether there are any. So nothing of one institution leaves in the
clear, and a server learns what the sums say.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.federation.arrays import Template, load_arrays, template_of, to_arrays
from lepton_fl.federation.client_app import DECLARED_WEIGHT, ClientProgram
from lepton_fl.federation.cohort_release import CohortRelease
from lepton_fl.federation.evaluating import OWN, Evaluating, Part, Tables
from lepton_fl.federation.histograms import LOSS_UNIT, to_record
from lepton_fl.federation.program import cohort_mechanism
from lepton_fl.federation.terms import Terms
from lepton_fl.flower import Array, ArrayRecord, MetricRecord
from lepton_fl.privacy.noise import clip_target
from lepton_fl.privacy.units import NoPrivacy
from lepton_fl.secure_aggregation.cohort import LEAST
from lepton_fl.secure_aggregation.settings import On
from lepton_fl.secure_aggregation.source import Source
from lepton_fl.secure_aggregation.vector import Schema, Segment, Words, from_sum, to_words
from lepton_fl.strategies.sums import WEIGHT_LIMBS, ClippedMean, SumForm
from lepton_fl.training.private import Mechanism
from lepton_fl.training.shared_noise import SharedMechanism, apply

WIRE_BITS = 24
_WIDE_BITS = 32
_COUNTING, _LOSS = "counting", "loss"
Vector = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SharedStep:
    """The step that the server takes from the sum of the cohort's shares."""

    program: ClientProgram
    mechanism: SharedMechanism

    def taken(self, total: npt.NDArray[np.int64], before: ArrayRecord, round: int, gain: float) -> ArrayRecord:
        """The model after the step; `gain` as in `shared_noise.apply`."""
        model = copy.deepcopy(self.program.model)
        load_arrays(model, before)
        apply(model, total, self.mechanism, self.program.training, round, gain)
        return to_arrays(model)


@dataclass(frozen=True)
class Sums:
    """What a run adds up; everybody works it out from the contract."""

    training: Schema
    evaluating: Evaluating
    most_records: int  # of one institution, that an evaluation may count in a cell
    form: SumForm
    template: Template
    release: CohortRelease | None  # under privacy=institution: the server adds noise to the sum
    step: SharedStep | None  # under shared noise: the training vector is a share of the cohort's one step

    def schema(self, purpose: str, round: int) -> Schema:
        """Of this round's training, or of its evaluation; raises `ConfigError` where the plan has none."""
        return self.training if purpose == "train" else self.evaluation(round)

    @property
    def longest(self) -> int:
        """Words of the longest vector that any round has."""
        evaluated = (self.evaluation(round).length for round in self.evaluating.samples())
        return max(self.training.length, *evaluated)

    def evaluation(self, round: int) -> Schema:
        """Of this round's evaluation; raises `ConfigError` where the plan has none."""
        segments = []
        for part in self.evaluating.parts(round):
            cells = part.cells * (self.training.cohort if part.name == OWN else 1)
            if part.variance:
                segments.append(Segment(part.name, "ring", cells, bound=part.most(self.most_records)))
            else:
                segments.append(Segment(part.name, "integers", cells, limbs=2))
        if not self.evaluating.is_private:
            segments.append(Segment(_LOSS, "integers", 1, limbs=3))
        segments.append(Segment(_COUNTING, "integers", 1, limbs=1))
        most = max((int(one.bound) for one in segments if one.kind == "ring"), default=0)
        is_narrow = self.training.cohort * most < 2 ** (WIRE_BITS - 1)
        return Schema(tuple(segments), self.training.cohort, WIRE_BITS if is_narrow else _WIDE_BITS)


def sums_of(terms: Terms, program: ClientProgram, cohort: int) -> Sums:
    """The sums of these terms, of which the program was made, over a cohort of so many institutions.

    Raises:
        ConfigError: too few or too many institutions, or a strategy that needs to see single updates.
    """
    if not isinstance(terms.secure_aggregation, On):
        raise ConfigError("these terms add up nothing under masks; nothing was trained; give secure_aggregation=on")
    if cohort < LEAST:
        raise ConfigError(
            f"secure aggregation needs at least {LEAST} institutions, and {cohort} take part; nothing was trained; add "
            "institutions, or give secure_aggregation=off where every policy allows it"
        )
    is_counted = type(terms.privacy) is NoPrivacy
    weight_cap = min(terms.weight_cap, terms.task.declared_records) if is_counted else DECLARED_WEIGHT
    template = template_of(program.model)
    schema = _training_schema(terms.secure_aggregation, template, program.shared, cohort)
    at_server = cohort_mechanism(terms, cohort, cohort)
    form = terms.strategy.sum_form(weight_cap, terms.training.learning_rate)
    return Sums(
        schema,
        program.evaluating,
        terms.weight_cap,
        form if at_server is None else ClippedMean(_target(at_server, schema)),
        template,
        None if at_server is None else CohortRelease(at_server, program.randomness),
        None if program.shared is None else SharedStep(program, program.shared),
    )


def _target(mechanism: Mechanism, schema: Schema) -> float:
    """The norm to scale an update to, so that what of it is in the sum, rounded, has the clipping norm at most."""
    update = schema.segments[0]
    spacing = update.bound / schema.quantiser(update).largest
    target = clip_target(mechanism.clipping_norm, mechanism.stddev, update.length) - spacing * math.sqrt(update.length)
    if target <= 0:
        raise ConfigError(
            f"rounding {update.length} parameters leaves no room under the clipping norm {mechanism.clipping_norm:g}; "
            "nothing was trained; lower secure_aggregation.update_bound, or choose a smaller model"
        )
    return target


def _training_schema(settings: On, template: Template, shared: SharedMechanism | None, cohort: int) -> Schema:
    if shared is not None:
        # The name has the grid and the noise, so that whoever worked out another one is shown to have another schema.
        name = f"share of variance {shared.variance} on a grid of {shared.grid!r}"
        return Schema((Segment(name, "ring", shared.parameters, bound=shared.most),), cohort, shared.wire_bits)
    parameters = sum(int(np.prod(shape, dtype=object)) for shape in template.values())
    update = Segment("update", "values", parameters, bound=settings.update_bound)
    return Schema((update, Segment("weight", "integers", 1, limbs=WEIGHT_LIMBS)), cohort, WIRE_BITS)


# -- at an institution


@dataclass(frozen=True)
class Trained:
    """What training left: all of it stays here but for what the sums show."""

    before: Mapping[str, npt.NDArray[np.float32]]
    after: Mapping[str, npt.NDArray[np.float32]]
    records: int  # or 1, where all institutions weigh the same
    loss: float | None


def training_words(sums: Sums, trained: Trained, source: Source) -> Words:
    """This institution's training vector."""
    # In the order of names, as a released sum has them.
    update = np.concatenate(
        [(trained.after[name].astype(np.float64) - trained.before[name]).ravel() for name in sorted(sums.template)]
    )
    part = sums.form.part(float(np.linalg.norm(update)), trained.records, trained.loss)
    vector = {"update": update * part.factor, "weight": np.array([part.weight], dtype=np.int64)}
    return to_words(sums.training, vector, source)


def share_words(sums: Sums, share: npt.NDArray[np.int64], source: Source) -> Words:
    """This institution's training vector under shared noise."""
    return to_words(sums.training, {sums.training.segments[0].name: share}, source)


def evaluation_words(sums: Sums, round: int, made: Made, source: Source) -> Words:
    """This institution's evaluation vector."""
    vector = {
        part.name: _in_slot(part, made, sums.training.cohort) if part.name == OWN else made.tables[part.name].ravel()
        for part in sums.evaluating.parts(round)
    }
    if not sums.evaluating.is_private:
        vector[_LOSS] = np.rint([made.loss_sum * LOSS_UNIT]).astype(np.int64)
    vector[_COUNTING] = np.array([made.is_counted], dtype=np.int64)
    return to_words(sums.evaluation(round), vector, source)


@dataclass(frozen=True)
class Made:
    """One institution's evaluation: all of it stays here but for what the sums show."""

    tables: Tables  # with noise, where they have any
    loss_sum: float  # nats; told under exact counts alone
    is_counted: bool  # False: the policy keeps the counts at home, and zeros with noise take their place
    slot: int  # this institution's place among the cohort, for what each one shows of itself


def _in_slot(part: Part, made: Made, cohort: int) -> npt.NDArray[np.int64]:
    """This institution's own histogram among zeros, so that the sum has every institution's side by side."""
    slots = np.zeros((cohort, part.cells), dtype=np.int64)
    slots[made.slot] = made.tables[part.name].ravel()
    return slots.ravel()


# -- at the server


def model_of(
    sums: Sums, words: npt.NDArray[np.uint32], before: ArrayRecord, round: int, gain: float = 1.0
) -> tuple[ArrayRecord, int]:
    """The round's model, float32, before a strategy's own step; and the summed weight.

    Args:
        gain: the largest weight of a group that the institutions were told; 1 where they were told none.

    Raises:
        TrainingFailed: the weights add up to nothing.
        ValueError: no cohort has such a sum.
    """
    total = from_sum(sums.training, words)
    if sums.step is not None:
        return sums.step.taken(total[sums.training.segments[0].name].astype(np.int64), before, round, gain), 1
    if sums.release is not None:
        return sums.release.of_sum(total["update"].astype(np.float64), before, round), 1
    weight = int(total["weight"][0])
    if weight <= 0:
        raise TrainingFailed("the institutions' weights add up to nothing, so no model was made; look at the data")
    mean = total["update"] * (sums.form.scale / weight)
    parts, start = {}, 0
    for name in sorted(sums.template):
        shape = sums.template[name]
        size = int(np.prod(shape, dtype=object))
        moved = before[name].numpy().astype(np.float64) + mean[start : start + size].reshape(shape)
        parts[name] = Array(moved.astype(np.float32))
        start += size
    return ArrayRecord({name: parts[name] for name in sums.template}), weight


def evaluated_of_sum(
    sums: Sums, words: npt.NDArray[np.uint32], round: int, who: tuple[Sequence[str], Sequence[str]]
) -> MetricRecord | None:
    """What the cohort's sum says of the model, as one institution's reply would; None where nobody counted.

    Args:
        who: institutions in the sum, whose noise it has; and the whole cohort, in the order of their slots.

    Raises:
        ValueError: what was added up is no sum of this cohort.
    """
    survivors, cohort = who
    total = from_sum(sums.evaluation(round), words)
    if int(total[_COUNTING][0]) == 0:
        return None
    tables, own = {}, {}
    for part in sums.evaluating.parts(round):
        whole = total[part.name].astype(np.int64)
        if part.name == OWN:
            slots = whole.reshape(len(cohort), part.cells)
            own = {name: {OWN: slots[place]} for place, name in enumerate(cohort) if name in {*survivors}}
        else:
            tables[part.name] = whole
    loss_sum = None if sums.evaluating.is_private else float(total[_LOSS][0]) / LOSS_UNIT
    return to_record(tables, loss_sum, len(survivors), own)
