"""What a simulated round costs against a plain torch loop: `.venv/bin/python bench/simulation.py [NAME ...]`.

W1 is the CNN of McMahan et al. 2017, W2 a dense network, W3p the dense network with record-level DP-SGD: 100 clients of
60 records, ten of them in a round, three steps of 20 records each. The product's side is a whole round as `lepton-sim`
runs it, `Rounds` over `CohortGrid`; the other side is the loop that a careful person writes, for W3p with one model
that Opacus wrapped once. Both take turns in one process, round by round, on one thread; before that it is shown that
both make the same model. Figures are CPU seconds.

In the growth runs institutions share the records of 100: what is measured is the cost of a cohort, not of its data.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import store
from systems import noise_by, products_by
from torch import Tensor, nn

from lepton_fl.evaluation.settings import Exact
from lepton_fl.federation.arrays import template_of, to_arrays
from lepton_fl.federation.client_app import ClientProgram
from lepton_fl.federation.cohort_grid import CohortGrid, Federated
from lepton_fl.federation.evaluating import Evaluating
from lepton_fl.federation.fold import Folding
from lepton_fl.federation.journal import NoJournal, Progress
from lepton_fl.federation.replies import Expected
from lepton_fl.federation.rounds import Rounds, Run
from lepton_fl.models.cnn import Cnn
from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.noise import clip_target
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.strategies.averaging import FedAvg
from lepton_fl.strategies.strategy import Federation
from lepton_fl.tasks.groups import Groups
from lepton_fl.training.choose import engine_for
from lepton_fl.training.cohort.executor import Work
from lepton_fl.training.cohort.plan import Asked, Sample, choose
from lepton_fl.training.examples import Examples, Site
from lepton_fl.training.plain import batches
from lepton_fl.training.private import Mechanism
from lepton_fl.training.settings import Training
from lepton_fl.training.subjects import drawn_records

SITES, RECORDS, BATCH, COHORT, STEPS, RATE = 100, 60, 20, 10, 3, 0.1
SHAPE = Shape((1, 28, 28), 10)
TRAINING = Training(
    local_steps=STEPS,
    sampling_rate=BATCH / RECORDS,
    learning_rate=RATE,
    learning_rate_decay=1.0,
    momentum=0.0,
    weight_decay=0.0,
    physical_batch=256,
    optimizer="sgd",
)
PRIVATE = Mechanism(noise_multiplier=1.0, clipping_norm=1.0, sampling_rate=BATCH / RECORDS, expected_batch=BATCH)
ROUNDS = 1_000_000  # planned: more than are ever run, so that no evaluation is due


@dataclass(frozen=True)
class Workload:
    """One of the table's lines."""

    model: Callable[[], nn.Module]
    mechanism: Mechanism | None
    rounds: int  # timed
    target: float


WORKLOADS = {
    "W1": Workload(lambda: Cnn(channels=32, hidden=512).build(SHAPE), None, 7, 0.85),
    "W2": Workload(lambda: Mlp(hidden=[200, 200], activation="relu").build(SHAPE), None, 40, 0.45),
    "W3p": Workload(lambda: Mlp(hidden=[200, 200], activation="relu").build(SHAPE), PRIVATE, 15, 0.12),
}


