"""What `privacy=record`, `patient`, `institution` and `none` mean: the promise, its unit, and the settings.

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


@dataclass
class NoPrivacy(Privacy):
    """`privacy=none`: training as if the data were public. The baseline to compare with."""

    unit: ClassVar[str] = "none"
    neighbouring_relation: ClassVar[str | None] = None


@dataclass
class Budgeted(Privacy):
    """A promise with an epsilon: what all units have in common."""

    epsilon: float  # the budget of the whole run, > 0
    delta: float  # chance that the bound fails, below 1 / how many there are of the unit
    clipping_norm: float  # L2, of what one of the unit contributes, in the units of the parameters

    is_local: ClassVar[bool]  # the institution adds the noise itself, and nobody has to be trusted

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


@dataclass
class RecordPrivacy(Budgeted):
    """`privacy=record`: whether any one record was in an institution's data stays hidden.

    Everything an institution sends from training over the whole run is (epsilon, delta)-differentially
    private for adding or removing one record of that institution, whatever the other institutions, the
    operator or anyone who sees the model does. Each institution adds the full noise itself, so nobody
    has to be trusted. A person with k records is protected less: `accounting.epsilon_of_group` says how much.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy" (DP-SGD), algorithm 1.
    """

    unit: ClassVar[str] = "record"
    neighbouring_relation: ClassVar[str | None] = "add or remove one record"
    is_local: ClassVar[bool] = True


@dataclass
class PatientPrivacy(Budgeted):
    """`privacy=patient`: whether any one person was in an institution's data stays hidden, with all they have there.

    As `privacy=record`, for adding or removing one patient with all of their records at that institution. Patients
    are drawn into a step, not records; the gradients of a patient's records are averaged and the average clipped, so
    the promise is the same however many records somebody has. A patient of two institutions has each one's promise.

    Source: McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models".
    """

    records_per_patient: int  # that take part in one step, at most; of who has more, some are chosen in each step

    unit: ClassVar[str] = "patient"
    neighbouring_relation: ClassVar[str | None] = "add or remove one patient with all of their records"
    is_local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.records_per_patient < 1:
            raise ConfigError(f"privacy.records_per_patient must be at least 1, got {self.records_per_patient}")


@dataclass
class InstitutionPrivacy(Budgeted):
    """`privacy=institution`: whether one institution's records shaped the models stays hidden, but for the operator.

    Every model that leaves the server over the whole run is (epsilon, delta)-differentially private for adding or
    removing one institution with all of its records. Institutions train plainly; the server adds the noise to the mean
    of the clipped updates, so the operator has to be trusted: with the exact sum under secure aggregation, where each
    institution clips its own, and with each update without. It costs much where few take part.

    Source: McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models".
    """

    unit: ClassVar[str] = "institution"
    neighbouring_relation: ClassVar[str | None] = "add or remove one institution"
    is_local: ClassVar[bool] = False


TABLE = {
    "institution": "lepton_fl.privacy.units:InstitutionPrivacy",
    "none": "lepton_fl.privacy.units:NoPrivacy",
    "patient": "lepton_fl.privacy.units:PatientPrivacy",
    "record": "lepton_fl.privacy.units:RecordPrivacy",
}
