"""A mean of one reply is that reply."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_fl.flower import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict, enter_run
from lepton_fl.strategies.averaging import FedAvg, FedAvgM, FedProx
from lepton_fl.strategies.mean_of_one import aggregated
from lepton_fl.strategies.strategy import TRAIN_LOSS_KEY, WEIGHT_KEY, Federation, Strategy

MODEL = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)


def reply(model: np.ndarray, weight: int) -> Message:
    told = MetricRecord({WEIGHT_KEY: weight, TRAIN_LOSS_KEY: 0.5})
    content = RecordDict({"arrays": ArrayRecord({"w": Array(model)}), "metrics": told})
    return Message(content, 1, MessageType.TRAIN)


@pytest.mark.parametrize("chosen", [FedAvg(), FedProx(proximal_mu=0.1), FedAvgM(1.0, 0.5)])
@pytest.mark.parametrize("weights", [(7,), (7, 2)])
def test_an_aggregation_is_flowers_own_to_the_bit(chosen: Strategy, weights: tuple[int, ...]) -> None:
    enter_run(1)
    replies = [reply(MODEL * number, weight) for number, weight in enumerate(weights, 1)]
    ours, theirs = (chosen.build(Federation(2, 2, 0.1), is_summed=False) for _ in range(2))
    for strategy in (ours, theirs):
        strategy.current_arrays = ArrayRecord({"w": Array(np.zeros_like(MODEL))})
    found, told = aggregated(ours, 1, replies)
    right, told_right = theirs.aggregate_train(1, replies)
    assert found is not None
    assert right is not None
    assert found["w"].data == right["w"].data
    assert told == told_right
