"""What is added up under masks is what a strategy would have made of single replies, to within the rounding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proposals import SUMMED, WITHOUT, terms

from lepton_fl.errors import ConfigError, TrainingFailed
from lepton_fl.evaluation.settings import Private
from lepton_fl.federation.arrays import LARGEST_VALUE
from lepton_fl.federation.evaluating import Tables
from lepton_fl.federation.program import program
from lepton_fl.federation.summed import (
    Made,
    Sums,
    Trained,
    evaluated_of_sum,
    evaluation_words,
    model_of,
    share_words,
    sums_of,
    training_words,
)
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict, enter_run
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.secure_aggregation.settings import On
from lepton_fl.secure_aggregation.vector import Words
from lepton_fl.strategies.averaging import FedAvg, QFedAvg
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY, Federation, Strategy
from lepton_fl.strategies.sums import LARGEST_WEIGHT, FairMean, WeightedMean

PARAMETERS = 39  # of logistic regression on the heart patients
RECORDS = (300, 120, 7, 493)
LEARNING_RATE = 0.5


@cache
def sums(q: float | None = None, cohort: int = 4, bound: float = 1.0, weight_cap: int = 100_000) -> Sums:
    """Of FedAvg, or with a `q` of q-FedAvg."""
    strategy = FedAvg() if q is None else QFedAvg(q)
    asked = terms(privacy=WITHOUT, strategy=strategy, weight_cap=weight_cap, secure_aggregation=On(bound))
    return sums_of(asked, program(asked, cohort), cohort)


def values(made: Sums, seed: int, scale: float) -> dict[str, npt.NDArray[np.float32]]:
    """A model of this shape."""
    numbers = np.random.default_rng(seed)
    return {name: numbers.uniform(-scale, scale, shape).astype(np.float32) for name, shape in made.template.items()}


def trained(made: Sums, number: int, loss: float | None = None, scale: float = 0.4) -> Trained:
    before, update = values(made, 0, 1.0), values(made, number + 1, scale)
    after = {name: before[name] + update[name] for name in before}
    return Trained(before, after, RECORDS[number % len(RECORDS)], loss)


def flat(model: Any) -> npt.NDArray[np.float64]:
    return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in model.values()])


def record_of(model: dict[str, npt.NDArray[np.float32]]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in model.items()})


def summed(words: Sequence[Words]) -> npt.NDArray[np.uint32]:
    """As the aggregator adds, modulo 2^32."""
    return np.add.reduce([one.words for one in words], dtype=np.uint32)


def mean_of(made: Sums, replies: Sequence[Trained]) -> tuple[npt.NDArray[np.float64], int]:
    total = summed([training_words(made, one, os.urandom) for one in replies])
    arrays, weight = model_of(made, total, record_of(dict(replies[0].before)), 1)
    assert {name: array.numpy().dtype for name, array in arrays.items()} == dict.fromkeys(made.template, np.float32)
    return flat({name: array.numpy() for name, array in arrays.items()}), weight


def step_of(made: Sums, cohort: int) -> float:
    """By how much rounding moves the mean at most: each institution by less than one step of the quantiser."""
    quantiser = made.training.quantiser(made.training.segments[0])
    return cohort * quantiser.bound / quantiser.largest


def test_a_training_vector_is_the_update_and_the_weight_and_an_evaluation_vector_the_counts() -> None:
    made = sums()
    assert [(one.name, one.kind, one.words) for one in made.training.segments] == [
        ("update", "values", PARAMETERS),
        ("weight", "integers", 2),
    ]
    counted = made.evaluation(1)
    assert [(one.name, one.kind, one.words) for one in counted.segments] == [
        ("scores", "integers", 3 * 2 * 1000 * 2),  # female, male and unknown
        ("loss", "integers", 3),
        ("counting", "integers", 1),
    ]
    assert (made.training.wire_bits, counted.wire_bits) == (24, 24)
    assert made.schema("train", 1) is made.training
    assert made.schema("evaluate", 1) == counted


def test_another_cohort_bound_or_model_is_another_vector() -> None:
    hashes = {made.training.sha256 for made in (sums(), sums(cohort=5), sums(bound=2.0))}
    assert len(hashes) == 3
    assert sums().training.sha256 == sums(0.2).training.sha256  # the strategy is in the contract


@pytest.mark.parametrize("weight_cap", [100_000, 200, 1])
def test_the_model_of_a_sum_is_the_weighted_mean_that_numpy_computes(weight_cap: int) -> None:
    made = sums(weight_cap=weight_cap)
    replies = [trained(made, number) for number in range(4)]
    mean, weight = mean_of(made, replies)
    weights = np.minimum(RECORDS, weight_cap)
    by_hand = np.average([flat(one.after) for one in replies], axis=0, weights=weights)
    assert weight == weights.sum()
    # Each institution's update is scaled by its weight over the cap before it is rounded.
    allowed = step_of(made, 4) * made.form.scale / weights.sum()
    assert np.abs(mean - by_hand).max() <= allowed + 2e-7


def test_under_privacy_every_institution_weighs_the_same() -> None:
    asked = terms(**SUMMED)
    made = sums_of(asked, program(asked, 4), 4)
    replies = [replace(trained(made, number), records=1) for number in range(4)]
    mean, weight = mean_of(made, replies)
    assert weight == 4
    by_hand = np.mean([flat(one.after) for one in replies], axis=0)
    assert np.abs(mean - by_hand).max() <= step_of(made, 4) / 4 + 2e-7


def test_a_change_beyond_the_bound_is_cut_to_it_and_the_institution_is_told_how_often() -> None:
    made = sums(bound=0.25)
    replies = [trained(made, number, scale=1.0) for number in range(4)]
    assert isinstance(made.form, WeightedMean)
    cap, before = made.form.weight_cap, flat(replies[0].before)
    updates = [(flat(one.after) - before) * one.records / cap for one in replies]
    saturated = [training_words(made, one, os.urandom).saturated for one in replies]
    assert saturated == [int((np.abs(update) > 0.25).sum()) for update in updates]
    assert max(saturated) > 5
    mean, _ = mean_of(made, replies)
    by_hand = before + np.sum([update.clip(-0.25, 0.25) for update in updates], axis=0) * cap / sum(RECORDS)
    assert np.abs(mean - by_hand).max() <= step_of(made, 4) * cap / sum(RECORDS) + 2e-7


def test_weights_that_add_up_to_nothing_make_no_model() -> None:
    made = sums()
    with pytest.raises(TrainingFailed, match="weights add up to nothing"):
        mean_of(made, [replace(trained(made, number), records=0) for number in range(4)])


class Nodes:
    """What a strategy asks of a grid when it chooses whom to ask."""

    @staticmethod
    def get_node_ids() -> list[int]:
        return [1, 2, 3, 4]


def by_flower(chosen: Strategy, replies: Sequence[Trained]) -> npt.NDArray[np.float64]:
    """What Flower's strategy makes of the same replies, seen one by one."""
    enter_run(1)
    inner = chosen.build(Federation(4, 4, LEARNING_RATE), is_summed=False)
    start = record_of(dict(replies[0].before))
    list(inner.configure_train(1, start, ConfigRecord(), Nodes()))  # type: ignore[arg-type]
    messages = []
    for node, one in enumerate(replies, start=1):
        metrics = MetricRecord({WEIGHT_KEY: one.records, TRAIN_LOSS_KEY: float(one.loss or 0)})
        content = RecordDict({"arrays": record_of(dict(one.after)), "metrics": metrics})
        messages.append(Message(content, reply_to=Message(RecordDict(), dst_node_id=node, message_type="train")))
    arrays, _ = inner.aggregate_train(1, messages)
    assert arrays is not None
    return flat({name: arrays[name].numpy() for name in replies[0].before})


