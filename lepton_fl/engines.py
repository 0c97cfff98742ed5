"""Where a simulation computes: in this process, or in Ray's worker processes. What is trained is the same."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from lepton_fl.energy.counters import rapl
from lepton_fl.energy.meter import Machine, Meter, Reading, of_this_machine
from lepton_fl.energy.spent import AGGREGATE, Line
from lepton_fl.errors import ConfigError
from lepton_fl.federation.arrays import template_of
from lepton_fl.federation.client_app import ClientProgram, client_app, self_test
from lepton_fl.federation.cohort_grid import CohortGrid, Federated
from lepton_fl.federation.cohort_release import CohortRelease
from lepton_fl.federation.fold import Folding
from lepton_fl.federation.local_grid import LocalGrid, Watch
from lepton_fl.federation.local_masked import LocalMasked, local_masked
from lepton_fl.federation.masked_app import at_once
from lepton_fl.federation.metered import Tally, by_busy_seconds
from lepton_fl.federation.summed import Sums
from lepton_fl.federation.terms import to_json
from lepton_fl.federation.workers import FarComputes, FarGrid, Institutions, Kept, WorkerApp
from lepton_fl.flower import Grid
from lepton_fl.flower_ray import RayWorkers, Resources, fetch, ray_workers, refuse_without_ray
from lepton_fl.privacy.rounds_spent import InMemory, RoundsSpent
from lepton_fl.run import Prepared, weight_cap_of
from lepton_fl.training.choose import engine_for
from lepton_fl.training.cohort import plan as cohort
from lepton_fl.training.cohort.executor import Work
from lepton_fl.training.cohort.stacked_sum import StackedClippedSum
from lepton_fl.training.device import device_of, gpu_uuid
from lepton_fl.training.examples import Site

_log = logging.getLogger(__name__)
LOCAL, RAY = "local", "ray"
TOGETHER_FROM = 10  # institutions in a round, from which executor=auto trains them together
ENGINES = (LOCAL, RAY)


@dataclass(frozen=True)
class Place:
    """Where to compute, and what that machine is said to draw."""

    engine: str  # of ENGINES
    resources: Resources  # of one institution, under engine=ray
    device: str  # as `device=` takes it
    power_w: float

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"engine must be local or ray, got {self.engine[:40]}; nothing was trained; correct it")
        if self.engine == LOCAL:
            return
        refuse_without_ray()
        if (self.device == "cpu") != (self.resources.num_gpus == 0) or self.device not in ("cpu", "cuda"):
            raise ConfigError(
                f"device={self.device} with ray.num_gpus={self.resources.num_gpus:g}: under engine=ray the device is "
                "cpu with ray.num_gpus=0, or cuda with more, and Ray says which GPU; nothing was trained; correct them"
            )


@dataclass(frozen=True)
class Computing:
    """What carries messages to the institutions of this machine."""

    grid: Grid
    names: Mapping[int, str]  # node id: institution
    lines: Callable[[], tuple[Line, ...]]  # energy so far
    is_folded: bool = False  # it makes one reply of a round's models


@contextmanager
def computing(
    place: Place, asked: cohort.Asked, prepared: Prepared, program: ClientProgram, sites: Mapping[str, Site]
) -> Iterator[Computing]:
    """The institutions, ready to answer; what was started for them has ended after the block.

    Args:
        asked: how a cohort is trained together, in this process.
        program: of every institution, its model on the device where this process computes, the CPU under engine=ray.

    Raises:
        UnsoundMechanism: the self-test of a private run failed; no record was trained on.
        ConfigError: Ray is not to be had, or the strategy keeps in its institutions what workers would lose.
    """
    if place.engine == LOCAL:
        yield _here(place, asked, prepared, program, sites)
        return
    if asked != cohort.Asked(cohort.AUTO, None, None):
        raise ConfigError(
            "executor, chunk and workers are for a cohort that trains together, and under engine=ray each institution "
            "trains by itself; nothing was trained; choose engine=local, or leave them out"
        )
    if program.scores is not None:
        raise ConfigError(
            "strategy=afl keeps a score in each institution from round to round, and Ray's workers keep nothing; "
            "nothing was trained; choose engine=local"
        )
    with ray_workers(place.resources) as workers:
        yield _far(place, prepared, program, (workers, sites))


def _here(
    place: Place, asked: cohort.Asked, prepared: Prepared, program: ClientProgram, sites: Mapping[str, Site]
) -> Computing:
    tally = Tally(of_this_machine(place.power_w, gpu_uuid(device_of(program.model)), AGGREGATE))
    if prepared.sums is None:
        grid, is_folded = _grid(prepared, asked, program, sites, tally)
        return Computing(grid, grid.names, tally.lines, is_folded)
    masked = local_masked(program, _in_order(prepared, sites), prepared.sums, _contract(prepared))
    return _masked(masked, prepared.sums, tally, tally.lines)


def _grid(
    run: Prepared, asked: cohort.Asked, program: ClientProgram, sites: Mapping[str, Site], watch: Watch
) -> tuple[LocalGrid, bool]:
    """What carries the messages, and whether it makes one reply of a round's models."""
    institutions = run.facts.institutions
    if asked.executor == cohort.AUTO and run.federation.cohort_size < TOGETHER_FROM:
        # Bit for bit what comes of it over a network.
        return LocalGrid(client_app(program, sites, InMemory()), institutions, watch), False
    shape = run.terms.task.shape()
    is_averaged, records = run.terms.strategy.needs_mean_only, max(1, len(sites[institutions[0]].train))
    sample = cohort.Sample(shape, records, run.terms.seed is not None, is_averaged and run.at_server is None)
    work = Work(program.training, program.mechanism, engine_for)
    chosen = cohort.choose(asked, work, program.model, sample)
    _log.info("the cohort trains by executor %s, %d at a time", chosen.executor, chosen.chunk)
    self_test(program)
    if chosen.executor in cohort.TOGETHER:
        self_test(program, StackedClippedSum(cohort.TOGETHER[chosen.executor]))
    folding = None
    if is_averaged:
        release = None if run.at_server is None else CohortRelease(run.at_server, program.randomness)
        folding = Folding(template_of(program.model), weight_cap_of(run), release)
    federated = Federated(program, sites, InMemory(), chosen.pool, folding)
    return CohortGrid(federated, institutions, watch), folding is not None


