"""What `privacy=record` and `privacy=none` mean: the promise, its unit, and the settings.

A privacy claim is empty without its unit (whose presence is hidden) and its neighbouring relation (what
"hidden" compares). Both stand in the settings and travel with every epsilon that is printed or stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lepton_fl.errors import ConfigError

LARGEST_EPSILON = 100


@dataclass
class Privacy:
    """How the people in the data are protected during training."""

    unit: ClassVar[str]
    neighbouring_relation: ClassVar[str | None]
    is_added_by_institutions: ClassVar[bool]  # each adds the noise itself, before anything leaves


@dataclass
class NoPrivacy(Privacy):
    """`privacy=none`: training as if the data were public. The baseline to compare with."""

    unit: ClassVar[str] = "none"
    neighbouring_relation: ClassVar[str | None] = None
    is_added_by_institutions: ClassVar[bool] = False


@dataclass
class RecordPrivacy(Privacy):
    """`privacy=record`: whether any one record was in an institution's data stays hidden.

    Everything an institution sends from training over the whole run is (epsilon, delta)-differentially
    private for adding or removing one record of that institution, whatever the other institutions, the
    operator or anyone who sees the model does. Each institution adds the full noise itself, so nobody
    has to be trusted. A person with k records is protected by k times the epsilon and more than k times the delta.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy" (DP-SGD), algorithm 1.
    """

    epsilon: float  # the budget of the whole run, > 0
    delta: float  # chance that the bound fails, below 1 / records
    clipping_norm: float  # L2, of one record's gradient, in the units of the parameters

    unit: ClassVar[str] = "record"
    neighbouring_relation: ClassVar[str | None] = "add or remove one record"
    is_added_by_institutions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= LARGEST_EPSILON:
            raise ConfigError(
                f"privacy.epsilon must be above 0 and at most {LARGEST_EPSILON}, got {self.epsilon}; a larger one "
                "protects nobody, which privacy=none says plainly"
            )
        if not 0 < self.delta < 0.5:
            raise ConfigError(f"privacy.delta must lie between 0 and 0.5, got {self.delta}")
        if not 0 < self.clipping_norm < math.inf:
            raise ConfigError(f"privacy.clipping_norm must be a positive number, got {self.clipping_norm}")


TABLE = {
    "none": "lepton_fl.privacy.units:NoPrivacy",
    "record": "lepton_fl.privacy.units:RecordPrivacy",
}
