"""Weights of groups in an instruction: only as signed, only in training, and only a table that fits the task."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from proposals import NOWHERE, WITHOUT, terms

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.settings import Exact, Private
from lepton_fl.fairness.settings import (
    Fairness,
    GlobalReweighing,
    GroupWeights,
    LocalReweighing,
    NoFairness,
    Thresholds,
)
from lepton_fl.fairness.steering import steering_of
from lepton_fl.federation.arrays import template_of, to_arrays
from lepton_fl.federation.client_app import local_task, share_of_step
from lepton_fl.federation.contract import COHORT_KEY, CONTRACT_KEY
from lepton_fl.federation.drift import Agreed, drift
from lepton_fl.federation.histograms import as_plain, from_record, to_record
from lepton_fl.federation.installed import installed_task
from lepton_fl.federation.journal import NoJournal, Progress, RoundReport
from lepton_fl.federation.program import program
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.federation.summed import sums_of
from lepton_fl.federation.terms import Terms, from_document, from_json, to_json
from lepton_fl.flower import ConfigRecord, Message, RecordDict, enter_run
from lepton_fl.privacy.books import TUNED_ON
from lepton_fl.privacy.units import RecordPrivacy
from lepton_fl.secure_aggregation.settings import On
from lepton_fl.strategies.strategy import Federation
from lepton_fl.tasks.split import HoldOut
from lepton_fl.training.examples import Examples, Site
from lepton_fl.training.weights import WEIGHTS_KEY

TUNED = HoldOut("lepton-fl/hold-out/1", 0.2, 0.1)
GROUP = GroupWeights(attribute="sex", most=3.0, target="recall", step=1.0)
PRIVATE = Private(every=5, bins=20, confidence=0.95, epsilon=1.0, by_institution=False)
ADULT = RecordPrivacy(epsilon=3.0, delta=1e-5, clipping_norm=1.0)
EVEN = [1.0] * 6  # heart: Male, Female, unknown; two labels
SETTINGS: dict[str, Fairness] = {
    "none": NoFairness(),
    "local_rw": LocalReweighing(attribute="sex", most=3.0),
    "global_rw": GlobalReweighing(attribute="sex", most=3.0),
    "group": GROUP,
    "thresholds": Thresholds(attribute="sex", target="recall", legal_basis="the law of somewhere, section 3"),
}


def signed(fairness: Fairness = GROUP, **parts: Any) -> Terms:
    known: dict[str, Any] = {"fairness": fairness, "holdout": TUNED, "evaluation": PRIVATE}
    return terms(**(known | parts))


def instruction(asked: Terms, kind: str = "train", **config: Any) -> Message:
    enter_run(1)
    arrays = to_arrays(program(asked, 4).model)
    said = {"server-round": 1, COHORT_KEY: 4, CONTRACT_KEY: "ab" * 32, **config}
    return Message(RecordDict({"arrays": arrays, "config": ConfigRecord(said)}), dst_node_id=2, message_type=kind)


def said_of(asked: Terms, message: Message) -> str | None:
    return drift(Agreed("ab" * 32, asked, 2, template_of(program(asked, 4).model)), message)


def site(weights: np.ndarray | None = None) -> Site:
    examples = Examples(torch.randn(6, 38), torch.tensor([0, 1] * 3), groups=torch.tensor([0, 0, 1, 1, 2, 2]))
    return Site("Cleveland", examples, examples, examples, weights=weights)


@pytest.mark.parametrize("name", SETTINGS)
def test_fairness_travels_with_the_terms(name: str) -> None:
    asked = signed(SETTINGS[name])
    assert from_json(to_json(asked)).fairness == SETTINGS[name]


def test_weights_as_signed_are_no_drift() -> None:
    asked = signed()
    assert said_of(asked, instruction(asked, **{WEIGHTS_KEY: EVEN})) is None
    assert said_of(asked, instruction(asked)) is None


@pytest.mark.parametrize("fairness", [SETTINGS["none"], SETTINGS["local_rw"], SETTINGS["thresholds"]])
def test_weights_that_nobody_signed_are_drift(fairness: Fairness) -> None:
    asked = signed(fairness)
    said = said_of(asked, instruction(asked, **{WEIGHTS_KEY: EVEN}))
    assert said is not None
    assert said.startswith("fairness: ")


def test_weights_are_part_of_training_alone() -> None:
    asked = signed()
    said = said_of(asked, instruction(asked, "evaluate", **{"server-round": 5, WEIGHTS_KEY: EVEN}))
    assert said is not None
    assert said.startswith("fairness: ")


@pytest.mark.parametrize(
    "bad", [[1.0] * 5, [1.0] * 7, [1] * 6, 1.0, "weights", [3.1, *EVEN[1:]], [0.3, *EVEN[1:]], [float("nan")] * 6]
)
def test_weights_that_do_not_fit_are_drift_and_never_trained_with(bad: Any) -> None:
    asked = signed()
    message = instruction(asked, **{WEIGHTS_KEY: bad})
    said = said_of(asked, message)
    assert said is not None
    assert said.startswith("fairness")


@pytest.mark.parametrize("bad", [[1.0] * 5, [1] * 6, "weights", [6.0, *EVEN[1:]], [float("inf")] * 6])
def test_an_institution_trains_with_no_table_that_does_not_fit_the_task(bad: Any) -> None:
    asked = signed()
    with pytest.raises(ValueError, match="weights"):
        local_task(program(asked, 4), site(), instruction(asked, **{WEIGHTS_KEY: bad}))


def test_the_instructions_weights_reach_training_row_by_row() -> None:
    asked = signed()
    told = [0.5, 1.5, 2.0, 1.0, 1.0, 0.75]
    task = local_task(program(asked, 4), site(), instruction(asked, **{WEIGHTS_KEY: told}))
    assert task.weights is not None
    assert task.weights.tolist() == [[0.5, 1.5], [2.0, 1.0], [1.0, 0.75]]


def test_an_institutions_own_weights_reach_training() -> None:
    asked, own = signed(SETTINGS["local_rw"]), np.full((3, 2), 2.0)
    assert local_task(program(asked, 4), site(own), instruction(asked)).weights is own
    assert local_task(program(asked, 4), site(), instruction(asked)).weights is None


def test_a_share_of_shared_noise_is_of_weighted_gradients() -> None:
    """Record 0's gradient is beyond the clipping norm; a weight of a fifth of the largest leaves a fifth of it."""
    asked = signed(noise="shared", secure_aggregation=On(update_bound=1.0), seed=1)
    made = program(asked, 4)
    assert made.shared is not None
    crowd = Examples(torch.ones(2000, 38), torch.ones(2000, dtype=torch.int64), groups=torch.zeros(2000).long())
    here = Site("Cleveland", crowd, crowd, crowd)

    def norm(weights: list[float]) -> float:
        message = instruction(asked, **{WEIGHTS_KEY: weights})
        task = local_task(made, here, message)
        return float(np.linalg.norm(share_of_step(made, here, message, task)))

    assert norm([0.5, 0.5, 2.5, 1.0, 1.0, 1.0]) == pytest.approx(norm(EVEN) / 5, rel=0.1)