def _far(
    place: Place, prepared: Prepared, program: ClientProgram, theirs: tuple[RayWorkers, Mapping[str, Site]]
) -> Computing:
    workers, sites = theirs
    # Once here, so that an unsound run ends before it begins; every worker does it again.
    self_test(program)
    kept = {name: workers.keep(site) for name, site in sites.items()}
    work = Kept(program, kept, prepared.sums, place.device, fetch)
    workers.serve(WorkerApp(workers.keep(work), fetch, uuid.uuid4().hex))

    def read() -> Reading:
        return Reading(time.monotonic(), time.process_time() + workers.cpu_s(), rapl())

    tally = Tally(Meter(read, Machine(place.power_w, place.resources.num_gpus > 0), AGGREGATE))

    def lines() -> tuple[Line, ...]:
        return by_busy_seconds(tally.lines())

    if prepared.sums is None:
        grid = FarGrid(Institutions(program, _in_order(prepared, sites), InMemory()), workers, tally)
        return Computing(grid, grid.names, lines)

    def elsewhere(program: ClientProgram, site: Site, sums: Sums, spent: RoundsSpent) -> FarComputes:
        return FarComputes(program, site, sums, spent, is_counting=True, begin=at_once, workers=workers)

    masked = local_masked(program, _in_order(prepared, sites), prepared.sums, _contract(prepared), elsewhere)
    return _masked(masked, prepared.sums, tally, lines)


def _masked(masked: LocalMasked, sums: Sums, tally: Tally, lines: Callable[[], tuple[Line, ...]]) -> Computing:
    grid, names = masked.grid(sums, tally)
    return Computing(grid, names, lines)


def _in_order(prepared: Prepared, sites: Mapping[str, Site]) -> Mapping[str, Site]:
    """In the order of names, as every grid has them."""
    return {name: sites[name] for name in prepared.facts.institutions}


def _contract(prepared: Prepared) -> bytes:
    return hashlib.sha256(to_json(prepared.terms).encode()).digest()
