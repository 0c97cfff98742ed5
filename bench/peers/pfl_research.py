"""W2 by pfl-research (package pfl): FederatedAveraging on its simulated backend, one process."""

from __future__ import annotations

import random

import numpy as np
import torch
import workload
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

MANY = 1_000_000


class Module(nn.Module):
    """The model, with what pfl asks of one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = workload.model()

    def loss(self, features: Tensor, labels: Tensor, is_eval: bool = False) -> Tensor:
        """Mean cross-entropy."""
        self.eval() if is_eval else self.train()
        return nn.functional.cross_entropy(self.net(features), labels)

    def metrics(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Nothing is evaluated after the first round."""
        return {}


class Cohorts:
    """Which institution comes next: pfl asks for one at a time, and never for one of a later round."""

    def __init__(self) -> None:
        self._round, self._waiting = 0, []

    def __call__(self) -> int:
        if not self._waiting:
            self._round += 1
            self._waiting = workload.cohort(self._round)
        return self._waiting.pop(0)


class ByRequest(TrainingProcessCallback):
    """Ends each round, and waits for the next to be asked for."""

    def __init__(self, turns: workload.Turns, rounds: object) -> None:
        self._turns, self._rounds = turns, rounds

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """pfl's own name for the end of a round."""
        self._turns.done(list(model.pytorch_model.parameters()))
        return next(self._rounds, None) is None, Metrics()


def main() -> None:
    """Rounds by request."""
    began = workload.before()
    workload.limit_threads()
    turns = workload.Turns("pfl-research", began)
    random.seed(0)
    np.random.seed(0)
    data = workload.institutions()
    users = [Dataset(raw_data=list(one)) for one in data]
    training = FederatedDataset(lambda user: users[user], Cohorts())
    module = Module()
    central = torch.optim.SGD(module.parameters(), lr=1.0)
    model = PyTorchModel(module, torch.optim.SGD, central)
    backend = SimulatedBackend(training, training)
    train = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=workload.LEARNING_RATE, local_batch_size=workload.BATCH
    )
    asked = NNAlgorithmParams(
        central_num_iterations=MANY, evaluation_frequency=MANY, train_cohort_size=workload.COHORT, val_cohort_size=0
    )
    turns.ready()
    rounds = iter(turns)
    if next(rounds, None) is not None:
        nothing, ends = NNEvalHyperParams(local_batch_size=None), [ByRequest(turns, rounds)]
        FederatedAveraging().run(asked, backend, model, train, nothing, ends, send_metrics_to_platform=False)


if __name__ == "__main__":
    main()