@pytest.mark.parametrize("q", [0.0, 2.0])
def test_the_sum_form_of_qfedavg_makes_the_model_of_flowers_own(q: float) -> None:
    made = sums(q)
    assert made.form == FairMean(q, LEARNING_RATE)
    replies = [trained(made, number, loss) for number, loss in enumerate((0.3, 0.9, 0.5, 4.0))]
    mean, _ = mean_of(made, replies)
    expected = by_flower(QFedAvg(q), replies)
    # Factors of F^q / 10^q and weights in 1/65536 leave so much less than one for the rounding.
    size = sum((one.loss or 0) ** q / 10**q for one in replies)
    assert (
        np.abs(mean - expected).max()
        <= 2 * step_of(made, 4) / size + 1e-3 * np.abs(expected - flat(replies[0].before)).max()
    )
    plain = np.mean([flat(one.after) for one in replies], axis=0)
    assert (np.abs(expected - plain).max() < 1e-5) == (q == 0)  # what q changes is more than what is allowed for


def test_the_sum_form_of_fedavg_makes_the_model_of_flowers_own() -> None:
    made = sums()
    replies = [trained(made, number) for number in range(4)]
    assert np.abs(mean_of(made, replies)[0] - by_flower(FedAvg(), replies)).max() <= step_of(made, 4) + 1e-6