class Sites(Mapping[str, Site]):
    """So many institutions, made when they are asked for, of the records of 100."""

    def __init__(self, institutions: int) -> None:
        generator = np.random.default_rng(0)
        self.features = torch.from_numpy(generator.standard_normal((SITES, RECORDS, 1, 28, 28), dtype=np.float32))
        self.labels = torch.from_numpy(generator.integers(0, 10, (SITES, RECORDS)))
        self._names = {f"site-{number:06}": number % SITES for number in range(institutions)}
        self._examples = [Examples(*one) for one in zip(self.features, self.labels, strict=True)]
        self._nothing = Examples(self.features[0, :0], self.labels[0, :0])

    def __getitem__(self, name: str) -> Site:
        return Site(name, self._examples[self._names[name]], self._nothing, self._nothing)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Product:
    """A federation as `lepton-sim` runs it."""

    def __init__(self, workload: Workload, institutions: int, cohort: int, asked: Asked) -> None:
        self.sites, self.randomness = Sites(institutions), Randomness(0)
        torch.manual_seed(0)
        self.model = workload.model()
        evaluating = Evaluating(
            Exact(every=ROUNDS, bins=10, confidence=0.95), Groups(()), 10, ROUNDS, None, 1, False, False
        )
        program = ClientProgram(self.model, 10, TRAINING, workload.mechanism, ROUNDS, self.randomness, evaluating)
        work = Work(TRAINING, workload.mechanism, engine_for)
        self.chosen = choose(asked, work, self.model, Sample(SHAPE, RECORDS, is_seeded=False, is_averaged=True))
        template = template_of(self.model)
        federated = Federated(program, self.sites, InMemory(), self.chosen.pool, Folding(template, RECORDS, None))
        self.grid = CohortGrid(federated, [*self.sites])
        self.run = Run(
            names=self.grid.names,
            expected=Expected(template, evaluating, RECORDS, RECORDS, with_loss=False),
            journal=NoJournal(self.randomness),
            epsilon_after=None,
            on_round=lambda report: None,
            least_replies=1,
            contract=None,
            is_folded=True,
        )
        inner = FedAvg().build(Federation(institutions, cohort, RATE), is_summed=False)
        self.rounds = Rounds(inner, self.run, Progress(to_arrays(self.model)))

    def round(self, number: int) -> None:
        """One whole round, from whom to ask to the model it made."""
        config: Any = self.rounds  # Flower's `Strategy.start` of one round, without its log
        from lepton_fl.flower import ConfigRecord

        messages = config.configure_train(number, self.rounds.arrays, ConfigRecord(), self.grid)
        self.rounds.aggregate_train(number, self.grid.send_and_receive(messages))
        self.rounds.configure_evaluate(number, self.rounds.arrays, ConfigRecord(), self.grid)
        self.rounds.aggregate_evaluate(number, [])

    @property
    def values(self) -> list[Tensor]:
        """The model's, tensor by tensor."""
        return [torch.from_numpy(array.numpy().copy()) for array in self.rounds.arrays.values()]


class PlainLoop:
    """One model, one optimizer, one client after another."""

    def __init__(self, workload: Workload, sites: Sites, randomness: Randomness) -> None:
        self._sites, self._randomness, self._mechanism = sites, randomness, workload.mechanism
        torch.manual_seed(0)
        self.model = workload.model()
        self.parameters = list(self.model.parameters())
        self.values = [one.detach().clone() for one in self.parameters]
        sgd = torch.optim.SGD(self.parameters, lr=RATE)
        self._forward: nn.Module = self.model
        self._optimizer: Any = sgd
        if self._mechanism is not None:
            from opacus import GradSampleModule
            from opacus.optimizers import DPOptimizer

            self._forward = GradSampleModule(self.model)
            self._optimizer = DPOptimizer(
                sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=int(self._mechanism.expected_batch)
            )
        self._loss = nn.CrossEntropyLoss()

    def silent(self, clipping_norm: float) -> None:
        """From now on without noise, and clipping to that."""
        self._optimizer.noise_multiplier, self._optimizer.max_grad_norm = 0.0, clipping_norm

    def orders(self, cohort: tuple[str, ...], number: int) -> list[tuple[Tensor, Tensor]]:
        """Each client's batches, as the product draws them; made before the clock starts."""
        found = []
        for name in cohort:
            site, source = self._sites[name].train, self._randomness.within(name, number)
            if self._mechanism is None:
                order = batches(RECORDS, TRAINING.sampling_rate, source.stream("batches"))
                index = [next(order) for _ in range(STEPS)]
            else:
                stream, rate = source.stream("sampling"), self._mechanism.sampling_rate
                drawn = [list(drawn_records(RECORDS, rate, stream, RECORDS)) for _ in range(STEPS)]
                index = [torch.cat([part.index for part in parts]) for parts in drawn]
            found.append(([site.features[one] for one in index], [site.labels[one] for one in index]))
        return found  # type: ignore[return-value]

    def round(self, clients: list[tuple[Any, Any]]) -> None:
        """One round: every client from the round's model, and the mean of what they made."""
        total = [torch.zeros_like(one) for one in self.values]
        for features, labels in clients:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, self.values, strict=True):
                    parameter.copy_(value)
            for x, y in zip(features, labels, strict=True):
                self._optimizer.zero_grad()
                self._loss(self._forward(x), y).backward()
                self._optimizer.step()
            with torch.no_grad():
                for one, parameter in zip(total, self.parameters, strict=True):
                    one.add_(parameter, alpha=1 / len(clients))
        self.values = total


def difference(found: list[Tensor], right: list[Tensor], start: list[Tensor]) -> float:
    """The largest difference of two models by tensor, relative to how far the tensor moved."""
    return max(
        float((one - other).norm() / (other - before).norm())
        for one, other, before in zip(found, right, start, strict=True)
    )


