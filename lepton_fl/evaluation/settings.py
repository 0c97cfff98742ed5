"""What a run measures of its models, how often, and at what price: fixed before the first round."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.metrics import SCORE_BINS
from lepton_fl.privacy.accounting import MOST_SKELLAM_EPSILON


@dataclass
class Evaluation:
    """Settings that every evaluation shares."""

    every: int  # rounds between routine releases; the last round always has the final one
    bins: int  # of a score, in the final release of two classes; an even number, so that 1/2 is an edge
    confidence: float  # of every interval, say 0.95

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"evaluation.every must be at least 1 round, got {self.every}")
        if not 2 <= self.bins <= 1000 or self.bins % 2:
            raise ConfigError(f"evaluation.bins must be an even number from 2 to 1000, got {self.bins}")
        if not 0.5 <= self.confidence <= 0.999:
            raise ConfigError(f"evaluation.confidence must lie between 0.5 and 0.999, got {self.confidence}")


@dataclass
class Private(Evaluation):
    """Noised histograms alone leave an institution; all of a run's cost a held-out subject `epsilon`."""

    epsilon: float  # of a held-out subject, over every release of the run
    by_institution: bool  # the final release also holds each institution's own histogram

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon <= MOST_SKELLAM_EPSILON:
            raise ConfigError(
                f"evaluation.epsilon must be positive and at most {MOST_SKELLAM_EPSILON:g}, got {self.epsilon}"
            )


@dataclass
class Exact(Evaluation):
    """Counts without noise: no epsilon covers them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if SCORE_BINS % self.bins:
            raise ConfigError(
                f"evaluation.bins must divide {SCORE_BINS} where counts are exact (say 10, 20, 50), got {self.bins}"
            )
