"""What a run adds up under masks: the public schemas of its vectors, and the way from a reply to one and back.

A training vector holds the update times the institution's factor, and its weight; an evaluation vector the counts of
the hold-out, their loss, and whether there are any. So nothing of one institution leaves in the clear, and a server
learns what the sums say.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.evaluation.counts import LARGEST_LOSS, Counts, table_shape
from lepton_fl.federation.arrays import Template, load_arrays, template_of, to_arrays
from lepton_fl.federation.client_app import DECLARED_WEIGHT, ClientProgram
from lepton_fl.federation.cohort_release import CohortRelease
from lepton_fl.federation.terms import Terms, cohort_mechanism
from lepton_fl.flower import Array, ArrayRecord
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
_LOSS_UNIT = 1024  # of a summed loss: exact to a thousandth of a nat
Vector = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SharedStep:
    """The step that the server takes from the sum of the cohort's shares."""

    program: ClientProgram
    mechanism: SharedMechanism

    def taken(self, total: npt.NDArray[np.int64], before: ArrayRecord, round: int) -> ArrayRecord:
        """The model after the step."""
        model = copy.deepcopy(self.program.model)
        load_arrays(model, before)
        apply(model, total, self.mechanism, self.program.training, round)
        return to_arrays(model)


@dataclass(frozen=True)
class Sums:
    """What a run adds up; everybody works it out from the contract."""

    training: Schema
    evaluation: Schema
    form: SumForm
    template: Template
    counts_shape: tuple[int, int]
    release: CohortRelease | None  # under privacy=institution: the server adds noise to the sum
    step: SharedStep | None  # under shared noise: the training vector is a share of the cohort's one step

    def schema(self, purpose: str) -> Schema:
        """Of this kind of round: train or evaluate."""
        return {"train": self.training, "evaluate": self.evaluation}[purpose]


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
    template, counts_shape = template_of(program.model), table_shape(program.outputs)
    schema = _training_schema(terms.secure_aggregation, template, program.shared, cohort)
    at_server = cohort_mechanism(terms, cohort, cohort)
    form = terms.strategy.sum_form(weight_cap, terms.training.learning_rate)
    counted = (
        Segment("counts", "integers", counts_shape[0] * counts_shape[1], limbs=2),
        Segment("loss", "integers", 1, limbs=3),
        Segment("counting", "integers", 1, limbs=1),
    )
    return Sums(
        schema,
        Schema(counted, cohort, WIRE_BITS),
        form if at_server is None else ClippedMean(_target(at_server, schema)),
        template,
        counts_shape,
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


def evaluation_words(sums: Sums, counts: Counts | None, source: Source) -> Words:
    """This institution's evaluation vector; zeros where it counts nothing, which the sum does not betray."""
    shape = sums.counts_shape
    table = np.zeros(shape, dtype=np.int64) if counts is None else counts.table
    loss = 0 if counts is None else round(counts.loss_sum * _LOSS_UNIT)
    vector = {
        "counts": table.ravel().astype(np.int64),
        "loss": np.array([loss], dtype=np.int64),
        "counting": np.array([counts is not None], dtype=np.int64),
    }
    return to_words(sums.evaluation, vector, source)


# -- at the server


def model_of(sums: Sums, words: npt.NDArray[np.uint32], before: ArrayRecord, round: int) -> tuple[ArrayRecord, int]:
    """The round's model, float32, before a strategy's own step; and the summed weight.

    Raises:
        TrainingFailed: the weights add up to nothing.
        ValueError: no cohort has such a sum.
    """
    total = from_sum(sums.training, words)
    if sums.step is not None:
        return sums.step.taken(total[sums.training.segments[0].name].astype(np.int64), before, round), 1
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


def counts_of_sum(sums: Sums, words: npt.NDArray[np.uint32]) -> Counts | None:
    """The cohort's counts; None where nobody counted.

    Raises:
        TrainingFailed: what was added up are no counts.
    """
    total = from_sum(sums.evaluation, words)
    if int(total["counting"][0]) == 0:
        return None
    table = total["counts"].astype(np.int64).reshape(sums.counts_shape)
    loss_sum = float(total["loss"][0]) / _LOSS_UNIT
    if (table < 0).any() or not 0 <= loss_sum <= LARGEST_LOSS * int(table.sum()) * (1 + 1e-9) + 1:
        raise TrainingFailed("the institutions' counts add up to no counts; look for the one whose counts are false")
    return Counts(table, loss_sum)