def test_qfedavg_without_a_loss_releases_nothing() -> None:
    made = sums(1.0)
    with pytest.raises(TrainingFailed, match="nothing was released"):
        training_words(made, trained(made, 0, None), os.urandom)


FORMS = st.one_of(
    st.builds(WeightedMean, st.integers(1, LARGEST_WEIGHT)),
    st.builds(FairMean, st.floats(0, 10), st.floats(1e-6, 10)),
)


@given(FORMS, st.floats(0, LARGEST_VALUE * 40), st.integers(1, 10**9), st.floats(0, 100))
def test_whatever_was_trained_the_factor_and_the_weight_fit_the_vector(
    form: WeightedMean | FairMean, norm: float, records: int, loss: float
) -> None:
    part = form.part(norm, records, loss)
    assert 0 <= part.factor <= 1
    assert 0 <= part.weight <= LARGEST_WEIGHT
    assert form.scale >= 1


# -- who can be summed


def test_without_secure_aggregation_there_is_nothing_to_add_up() -> None:
    asked = terms(privacy=WITHOUT)
    with pytest.raises(ConfigError, match="secure_aggregation=on"):
        sums_of(asked, program(asked, 4), 4)


@pytest.mark.parametrize("cohort", [1, 2])
def test_fewer_than_three_institutions_cannot_be_summed(cohort: int) -> None:
    asked = terms(privacy=WITHOUT, **SUMMED)
    with pytest.raises(ConfigError, match=rf"at least 3 institutions, and {cohort} take part"):
        sums_of(asked, program(asked, cohort), cohort)


def test_shared_noise_is_one_vector_of_whole_numbers() -> None:
    asked = terms(noise="shared", **SUMMED)
    made = program(asked, 4)
    shared = sums_of(asked, made, 4)
    (segment,) = shared.training.segments
    assert made.shared is not None
    # Another grid or noise is another vector, which an institution refuses.
    assert segment.name == f"share of variance {made.shared.variance} on a grid of {made.shared.grid!r}"
    assert (segment.kind, segment.length) == ("ring", PARAMETERS)
    assert made.shared is not None
    assert shared.training.wire_bits == made.shared.wire_bits
    with pytest.raises(ValueError, match="outside"):
        share_words(shared, np.full(PARAMETERS, made.shared.most + 1, dtype=np.int64), os.urandom)


# -- histograms


def private(noise: str, by_institution: bool = False) -> Sums:
    """Three rounds, evaluated after the first, the second and the last, with noise."""
    evaluation = Private(every=1, bins=4, confidence=0.95, epsilon=1.0, by_institution=by_institution)
    asked = terms(evaluation=evaluation, noise=noise, rounds=3, **SUMMED)
    return sums_of(asked, program(asked, 4), 4)