@pytest.mark.parametrize("name", ["global_rw", "group", "thresholds", "local_rw"])
def test_what_is_decided_from_noisy_counts_needs_subjects_set_apart(name: str) -> None:
    with pytest.raises(ConfigError, match=r"holdout\.tune=0\.1"):
        program(terms(fairness=SETTINGS[name], evaluation=PRIVATE), 4)


def test_without_privacy_an_institution_counts_its_own_training_records() -> None:
    program(terms(fairness=SETTINGS["local_rw"], privacy=WITHOUT), 4)


def test_an_attribute_that_the_task_lacks_stops_the_run_before_it_starts() -> None:
    with pytest.raises(ConfigError, match=r"task\.sensitive has sex"):
        program(signed(replace(GROUP, attribute="race")), 4)


def test_the_server_takes_a_shared_step_that_is_longer_by_the_largest_weight() -> None:
    asked = signed(noise="shared", secure_aggregation=On(update_bound=1.0), seed=1)
    made = program(asked, 4)
    sums = sums_of(asked, made, 4)
    assert sums.step is not None
    before, total = to_arrays(made.model), np.full(made.shared.parameters, 1000)  # type: ignore[union-attr]
    plain, longer = (sums.step.taken(total, before, 1, gain) for gain in (1.0, 2.5))
    moved = [after[name].numpy() - before[name].numpy() for after in (plain, longer) for name in before]
    half = len(moved) // 2
    for one, two in zip(moved[:half], moved[half:], strict=True):
        assert np.allclose(two, 2.5 * one, rtol=1e-4)


