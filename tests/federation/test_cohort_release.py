"""The institution as the unit: clipped, summed, noised, divided by the declared cohort, before a strategy sees it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compositions import sim_config
from safetensors.numpy import load_file
from voices import Quiet

from lepton_fl import strategies
from lepton_fl.errors import ConfigError
from lepton_fl.federation.cohort_release import (
    CohortRelease,
    check_noisy_mean,
    clipped,
    cost_of_few,
    flat,
    noisy_mean,
    shaped,
)
from lepton_fl.federation.summed import Trained, training_words
from lepton_fl.flower import Array, ArrayRecord, Message, MetricRecord, RecordDict, enter_run
from lepton_fl.privacy.accounting import epsilon_spent
from lepton_fl.privacy.randomness import Randomness, Stream
from lepton_fl.results.folder import Folder
from lepton_fl.results.lines import opening, round_line
from lepton_fl.run import Names
from lepton_fl.secure_aggregation.vector import from_sum
from lepton_fl.simulation import Plan, SimConfig, plan, simulate
from lepton_fl.training.private import Mechanism
from lepton_fl.training.self_test import UnsoundMechanism, check_noise

QUIET = Mechanism(noise_multiplier=1e-9, clipping_norm=1.0, sampling_rate=1.0, expected_batch=4.0)
LOUD = replace(QUIET, noise_multiplier=2.0)
MEAN_ONLY = ["fedavg", "fedavgm", "fedprox", "fedadagrad", "fedadam", "fedyogi"]


def configured(*overrides: str) -> SimConfig:
    shared = ["rounds=2", "privacy=institution", "secure_aggregation=off"]
    return sim_config(*shared, *overrides)


def planned(*overrides: str) -> Plan:
    return plan(configured(*overrides), Names("heart", "logistic", "fedavg"))


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def stream(seed: int = 0) -> Stream:
    return Randomness(seed).stream("noise")


def test_the_mean_of_clipped_updates_is_that_worked_out_by_hand() -> None:
    """(3, 4) is clipped to (0.6, 0.8), (0, 0.5) is not; the declared cohort is 4, whoever came."""
    found = noisy_mean([vector(3.0, 4.0), vector(0.0, 0.5)], 2, QUIET, stream())
    assert torch.allclose(found, vector(0.6 / 4, 1.3 / 4), atol=1e-3)


def test_an_update_moves_the_mean_by_no_more_than_its_share_of_the_clipping_norm() -> None:
    others, huge = [vector(1.0, 0.0)] * 3, vector(-1e6, 1e6)
    moved = noisy_mean([*others, huge], 2, LOUD, stream()) - noisy_mean(others, 2, LOUD, stream())
    assert float(moved.norm()) <= 1.0 / 4 * (1 + 1e-5)


@pytest.mark.parametrize("replies", [0, 1, 4])
def test_the_noise_is_full_however_many_replied(replies: int) -> None:
    release = noisy_mean([torch.zeros(10_000, dtype=torch.float64)] * replies, 10_000, LOUD, stream())
    assert float(release.std()) == pytest.approx(2.0 / 4, rel=0.05)


def test_a_model_survives_the_way_to_a_vector_and_back() -> None:
    arrays = ArrayRecord({"b": Array(np.ones((2, 3), np.float32)), "a": Array(np.full((1,), 5, np.float32))})
    assert flat(arrays).tolist() == [5.0, 1, 1, 1, 1, 1, 1]
    again = shaped(flat(arrays), arrays)
    assert list(again) == ["b", "a"]
    assert all(np.array_equal(again[name].numpy(), arrays[name].numpy()) for name in arrays)


def test_the_strategy_gets_one_reply_of_weight_one_with_the_mean_update_applied() -> None:
    enter_run(1)

    def model(*values: float) -> ArrayRecord:
        return ArrayRecord({"w": Array(np.array(values, np.float32))})

    replies = []
    for number, arrays in enumerate((model(1.3, 1.4), model(1.0, 1.5))):
        asked = Message(RecordDict(), dst_node_id=number + 2, message_type="train")
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 700, "train-loss": 3.0})})
        replies.append(Message(content, reply_to=asked))
    one = CohortRelease(QUIET, Randomness(0)).reply(replies, model(1.0, 1.0), 1)
    assert np.allclose(one.content.array_records["arrays"]["w"].numpy(), [1 + 0.3 / 4, 1 + 0.9 / 4], atol=1e-3)
    assert dict(one.content.metric_records["metrics"]) == {"num-examples": 1}


def test_each_round_has_noise_of_its_own() -> None:
    source, quiet = Randomness(0), vector(0.0)
    rounds = [source.within("cohort-noise", number).stream("noise") for number in (1, 2, 1)]
    first, second, again = (noisy_mean([quiet], 1, LOUD, one) for one in rounds)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_the_budget_is_that_of_one_full_gaussian_a_round() -> None:
    claim = planned("rounds=5").run.facts.claim
    assert (claim.steps, claim.sampling_rate, claim.unit) == (5, 1.0, "institution")
    assert claim.noise_multiplier is not None
    assert epsilon_spent(claim.noise_multiplier, 1e-3, 1.0, 5) <= 8.0


@pytest.mark.parametrize("name", sorted(strategies.TABLE))
def test_a_strategy_that_compares_single_updates_is_refused(name: str) -> None:
    if name in MEAN_ONLY:
        assert planned(f"strategy={name}", "institutions=7", "task=digits").run.at_server is not None
    else:
        with pytest.raises(ConfigError, match="nothing was trained"):
            planned(f"strategy={name}", "institutions=7", "task=digits")


def test_under_masks_each_institution_clips_its_own_update_and_the_release_is_the_same(tmp_path: Path) -> None:
    models = {}
    for masks in ("on", "off"):
        one = planned("seed=4", f"secure_aggregation={masks}", "privacy.clipping_norm=0.01")
        simulate(one, Folder(tmp_path / masks), Quiet())
        models[masks] = load_file(tmp_path / masks / "model.safetensors")
    for name, value in models["off"].items():
        assert np.allclose(models["on"][name], value, atol=1e-4), name


def test_an_update_under_masks_adds_no_more_than_the_clipping_norm_after_it_was_rounded() -> None:
    sums = planned("secure_aggregation=on").run.sums
    assert sums is not None
    template = sums.template
    zeros = {name: np.zeros(shape, np.float32) for name, shape in template.items()}
    for size in (0.001, 1.0, 1000.0):
        after = {name: np.full(shape, size, np.float32) for name, shape in template.items()}
        words = training_words(sums, Trained(zeros, after, 1, None), os.urandom).words
        added = from_sum(sums.training, words)["update"]
        assert np.linalg.norm(added) <= 1.0
        assert size < 1.0 or np.linalg.norm(added) > 0.99


def test_a_model_so_large_that_rounding_fills_the_clipping_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no room under the clipping norm"):
        planned("secure_aggregation=on", "privacy.clipping_norm=1e-6")


def test_a_seeded_run_repeats_itself_and_says_that_it_is_not_private(tmp_path: Path) -> None:
    one = planned("seed=4", "strategy=fedadam", "cohort_size=3")
    outcomes = [simulate(one, Folder(tmp_path / name), Quiet()) for name in ("first", "again")]
    assert outcomes[0].model_sha256 == outcomes[1].model_sha256
    assert "not private" in round_line(outcomes[0].reports[-1], one.run.facts)


def test_an_unseeded_run_says_its_unit_what_it_costs_and_what_the_operator_sees(tmp_path: Path) -> None:
    one = planned()
    outcome = simulate(one, Folder(tmp_path / "out"), Quiet())
    said = "\n".join(opening(one.run.facts))
    assert "per institution (add or remove one institution), epsilon 8.00" in said
    assert "added by the operator" in said
    assert "with 4 institutions in a round, the noise" in said
    assert "this unit needs 100 institutions and more" in said
    assert "the operator sees each institution's exact update" in said
    assert "epsilon 8.00 of 8.00 per institution" in round_line(outcome.reports[-1], one.run.facts)


def test_many_institutions_are_not_warned_of_their_number() -> None:
    assert cost_of_few(replace(LOUD, expected_batch=100.0), 39) is None
    few = cost_of_few(replace(LOUD, expected_batch=10.0), 100)
    assert few is not None
    assert "0.2 clipping norms in each of 100 parameters, 2 in all" in few


def test_what_institutions_send_tells_no_number_of_records() -> None:
    assert not planned().run.program.is_counted


def test_a_delta_at_which_an_institution_could_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="about 4 institutions allows one of them"):
        planned("privacy.delta=0.3")


def test_the_self_test_of_the_mean_stops_noise_that_is_not_the_claimed_one() -> None:
    check_noisy_mean(LOUD, Randomness(None))
    halved, source = replace(LOUD, noise_multiplier=1.0), stream()
    with pytest.raises(UnsoundMechanism, match="failed at noise"):
        check_noise(LOUD.stddev / LOUD.expected_batch, lambda width: noisy_mean([], width, halved, source))


def test_a_clipped_update_keeps_its_direction() -> None:
    assert torch.allclose(clipped(vector(3.0, 4.0), 1.0), vector(0.6, 0.8))
    assert torch.equal(clipped(vector(0.3, 0.4), 1.0), vector(0.3, 0.4))
