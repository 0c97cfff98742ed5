"""Terms of a run in which there is nothing to learn: what is measured is everything else."""

from __future__ import annotations

from lepton_fl.evaluation.settings import Exact
from lepton_fl.explanation.release import Explanation
from lepton_fl.fairness.settings import NoFairness
from lepton_fl.federation.terms import OWN, Terms
from lepton_fl.models.logistic import Logistic
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.units import NoPrivacy
from lepton_fl.secure_aggregation.settings import Off
from lepton_fl.strategies.averaging import FedAvg
from lepton_fl.tasks.split import HoldOut
from lepton_fl.tasks.task import Task
from lepton_fl.training.settings import Training


class Columns(Task):
    """As many inputs as the heart table has once encoded, and no data: 39 parameters."""

    def shape(self) -> Shape:
        """See `Task.shape`."""
        return Shape((38,), 1)


def empty_terms(rounds: int) -> Terms:
    """FedAvg over 39 parameters, without privacy."""
    training = Training(1, 1.0, 0.5, 1.0, 0.0, 0.0, 256, "sgd")
    return Terms(
        task=Columns("empty rounds", 1, None),
        model=Logistic(),
        strategy=FedAvg(),
        privacy=NoPrivacy(),
        training=training,
        fairness=NoFairness(),
        secure_aggregation=Off(),
        evaluation=Exact(every=1, bins=20, confidence=0.95),
        explanation=Explanation(epsilon=None, clipping_norm=1.0, top=3),
        noise=OWN,
        holdout=HoldOut("bench", 0.2, 0.0),
        rounds=rounds,
        weight_cap=100_000,
        seed=None,
    )