def exact(made: Sums, number: int, largest: int = 50) -> tuple[Tables, float]:
    numbers = np.random.default_rng(number)
    tables = {part.name: numbers.integers(0, largest, part.layout.shape) for part in made.evaluating.parts(3)}
    return tables, float(numbers.uniform(0, 3) * sum(table.sum() for table in tables.values()))


def made_by(made: Sums, number: int, tables: Tables, loss_sum: float = 0.0, is_counted: bool = True) -> Words:
    """An institution's vector of the last round."""
    return evaluation_words(made, 3, Made(tables, loss_sum, is_counted, number), os.urandom)


def evaluated(made: Sums, words: Sequence[Words]) -> dict[str, Any] | None:
    record = evaluated_of_sum(made, summed(words), 3, ("abcd"[: len(words)], "abcd"))
    return None if record is None else dict(record)


@pytest.mark.parametrize("declining", [(), (2,), (0, 1, 3)])
def test_exact_counts_add_up_over_the_institutions_that_count(declining: tuple[int, ...]) -> None:
    made = sums()
    every = [exact(made, number) for number in range(4)]
    zeros = made.evaluating.nothing(3)
    found = evaluated(
        made,
        [
            made_by(made, number, zeros, is_counted=False)
            if number in declining
            else made_by(made, number, *every[number])
            for number in range(4)
        ],
    )
    assert found is not None
    counting = [one for number, one in enumerate(every) if number not in declining]
    assert found["scores"] == np.sum([tables["scores"] for tables, _ in counting], axis=0).ravel().tolist()
    assert found["loss-sum"] == pytest.approx(sum(loss for _, loss in counting), abs=4 / 2048)


def test_hundreds_of_millions_in_one_cell_are_counted_exactly() -> None:
    made = sums()
    tables, _ = exact(made, 0, largest=1)
    tables["scores"][0, 1, 7] = 987_654_321
    found = evaluated(made, [made_by(made, number, tables) for number in range(4)])
    assert found is not None
    assert found["scores"] == (4 * tables["scores"]).ravel().tolist()


@pytest.mark.parametrize("noise", ["own", "shared"])
def test_the_sum_of_noised_histograms_has_every_institutions_noise_and_each_ones_own_beside(noise: str) -> None:
    made = private(noise, by_institution=True)
    every = [exact(made, number)[0] for number in range(4)]
    streams = [Randomness(number).stream("evaluation-noise") for number in range(4)]
    noised = [made.evaluating.released(one, 3, stream) for one, stream in zip(every, streams, strict=True)]
    found = evaluated(made, [made_by(made, number, one) for number, one in enumerate(noised)])
    assert found is not None
    assert found["noises"] == 4
    for name in ("decisions", "scores"):
        whole = np.sum([one[name] for one in noised], axis=0).ravel().tolist()
        assert found[name] == whole != np.sum([one[name] for one in every], axis=0).ravel().tolist()
    for number, name in enumerate("abcd"):
        assert found[f"own/{name}"] == noised[number]["own"].ravel().tolist()
    assert "loss-sum" not in found  # an exact loss would undo the noise


def test_who_keeps_its_counts_at_home_still_adds_its_noise_for_the_others() -> None:
    made = private("shared")
    zeros = made.evaluating.nothing(3)
    released = made.evaluating.released(zeros, 3, Randomness(1).stream("evaluation-noise"))
    assert any(table.any() for table in released.values())
    words = [made_by(made, number, released, is_counted=number > 0) for number in range(4)]
    found = evaluated(made, words)
    assert found is not None
    assert found["noises"] == 4


def test_another_plan_is_another_vector() -> None:
    hashes = {one.evaluation(3).sha256 for one in (private("own"), private("shared"), private("own", True), sums())}
    assert len(hashes) == 4


def test_where_nobody_counts_there_are_no_counts() -> None:
    made = sums()
    words = [made_by(made, number, made.evaluating.nothing(3), is_counted=False) for number in range(4)]
    assert evaluated(made, words) is None


def test_a_q_whose_weights_would_round_to_nothing_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.q is 5, and beyond 2"):
        QFedAvg(5.0).sum_form(1, 0.5)
