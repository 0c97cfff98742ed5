"""A policy that allows the shipped demo and nothing more, and the demo as an operator proposes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import time
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from lepton_client.clauses import Proposal
from lepton_client.policy import Policy, read
from lepton_client.price import Price

from lepton_fl.evaluation.settings import Exact
from lepton_fl.explanation.release import Explanation
from lepton_fl.fairness.settings import NoFairness
from lepton_fl.federation.contract import Contract, Parties, Purpose, offer
from lepton_fl.federation.evaluating import Evaluating
from lepton_fl.federation.installed import installed_task
from lepton_fl.federation.terms import Terms, from_document, to_document
from lepton_fl.privacy.units import NoPrivacy, Privacy, RecordPrivacy
from lepton_fl.secure_aggregation.settings import Off, On
from lepton_fl.tasks.groups import Groups
from lepton_fl.tasks.split import HoldOut
from lepton_fl.training.settings import Training

NOWHERE = Path("/nowhere")
POLICY: dict[str, Any] = {
    "data_set": "heart patients of Cleveland",
    "budget": {"unit": "record", "epsilon": 3.0, "delta": 1e-4},
    "run": {"epsilon": 1.0, "rounds": 30, "holdout_share": 0.2, "compute_hours": 2.0},
    "public_data": False,
    "accept": "by-policy",
    "may_leave": ["noised-update"],
    "tasks": ["heart"],
    "models": ["logistic"],
    "strategies": ["fedavg"],
    "plugins": [],
    "least_cohort": 3,
    "secure_aggregation": "optional",
    "hours": "20:00-06:00",
    "power_w": 100.0,
}
PRICE = Price("record", 1e-4, 1.5, 2.2, hours=0.5, megabytes_out=4.7, energy_kwh=0.05)


def write(folder: Path, document: dict[str, Any]) -> Path:
    """A policy file with these fields."""
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    path.chmod(0o600)
    return path


def policy(folder: Path, **fields: Any) -> Policy:
    """`POLICY` with other values for these fields."""
    return read(write(folder, POLICY | fields))


@cache
def heart() -> Any:
    return from_document("task", installed_task("heart", NOWHERE))


def terms(**parts: Any) -> Terms:
    """The terms of the shipped demo without secure aggregation, with other parts."""
    privacy: Privacy = RecordPrivacy(epsilon=1.0, delta=1e-4, clipping_norm=1.0)
    known: dict[str, Any] = {
        "task": heart(),
        "model": from_document("model", {"kind": "logistic"}),
        "strategy": from_document("strategy", {"kind": "fedavg"}),
        "privacy": privacy,
        "training": Training(1, 1.0, 0.5, 1.0, 0.0, 0.0, 256, "sgd"),
        "fairness": NoFairness(),
        "secure_aggregation": Off(),
        "evaluation": Exact(every=1, bins=20, confidence=0.95),
        "explanation": Explanation(None, 1.0, 5),
        "noise": "own",
        "holdout": HoldOut("lepton-fl/hold-out/1", 0.2, 0.0),
        "rounds": 30,
        "weight_cap": 100000,
        "seed": None,
    }
    return Terms(**(known | parts))


def contract(asked: Terms, least_cohort: int = 4) -> Contract:
    names = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
    who = Parties(names, least_cohort, {name: bytes([number]) * 32 for number, name in enumerate(names)})
    return offer(asked, 7, "ab" * 32, who, Purpose("a first model", 365, ""))


def proposal(at: Policy, asked: Terms, **known: Any) -> Proposal:
    """The run of these terms, proposed at 22:00."""
    here = {"heart": to_document("task", heart())} if "heart" in at.tasks else {}
    made = Proposal(contract(asked), asked, PRICE, time(22, 0), here)
    return replace(made, **known)


PUBLIC = {"public_data": True, "may_leave": ["noised-update", "plain-update", "record-count", "exact-counts"]}
WITHOUT = NoPrivacy()
EXACTLY = Evaluating(Exact(1, 20, 0.95), Groups(()), 2, 1000, None, 1, has_tune=False, one_per_subject=False)
SUMMED: dict[str, Any] = {"secure_aggregation": On(update_bound=1.0)}