def test_only_the_steered_attribute_is_counted_of_the_subjects_set_apart() -> None:
    adult = from_document("task", installed_task("adult", NOWHERE))
    asked = signed(task=adult, evaluation=PRIVATE, privacy=ADULT)
    parts = {part.name: part for part in program(asked, 5).evaluating.parts(5)}
    assert parts["tune"].layout.shape == (3, 2, 2)
    assert parts["decisions"].layout.shape == (18, 2, 2)


def test_who_is_read_once_is_charged_once_and_has_the_least_noise() -> None:
    def tune(fairness: Fairness) -> tuple[list[str], int]:
        made = program(signed(fairness, evaluation=PRIVATE), 4).evaluating
        final = {part.name: part for part in made.parts(30)}["tune"]
        return [charge.name for charge in made.charges() if charge.part == TUNED_ON], final.variance

    often, once = tune(GROUP), tune(SETTINGS["thresholds"])
    assert often[0] == ["steering", "final steering"]
    assert once[0] == ["final steering"]
    assert once[1] < often[1]


def test_nobody_is_counted_where_nobody_is_steered() -> None:
    made = program(signed(SETTINGS["none"], evaluation=PRIVATE), 4).evaluating
    assert all(part.name != "tune" for round in (5, 30) for part in made.parts(round))


@pytest.mark.parametrize("parts", [{"noise": "shared", "secure_aggregation": On(update_bound=1.0)}, {}])
def test_own_weights_under_privacy_need_noise_of_ones_own_and_a_private_evaluation(parts: dict[str, Any]) -> None:
    evaluation = PRIVATE if parts else Exact(1, 20, 0.95)
    with pytest.raises(ConfigError, match="fairness=local_rw under privacy"):
        program(signed(SETTINGS["local_rw"], evaluation=evaluation, **parts), 4)


class Nodes:
    """What a strategy asks of a grid when it chooses whom to ask."""

    @staticmethod
    def get_node_ids() -> list[int]:
        return [1, 2, 3, 4]


def test_a_run_that_goes_on_after_a_crash_sends_the_weights_of_one_that_was_not_interrupted() -> None:
    """They follow from the released counts, which the reports keep: no other state can be lost."""
    asked = signed()
    made, names = program(asked, 4), {number: f"site {number}" for number in (1, 2, 3, 4)}
    evaluating, numbers = made.evaluating, np.random.default_rng(0)
    straight, resumed = (steering_of(GROUP, asked.task.groups(), 2) for _ in range(2))
    assert straight is not None
    reports = []
    for round in (5, 10):
        tables = {part.name: numbers.integers(200, 900, part.shape) for part in evaluating.parts(round)}
        shown = from_record(evaluating, round, to_record(tables, None, 1), (100_000, 1))
        assert shown.tune is not None
        straight.learned(round, shown.tune)
        report = RoundReport(round, histograms=as_plain(shown, is_final=False))
        reports.append(RoundReport.from_plain(json.loads(json.dumps(report.as_plain()))))

    expected = Expected(template_of(made.model), evaluating, 1, 100_000, with_loss=False)
    run = Run(names, expected, NoJournal(made.randomness), None, lambda report: None, 1, None, steering=resumed)
    inner = asked.strategy.build(Federation(4, 4, 0.1), is_summed=False)
    arrays = to_arrays(made.model)
    rounds = Rounds(inner, run, Progress(arrays, reports=tuple(reports)))
    enter_run(1)
    sent = list(rounds.configure_train(1, arrays, ConfigRecord(), Nodes()))  # type: ignore[arg-type]

    weights = straight.weights()
    assert weights is not None
    assert weights.min() < 0.99
    assert weights.max() > 1.01
    for message in sent:
        assert message.content.config_records["config"][WEIGHTS_KEY] == weights.ravel().tolist()
