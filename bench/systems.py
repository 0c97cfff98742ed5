"""What takes a training step in the bench: plain torch, the product's private step, and Opacus in its own modes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from models import LastState, Timed
from torch import nn
from torch.nn.functional import cross_entropy

from lepton_fl.privacy.kernels import library
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.choose import engine_for
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum
from lepton_fl.training.cohort import products
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.private import Mechanism, train_privately
from lepton_fl.training.settings import Training

Steps = Callable[[int], None]
"""Takes so many steps."""

RATE, MOMENTUM = 0.01, 0.0
PLAIN, OURS, OURS_BY_OPACUS = "plain", "private", "private, Opacus' engine"
OPACUS = {"Opacus hooks": "hooks", "Opacus ghost": "ghost", "Opacus ew": "ew"}
SYSTEMS = (PLAIN, OURS, *OPACUS)
TRAINING = Training(1, 1.0, RATE, 1.0, MOMENTUM, 0.0, 4096, "sgd")


@dataclass(frozen=True)
class Unsupported(Exception):
    """This system cannot train this model."""

    reason: str


def plain(timed: Timed, batch: Examples, device: str) -> Steps:
    """A careful loop of torch alone."""
    model, batch = made(timed, device), batch.to(torch.device(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            cross_entropy(model(batch.features), batch.labels).backward()
            optimizer.step()

    return steps


def private(timed: Timed, batch: Examples, device: str, engine: ClippedSum | None = None) -> Steps:
    """The product's own rounds of so many steps: draw (of everybody), clipped sum, noise, optimizer."""
    model, batch = made(timed, device), batch.to(torch.device("cpu"))
    engine = engine or engine_for(model)
    mechanism = Mechanism(1.0, 1.0, 1.0, float(len(batch)))

    def steps(count: int) -> None:
        task = LocalTask(1, 0.0, Randomness(None))
        train_privately(model, batch, replace(TRAINING, local_steps=count), mechanism, engine, task)

    return steps


def opacus(timed: Timed, batch: Examples, device: str, mode: str) -> Steps:
    """Opacus wrapped once, fixed batches, its own noise; layers are exchanged for its own where it needs that."""
    from opacus import PrivacyEngine

    model, batch = for_opacus(made(timed, device)), batch.to(torch.device(device))
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    records: Any = list(zip(batch.features, batch.labels, strict=True))
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(records, len(batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, optimizer, *rest = PrivacyEngine().make_private(
                module=model,
                optimizer=optimizer,
                data_loader=loader,
                noise_multiplier=1.0,
                max_grad_norm=1.0,
                poisson_sampling=False,
                grad_sample_mode=mode,
                criterion=loss,
            )
        except Exception as error:  # whatever a mode refuses with is what a user would see
            raise Unsupported(_line(error)) from error
    criterion = rest[0] if mode == "ghost" else loss

    def steps(count: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(count):
                optimizer.zero_grad()
                criterion(model(batch.features), batch.labels).backward()
                optimizer.step()

    try:
        steps(1)
    except Exception as error:
        raise Unsupported(_line(error)) from error
    return steps


def for_opacus(model: nn.Module) -> nn.Module:
    """The same model with the layers that Opacus has in place of torch's."""
    from opacus.layers import DPLSTM
    from opacus.validators import ModuleValidator

    for part in model.modules():
        if isinstance(part, LastState):
            part.recurrent = DPLSTM(part.recurrent.input_size, part.recurrent.hidden_size, batch_first=True)
    fixed: nn.Module = ModuleValidator.fix(model)
    return fixed.to(next(model.parameters()).device).train()


def made(timed: Timed, device: str) -> nn.Module:
    torch.manual_seed(0)
    return timed.build().to(device).train()


def system(name: str, timed: Timed, batch: Examples, device: str = "cpu") -> Steps:
    """The steps of the system of that name; raises `Unsupported`."""
    if name == PLAIN:
        return plain(timed, batch, device)
    if name == OURS:
        return private(timed, batch, device)
    if name == OURS_BY_OPACUS:
        return private(timed, batch, device, OpacusClippedSum())
    return opacus(timed, batch, device, OPACUS[name])


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def products_by() -> str:
    """What multiplies a cohort's small matrices: see `lepton_fl.training.cohort.products`."""
    return "torch" if products.library() is None else "products.c"


def noise_by() -> str:
    """What draws noise in this installation: see `lepton_fl.privacy.kernels`."""
    return "numpy" if library() is None else "kernels.c"
