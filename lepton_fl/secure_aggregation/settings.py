"""What `secure_aggregation=on` and `off` mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lepton_fl.errors import ConfigError


@dataclass
class SecureAggregation:
    """Whether the operator sees each institution's update, or their sum."""


@dataclass
class Off(SecureAggregation):
    """`secure_aggregation=off`: the operator sees each institution's update. Only where every policy allows it."""


@dataclass
class On(SecureAggregation):
    """`secure_aggregation=on`: the operator sees sums over the cohort; `docs/secure-aggregation.md`."""

    update_bound: float  # of one parameter's change in one round; what exceeds it is cut, and the institution told

    def __post_init__(self) -> None:
        if not 0 < self.update_bound < math.inf:
            raise ConfigError(f"secure_aggregation.update_bound must be a positive number, got {self.update_bound}")