def shown_equal(workload: Workload) -> float:
    """Both sides make the same model, noise aside; how far they differ."""
    mechanism = workload.mechanism
    quiet = workload if mechanism is None else replace(workload, mechanism=replace(mechanism, noise_multiplier=1e-9))
    product = Product(quiet, SITES, COHORT, Asked("auto", None, 1))
    loop = PlainLoop(quiet, product.sites, product.randomness)
    if quiet.mechanism is not None:
        loop.silent(clip_target(1.0, quiet.mechanism.stddev, sum(one.numel() for one in loop.parameters)))
    start = loop.values
    product.round(1)
    loop.round(loop.orders(product.rounds.reports[-1].cohort, 1))
    return difference(product.values, loop.values, start)


def compared(name: str, executor: str = "auto") -> dict[str, object]:
    """Both sides in turn, round by round; the first round of each is not counted."""
    workload = WORKLOADS[name]
    apart = shown_equal(workload)
    product = Product(workload, SITES, COHORT, Asked(executor, None, 1))
    loop = PlainLoop(workload, product.sites, product.randomness)
    ours, theirs = [], []
    for number in range(1, workload.rounds + 2):
        began = time.process_time()
        product.round(number)
        between = time.process_time()
        clients = loop.orders(product.rounds.reports[-1].cohort, number)
        resumed = time.process_time()
        loop.round(clients)
        ours.append(between - began)
        theirs.append(time.process_time() - resumed)
    ratios = [one / other for one, other in zip(ours[1:], theirs[1:], strict=True)]
    return {
        "executor": product.chosen.executor,
        "chunk": product.chosen.chunk,
        "cpu_s": statistics.median(ours[1:]),
        "plain_cpu_s": statistics.median(theirs[1:]),
        "ratio": statistics.median(ratios),
        "ratio_of_minima": min(ours[1:]) / min(theirs[1:]),
        "quartiles": statistics.quantiles(ratios, n=4),
        "target": workload.target,
        "difference": apart,
        "rounds": workload.rounds,
    }


def _peak_mb() -> float:
    """The most this process had in memory; `ru_maxrss` would be its parent's, if that had more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def grown(institutions: int, cohort: int, rounds: int, name: str = "W2") -> dict[str, object]:
    """So many rounds of so many institutions in this process; peak memory after the first and after the last."""
    product = Product(WORKLOADS[name], max(SITES, institutions), cohort, Asked("lowered", None, 1))
    cpu, peaks = [], []
    for number in range(1, rounds + 1):
        began = time.process_time()
        product.round(number)
        cpu.append(time.process_time() - began)
        peaks.append(_peak_mb())
    later = cpu[1:] or cpu
    return {
        "workload": name,
        "institutions": institutions,
        "cohort": cohort,
        "rounds": rounds,
        "cpu_s_per_round": statistics.median(later),
        "cpu_ms_per_institution": 1000 * statistics.median(later) / cohort,
        "peak_mb": peaks[-1],
        "peak_mb_after_a_tenth": peaks[max(0, rounds // 10 - 1)],
    }


def in_a_child(*arguments: object) -> dict[str, object]:
    """`grown` in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "grown", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)  # noqa: S603 - itself
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print every figure and store them in bench/results/simulation.json."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if sys.argv[1:2] == ["grown"]:
        institutions, cohort, rounds = map(int, sys.argv[2:5])
        sys.stdout.write(json.dumps(grown(institutions, cohort, rounds, *sys.argv[5:6])))
        return
    figures: dict[str, object] = {}
    for name in sys.argv[1:] or WORKLOADS:
        figures[name] = compared(name)
        sys.stdout.write(f"{name:<4} {json.dumps(figures[name])}\n")
        sys.stdout.flush()
    if sys.argv[1:]:
        return
    sizes = [(10, 10, 6), (100, 100, 6), (500, 500, 4), (1000, 1000, 3), (10_000, 10_000, 2), (1000, 1000, 100)]
    growth = []
    for size in sizes:
        growth.append(in_a_child(*size))
        sys.stdout.write(f"{json.dumps(growth[-1])}\n")
        sys.stdout.flush()
    store(
        "simulation",
        {"threads": 1, "noise": noise_by(), "products": products_by(), "workloads": figures, "growth": growth},
        ("torch", "opacus", "flwr"),
    )


if __name__ == "__main__":
    main()
