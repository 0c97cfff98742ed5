"""A whole local epoch over a table, each side with its usual loader, and both with the product's."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from models import MODELS, tabular
from systems import RATE, TRAINING
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.choose import engine_for
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import Mechanism, train_privately

RECORDS = 5000
BATCHES = (64, 256)
PLAIN, OUR_LOADER, PRIVATE, OPACUS = "plain, DataLoader", "plain, our loader", "private", "Opacus hooks, its loader"


def epochs(turns: int) -> dict[str, dict[str, dict[str, Any]]]:
    """For each batch, milliseconds of an epoch and its ratio to a plain loop's with DataLoader, printed too."""
    from step import compared

    examples, figures = MODELS["tabular"].records(RECORDS), {}
    for batch in BATCHES:
        sides = {
            PLAIN: _plain(examples, batch),
            OUR_LOADER: _ours(examples, batch, private=False),
            PRIVATE: _ours(examples, batch, private=True),
            OPACUS: _opacus(examples, batch),
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(turns + 1):
            for name, epoch in sides.items():
                began = time.process_time()
                epoch()
                taken[name].append(time.process_time() - began)
        found = compared({name: times[2:] for name, times in taken.items()})
        print(f"tabular, an epoch of {RECORDS} records, batch {batch}")  # noqa: T201
        for name, each in found.items():
            print(f"  {name:<26}{each['ms']:9.1f} ms  {each['ratio']:6.2f}x")  # noqa: T201
        over = found[PRIVATE]["ms"] / found[OUR_LOADER]["ms"]
        print(f"  private over plain, both with our loader {over:.2f}x")  # noqa: T201
        figures[f"tabular, {batch}"] = {**found, "private over plain, both with our loader": {"ratio": over}}
    return figures


def _plain(examples: Examples, batch: int) -> Callable[[], None]:
    model = tabular()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(examples.features, examples.labels), batch_size=batch, shuffle=True)

    def epoch() -> None:
        for features, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(features), labels).backward()
            optimizer.step()

    return epoch


def _ours(examples: Examples, batch: int, private: bool) -> Callable[[], None]:
    model, rate = tabular(), batch / RECORDS
    training = replace(TRAINING, local_steps=-(-RECORDS // batch), sampling_rate=rate)
    mechanism, engine = Mechanism(1.0, 1.0, rate, float(batch)), engine_for(model)

    def epoch() -> None:
        task = LocalTask(1, 0.0, Randomness(None))
        if private:
            train_privately(model, examples, training, mechanism, engine, task)
        else:
            train_plainly(model, examples, training, task)

    return epoch


def _opacus(examples: Examples, batch: int) -> Callable[[], None]:
    from opacus import PrivacyEngine

    model = tabular()
    loader = DataLoader(TensorDataset(examples.features, examples.labels), batch_size=batch, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        private, optimizer, poisson = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
            data_loader=loader,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )

    def epoch() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for features, labels in poisson:
                optimizer.zero_grad()
                cross_entropy(private(features), labels).backward()
                optimizer.step()

    return epoch
