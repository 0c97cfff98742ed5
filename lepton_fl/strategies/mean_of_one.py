"""A round's aggregation by Flower's strategy, or without it where its mean needs no arithmetic.

A cohort's sum, or a folded round, comes as one reply. A model times a weight of one is that model, and each way through
Flower's arrays is a copy and a header to be read.
"""

from __future__ import annotations

from collections.abc import Sequence

from lepton_fl.flower import ArrayRecord, Message, MetricRecord
from lepton_fl.flower import strategies as flower
from lepton_fl.strategies.strategy import WEIGHT_KEY

_MEANS = (flower.FedAvg, flower.FedProx)


def aggregated(
    strategy: flower.Strategy, round: int, replies: Sequence[Message]
) -> tuple[ArrayRecord | None, MetricRecord | None]:
    """What the strategy's `aggregate_train` makes of checked replies, to the bit."""
    if type(strategy) in _MEANS and len(replies) == 1:
        records = list(replies[0].content.values())
        arrays = [one for one in records if isinstance(one, ArrayRecord)]
        metrics = [one for one in records if isinstance(one, MetricRecord)]
        if len(arrays) == len(metrics) == 1:
            return arrays[0], MetricRecord({key: one for key, one in metrics[0].items() if key != WEIGHT_KEY})
    return strategy.aggregate_train(round, replies)
