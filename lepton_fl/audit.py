"""`lepton-sim audit`: what a trained model betrays of canaries, as a lower bound on epsilon, beside the claim.

A canary is a person who is not in the data: a held-out record with a wrong label, once or several times. Each is put
into one institution's training by a fair coin; the run is trained as configured; then the finished model's loss on
each canary is the score from which its coin is guessed. A bound above the claim refutes it. One below proves nothing:
this is the weakest of attackers, who sees the last model alone.

Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846).
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lepton_fl.config import name_of
from lepton_fl.errors import ConfigError, LeptonError
from lepton_fl.privacy.audit import bound_from_scores
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.results.folder import Folder
from lepton_fl.results.terminal import VOICES, Voice
from lepton_fl.run import Names
from lepton_fl.simulation import AuditSettings, Plan, SimConfig, plan, simulate
from lepton_fl.training.examples import Examples, Site, per_record_loss


class ClaimRefuted(LeptonError):
    """The model betrays more than its epsilon allows."""

    exit_code = 3


@dataclass(frozen=True)
class Canaries:
    """Records that are nobody's, and how their coins fell."""

    records: Examples  # [m]: one of each canary
    was_in: npt.NDArray[np.bool_]  # [m]


@dataclass(frozen=True)
class Audited:
    """What an audit found."""

    canaries: int
    canaries_in: int
    records_per_canary: int
    bound: float  # epsilon is at least this, at this confidence
    confidence: float
    claimed: float | None  # epsilon as accounted at the end of the run; None without privacy
    unit: str
    neighbouring_relation: str | None
    delta: float | None
    not_private_because: str | None

    @property
    def is_consistent(self) -> bool:
        """False if the claim is refuted; without a claim nothing can be."""
        return self.claimed is None or self.bound <= self.claimed

    def __str__(self) -> str:
        found = (
            f"{self.canaries} canaries ({self.canaries_in} in, {self.canaries - self.canaries_in} out), bound "
            f"epsilon >= {self.bound:.2f} at confidence {100 * self.confidence:g} %"
        )
        if self.claimed is None:
            return f"{found}; nothing was claimed ({self.not_private_because})"
        seeded = "" if self.not_private_because is None else f", were it not for {self.not_private_because}"
        claim = f"claimed {self.claimed:.2f} per {self.unit} ({self.neighbouring_relation}) at delta {self.delta:g}"
        return f"{found}; {claim}{seeded}; {'consistent' if self.is_consistent else 'REFUTED'}"


def audit(planned: Plan, settings: AuditSettings, voice: Voice) -> Audited:
    """Train the planned run with canaries in it and bound its epsilon from below.

    Raises:
        ConfigError: too few held-out records, or a unit that a canary cannot be one of.
    """
    claim, randomness = planned.run.facts.claim, planned.run.program.randomness.within("audit")
    _refuse_unit(claim.unit, settings.records_per_canary)
    canaries = draw(planned, settings, randomness)
    sites = planted(planned.loaded.sites, canaries, settings.records_per_canary)
    with tempfile.TemporaryDirectory() as folder:
        # The model has learned what is false of people who do not exist: it is looked at here and never kept.
        outcome = simulate(replace(planned, loaded=replace(planned.loaded, sites=sites)), Folder(Path(folder)), voice)
        model = trained(planned.run.program.model, Path(folder))
    found = bound_from_scores(canaries.was_in, scores(model, canaries.records), claim.delta or 0.0, level_of(settings))
    return Audited(
        canaries=settings.canaries,
        canaries_in=int(canaries.was_in.sum()),
        records_per_canary=settings.records_per_canary,
        bound=found,
        confidence=settings.confidence,
        claimed=outcome.reports[-1].epsilon,
        unit=claim.unit,
        neighbouring_relation=claim.neighbouring_relation,
        delta=claim.delta,
        not_private_because=claim.why_not,
    )


def level_of(settings: AuditSettings) -> float:
    """The chance that the bound is too high."""
    return 1 - settings.confidence


