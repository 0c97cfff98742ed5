"""Adult, five banks, local DP-SGD: what each method of fair training does to accuracy and to the gaps between sexes.

Usage: .venv/bin/python bench/fairness.py [SEEDS]     (default 3; two and a half minutes on two idle cores)

Every run is a simulation of the product's, under secure aggregation. Each line is the mean over the seeds, on the same
hold-out: counted exactly, which nobody who runs a federation sees, and beside it what the first seed's run releases,
with its interval. Methods that read an exact loss of each institution are refused under privacy, so they stand below,
with FedAvg without privacy to compare. Writes bench/results/fairness.json.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from machine import store
from safetensors.torch import load_file

from lepton_fl.config import config_dir, load
from lepton_fl.evaluation.figures import Figure
from lepton_fl.evaluation.histogram import Histogram, Layout, count
from lepton_fl.fairness.marginal import marginal
from lepton_fl.fairness.settings import Thresholds
from lepton_fl.fairness.thresholds import chosen, decided_by
from lepton_fl.federation.histograms import from_plain
from lepton_fl.results.evaluated import assessed, last_evaluation
from lepton_fl.results.folder import Folder
from lepton_fl.results.outcome import Outcome
from lepton_fl.results.terminal import JsonVoice
from lepton_fl.run import Names
from lepton_fl.simulation import Plan, SimConfig, plan, register_schemas, simulate

BINS = 20
PRIVATE = ("task=adult", "privacy.epsilon=3", "holdout.tune=0.1", "training.physical_batch=4096")
OPEN = ("task=adult", "privacy=none", "holdout.tune=0.1", "evaluation.every=5")
BASIS = "fairness.legal_basis='a measurement on public data, which decides about nobody'"
METHODS = {
    "none": PRIVATE,
    "local_rw": (*PRIVATE, "fairness=local_rw"),
    "global_rw": (*PRIVATE, "fairness=global_rw"),
    "group": (*PRIVATE, "fairness=group"),
    "group, target selection": (*PRIVATE, "fairness=group", "fairness.target=selection"),
    "thresholds": (*PRIVATE, "fairness=thresholds", BASIS),
    "no privacy: fedavg": OPEN,
    "no privacy: group": (*OPEN, "fairness=group"),
    "no privacy: qfedavg, q=1": (*OPEN, "strategy=qfedavg", "strategy.q=1"),
    "no privacy: afl": (*OPEN, "strategy=afl", "strategy.step=0.5"),
}


@dataclass(frozen=True)
class Measured:
    """Of one run, on the hold-out."""

    accuracy: float
    worst_bank: float  # accuracy
    recall_gap: float  # men less women
    selection_gap: float
    released: str  # the recall gap as the run releases it


def planned(*settings: str) -> Plan:
    """The run of these settings, as `lepton-sim` plans it."""
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plan(load(SimConfig, compose("sim", overrides=list(settings))), Names("adult", "logistic", "fedavg"))


def outcome(method: str, seed: int) -> Measured:
    """One run of a method."""
    made = planned(*METHODS[method], f"seed={seed}")
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        done = simulate(made, Folder(Path(folder)), JsonVoice())
        model = made.run.terms.model.build(made.run.terms.task.shape())
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return measured(decisions(made, model, done), done)


def decisions(made: Plan, model: torch.nn.Module, done: Outcome) -> list[Histogram]:
    """Each bank's hold-out by group, label and decision, exact."""
    layout, fairness = Layout(made.run.terms.task.groups(), 2, BINS), made.run.terms.fairness
    scores = [
        Histogram(layout, count(model, site.holdout, layout, 4096, one_per_subject=False), 0.0)
        for site in made.loaded.sites
    ]
    if not isinstance(fairness, Thresholds):
        return [one.coarser(2) for one in scores]
    tune = from_plain(done.facts.evaluating, done.reports[-1].histograms or {}).tune
    if tune is None:
        raise ValueError("thresholds are chosen from the last histogram of the subjects set apart")
    edges = chosen(fairness, tune)
    return [decided_by(edges, one) for one in scores]


def measured(exact: list[Histogram], done: Outcome) -> Measured:
    """Accuracy and gaps between the declared groups."""
    whole = reduce(add, exact)
    table = marginal(whole, whole.layout.groups.attributes[0]).table
    recall = table[:2, 1, 1] / table[:2, 1].sum(axis=1)
    selection = table[:2, :, 1].sum(axis=1) / table[:2].sum(axis=(1, 2))
    return Measured(
        accuracy_of(whole),
        min(accuracy_of(one) for one in exact),
        float(recall[1] - recall[0]),
        float(selection[1] - selection[0]),
        released(done),
    )


def accuracy_of(one: Histogram) -> float:
    """The share judged right."""
    table = one.table.sum(axis=0)
    return float((table[0, 0] + table[1, 1]) / table.sum())


def released(done: Outcome) -> str:
    """The gap in recall between the sexes, as the run's last evaluation has it."""
    found = last_evaluation(done.facts, done.reports)
    if found is None:
        return "not measured"
    gaps = assessed(done.facts, found[1]).gaps
    return said(
        next(g.figure for g in gaps if (g.attribute, g.figure.metric) == ("sex", "equal opportunity difference"))
    )


def said(figure: Figure) -> str:
    """Its word, and its interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return figure.status
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f}), {figure.status}"


def main() -> None:
    """Run, print one line a method, store."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    stored: dict[str, Any] = {"seeds": seeds}
    columns = "accuracy  worst bank  recall gap (largest)  selection gap  recall gap released"
    print(f"{'epsilon 3 per record, local':<28}{columns}", flush=True)  # noqa: T201
    for method in METHODS:
        runs = [outcome(method, seed) for seed in range(seeds)]
        stored[method] = [asdict(one) for one in runs]
        accuracy, worst_bank, recall, selection = (
            statistics.mean(getattr(one, name) for one in runs)
            for name in ("accuracy", "worst_bank", "recall_gap", "selection_gap")
        )
        largest = max(abs(one.recall_gap) for one in runs)
        print(  # noqa: T201
            f"{method:<28}{accuracy:.3f}     {worst_bank:.3f}       {recall:+.3f} ({largest:.3f})        "
            f"{selection:+.3f}         {runs[0].released}",
            flush=True,
        )
    store("fairness", stored, ("lepton-fl", "torch", "opacus", "flwr", "dp-accounting"))


if __name__ == "__main__":
    main()
