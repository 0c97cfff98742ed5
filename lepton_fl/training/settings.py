"""The local schedule: how many steps, on how many records, with which optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lepton_fl.errors import ConfigError
from lepton_fl.training.optimizers import Adam, Optimizer, Sgd

SGD, ADAM = OPTIMIZERS = ("sgd", "adam")


@dataclass
class Training:
    """What one institution does in one round. An epoch is 1 / sampling_rate steps."""

    local_steps: int  # steps per round
    sampling_rate: float  # chance of a record to enter a step (Poisson when private), in (0, 1]
    learning_rate: float  # of the first round
    learning_rate_decay: float  # factor per round, in (0, 1]
    momentum: float  # of local SGD, in [0, 1); 0 under Adam, which has its own
    weight_decay: float  # L2, >= 0
    physical_batch: int  # records in memory at once; changes memory and speed, never the result's meaning
    optimizer: str  # sgd or adam; without memory of earlier rounds

    def __post_init__(self) -> None:
        checks = {
            "local_steps must be at least 1": self.local_steps >= 1,
            "sampling_rate must lie in (0, 1]": 0 < self.sampling_rate <= 1,
            "learning_rate must be a positive number": 0 < self.learning_rate < math.inf,
            "learning_rate_decay must lie in (0, 1]": 0 < self.learning_rate_decay <= 1,
            "momentum must lie in [0, 1)": 0 <= self.momentum < 1,
            "weight_decay must be a number >= 0": 0 <= self.weight_decay < math.inf,
            "physical_batch must lie between 1 and 4096": 1 <= self.physical_batch <= 4096,
            f"optimizer must be {' or '.join(OPTIMIZERS)}": self.optimizer in OPTIMIZERS,
        }
        for claim, holds in checks.items():
            if not holds:
                raise ConfigError(f"training.{claim}, got {str(getattr(self, claim.split()[0]))[:40]}")
        if self.optimizer == ADAM and self.momentum:
            raise ConfigError(
                f"training.momentum is SGD's, got {self.momentum} with training.optimizer=adam, which has its own; "
                "nothing was trained; set it to 0"
            )

    def rate(self, round: int) -> float:
        """The learning rate of a round, counted from 1."""
        return self.learning_rate * self.learning_rate_decay ** (round - 1)

    def make_optimizer(self, model: torch.nn.Module, round: int) -> Optimizer:
        """The optimizer of one round of local training, without memory of earlier rounds.

        Private training gives it noisy gradients alone, so that whatever it remembers of them is released already.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rate = self.rate(round)
        if self.optimizer == ADAM:
            return Adam(trained, rate, self.weight_decay)
        return Sgd(trained, rate, self.momentum, self.weight_decay)