def draw(planned: Plan, settings: AuditSettings, randomness: Randomness) -> Canaries:
    """Held-out records of all institutions, different ones, with the next label; and a coin for each."""
    held = [site.holdout for site in planned.loaded.sites]
    count = sum(len(one) for one in held)
    if count < settings.canaries:
        raise ConfigError(
            f"audit.canaries {settings.canaries} need as many held-out records, and there are {count}; nothing was "
            "trained; lower it or raise holdout.share"
        )
    features, labels = torch.cat([one.features for one in held]), torch.cat([one.labels for one in held])
    groups = torch.cat([_groups(one) for one in held])
    chosen = torch.from_numpy(randomness.stream("canaries").permutation(count)[: settings.canaries])
    wrong = (labels[chosen] + 1) % max(2, planned.run.program.outputs)
    was_in = randomness.stream("coins").bernoulli(settings.canaries, 0.5)
    return Canaries(Examples(features[chosen], wrong, groups=groups[chosen]), was_in)


def planted(sites: Sequence[Site], canaries: Canaries, records_per_canary: int) -> tuple[Site, ...]:
    """The sites, with the canaries that are in among the training records of the largest, each a subject of its own."""
    largest = max(sites, key=lambda site: (len(site.train), site.institution))
    own = largest.train
    present = np.repeat(np.flatnonzero(canaries.was_in), records_per_canary)
    added = canaries.records.at(torch.from_numpy(present))
    subjects = torch.arange(len(own)) if own.subjects is None else own.subjects
    numbers = torch.from_numpy(present) + (int(subjects.max()) + 1 if len(own) else 0)
    train = Examples(
        torch.cat([own.features, added.features]),
        torch.cat([own.labels, added.labels]),
        torch.cat([subjects, numbers]),
        torch.cat([_groups(own), _groups(added)]),
    )
    return tuple(replace(site, train=train) if site is largest else site for site in sites)


def _groups(records: Examples) -> torch.Tensor:
    return torch.zeros(len(records), dtype=torch.int64) if records.groups is None else records.groups


def trained(model: nn.Module, folder: Path) -> nn.Module:
    """The model that a finished run left in its folder, on the CPU."""
    from safetensors.torch import load_file

    finished = copy.deepcopy(model).cpu()
    finished.load_state_dict(load_file(folder / "model.safetensors"))
    return finished.eval()


def scores(model: nn.Module, records: Examples) -> npt.NDArray[np.float64]:
    """Minus the loss of each record: a canary that was learned has a small one; float64 [m]."""
    with torch.no_grad():
        losses = per_record_loss(model(records.features), records.labels)
    return -losses.double().numpy()


def _refuse_unit(unit: str, records_per_canary: int) -> None:
    if unit == "institution":
        raise ConfigError(
            "a canary is a person's records, and privacy=institution is about whole institutions; nothing was trained; "
            "audit privacy=record or privacy=patient"
        )
    if unit == "record" and records_per_canary > 1:
        raise ConfigError(
            f"audit.records_per_canary={records_per_canary} makes persons, of whom privacy=record promises nothing; "
            "nothing was trained; audit privacy=patient, or one record"
        )


def run(config: SimConfig) -> None:
    """One `lepton-sim audit`: the run's own lines, then the bound beside the claim.

    Raises:
        ClaimRefuted: the bound is above the claim.
    """
    voice = VOICES[config.log]()
    planned = plan(config, Names(name_of("task"), name_of("model"), name_of("strategy")))
    voice.noticed(planned.loaded.warnings)
    found = audit(planned, config.audit, voice)
    if config.log == "json":
        sys.stdout.write(json.dumps({"event": "audit", **asdict(found), "consistent": found.is_consistent}) + "\n")
    else:
        sys.stdout.write(f"audit       {found}\n")
    refuse_refuted(found)


def refuse_refuted(found: Audited) -> None:
    """Raise `ClaimRefuted` if the bound is above the claim."""
    if not found.is_consistent:
        raise ClaimRefuted(
            f"the model betrays an epsilon of at least {found.bound:.2f} per {found.unit} where {found.claimed:.2f} "
            "was claimed; no file was written; do not release a model of this installation, and report the settings"
        )
