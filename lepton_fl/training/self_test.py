"""Before a private run: the mechanism as it runs, measured against the mechanism the accountant was told of.

An epsilon is a statement about sampling, clipping and noise. Each is tried here through the engine and the step that
train, on canaries instead of records: nothing of the data is read and nothing is released. A sound mechanism fails
one of the checks with a chance below 1e-8 in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lepton_fl.errors import LeptonError
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.accounting import Segment, epsilon_of_history
from lepton_fl.privacy.audit import bound_from_scores
from lepton_fl.privacy.noise import clip_target
from lepton_fl.privacy.randomness import Stream
from lepton_fl.training.clipped_sum import ClippedSum
from lepton_fl.training.device import device_of
from lepton_fl.training.examples import Examples
from lepton_fl.training.private import Draws, Mechanism, take_step

LEVEL = 1e-9  # chance of a false alarm of each check below
_LOG_LEVEL = math.log(2 / LEVEL)  # of one of two sides
_TOLERANCE = 1e-5  # relative, of a float32 norm
_RECORDS = 6  # random ones, through the run's own model
_CANARIES = 2048
_DELTA = 1e-13  # of one release: times the number of canaries it must stay below the level
_RECORDS_OF_ONE = 8  # canaries of one subject, where subjects are what is protected
_HUGE = 1e6  # a canary's gradient, in clipping norms
_WIDTH, _RELEASES = 4096, 25  # coordinates of noise: 102,400
_MOST_COINS = 1 << 24  # of the sampling check
_MOST_AT_ONCE = 1 << 22
_MOST_DRAWN = 200_000
_PHYSICAL_BATCH = 4096


class UnsoundMechanism(LeptonError):
    """What would run is not what the accountant was told of, so no epsilon would be true."""

    exit_code = 3

    def __init__(self, check: str, found: str) -> None:
        super().__init__(
            f"the self-test of the privacy mechanism failed at {check}: {found}; nothing was trained and nothing was "
            "released; do not train with this installation, and report the line"
        )
        self.check = check


@dataclass(frozen=True)
class Claimed:
    """What the accountant was told, and the shape of the records it is about."""

    mechanism: Mechanism
    shape: Shape
    step: Segment | None = None  # one step, as accounted; None: with Gaussian noise of the mechanism's multiplier


class Running(Protocol):
    """A step as it runs, of any mechanism."""

    @property
    def engine(self) -> ClippedSum:
        """What clips and adds up."""

    def target(self, parameters: int) -> float:
        """The norm that each contribution is clipped to, in a model of so many parameters."""

    def release(self, examples: Examples, model: nn.Module, physical_batch: int) -> Tensor:
        """What a step over these records releases, float64 [d] in the units of the sum; the engine is attached."""


@dataclass(frozen=True)
class AsRun:
    """Everything that `take_step` is given in the run, but for the records."""

    mechanism: Mechanism
    engine: ClippedSum
    draws: Draws

    def target(self, parameters: int) -> float:
        """See `Running.target`."""
        return clip_target(self.mechanism.clipping_norm, self.mechanism.stddev, parameters)

    def release(self, examples: Examples, model: nn.Module, physical_batch: int) -> Tensor:
        """See `Running.release`."""
        return take_step(examples, self.mechanism, self.engine, self.draws, (model, physical_batch))


def check_mechanism(model: nn.Module, claimed: Claimed, as_run: Running, stream: Stream) -> None:
    """Return if clipping, noise, sampling rate and one release on canaries are what was claimed.

    Args:
        model: the run's own, for the clipping check; left as it was found.
        stream: for the canaries' coins and random records; none of the run's own streams.

    Raises:
        UnsoundMechanism: naming the check that failed.
    """
    _check_clipping_of(model, claimed, as_run, stream)
    device = device_of(model)
    _check_clipping_of_canaries(claimed.mechanism, as_run, device)
    nobody = _canaries(torch.arange(0), _WIDTH, claimed.mechanism)
    check_noise(claimed.mechanism.stddev, lambda width: _release(nobody, width, as_run, device))
    _check_sampling_rate(claimed.mechanism, as_run, device)
    _check_one_release(claimed, as_run, device, stream)


def _check_clipping_of(model: nn.Module, claimed: Claimed, as_run: Running, stream: Stream) -> None:
    """Random records of the task's shape, one at a time: at the run's bound, and at one that surely clips them."""
    engine = as_run.engine
    draw = torch.Generator().manual_seed(stream.integer())
    features = torch.randn(_RECORDS, *claimed.shape.features, generator=draw)
    features[_RECORDS // 2 :] *= 1000.0
    labels = torch.randint(0, max(2, claimed.shape.outputs), (_RECORDS,), generator=draw)
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    target = as_run.target(size)

    def norm(row: int, bound: float) -> float:
        out = torch.zeros(size, dtype=torch.float64, device=device_of(model))
        engine.add(Examples(features, labels).at(torch.tensor([row])).to(out.device), bound, out)
        return float(out.norm())

    engine.attach(model)
    try:
        for row in range(_RECORDS):
            found = norm(row, target)
            refuse_norm(found, claimed.mechanism.clipping_norm)
            if found > 0:
                refuse_norm(norm(row, found / 2), found / 2)
    finally:
        engine.detach()


def _check_clipping_of_canaries(claimed: Mechanism, as_run: Running, device: torch.device) -> None:
    """Orthogonal gradients, far beyond the bound: each coordinate of the sum is the norm of one of them."""
    probe, canaries = _probe(_CANARIES, device), _canaries(torch.arange(_CANARIES), _CANARIES, claimed)
    engine, target = as_run.engine, as_run.target(_CANARIES)

    def largest(owners: Tensor | None) -> float:
        out = torch.zeros(_CANARIES, dtype=torch.float64, device=device)
        if owners is None:
            engine.add(canaries.to(device), target, out)
            return float(out.abs().max())
        engine.add(canaries.to(device), target, out, owners)
        return float(out.view(-1, _RECORDS_OF_ONE).norm(dim=1).max())

    engine.attach(probe)
    try:
        refuse_norm(largest(None), claimed.clipping_norm)
        if claimed.records_per_subject is not None:
            # Eight in a row are one subject's: what they add together is one contribution.
            refuse_norm(largest(torch.arange(_CANARIES) // _RECORDS_OF_ONE), claimed.clipping_norm)
    finally:
        engine.detach()


def refuse_norm(found: float, clipping_norm: float) -> None:
    if not found <= clipping_norm * (1 + _TOLERANCE):
        raise UnsoundMechanism(
            "clipping", f"a canary moved the sum by {found / clipping_norm:.3g} times the clipping norm"
        )


def check_noise(stddev: float, release: Callable[[int], Tensor]) -> None:
    """The squares of 102,400 coordinates of noise, over the claimed variance, lie where chi-square puts them.

    Two-sided at level 1e-9, by the tail bounds of Laurent and Massart 2000, "Adaptive Estimation of a Quadratic
    Functional by Model Selection", lemma 1: the variance within 3 % of the claim. Halved noise has a quarter of it.
    Each coordinate by itself, over 25 releases, is not quieter than chance allows, at the same level for all 4,096:
    P[chi-square of r < x] <= (x / 2)^(r / 2) / Gamma(r / 2 + 1).

    Args:
        stddev: claimed, in the units of the release.
        release: gives so many coordinates of a release about nobody.
    """
    squares = torch.zeros(_WIDTH, dtype=torch.float64)
    for _ in range(_RELEASES):
        squares += (release(_WIDTH).cpu() / stddev) ** 2
    half = _RELEASES / 2
    quietest = 2 * math.exp((math.log(LEVEL / _WIDTH) + math.lgamma(half + 1)) / half)
    if not float(squares.min()) >= quietest:
        raise UnsoundMechanism("noise", "some coordinates of a release have next to none")
    count = _WIDTH * _RELEASES
    ratio = float(squares.sum()) / count
    lowest = 1 - 2 * math.sqrt(_LOG_LEVEL / count)
    highest = 1 + 2 * math.sqrt(_LOG_LEVEL / count) + 2 * _LOG_LEVEL / count
    if not lowest <= ratio <= highest:
        raise UnsoundMechanism(
            "noise",
            f"its variance is {ratio:.3g} times the claimed one, and {lowest:.3f} to {highest:.3f} would be chance",
        )


def _check_sampling_rate(claimed: Mechanism, as_run: Running, device: torch.device) -> None:
    """Equal canaries all pull the same way, so the noisy sum tells how many were drawn.

    A binomial number plus Gaussian noise of variance v in all is sub-gamma with scale 1/3, so it leaves its mean by
    more than sqrt(2 v L) + L / 3 with a chance of at most 2 e^-L (Boucheron, Lugosi and Massart 2013, "Concentration
    Inequalities", section 2.4): level 1e-9. There are enough canaries to see a rate that is 1.5 times the claimed one,
    or the claimed one over 1.5, with as little doubt: for full batches up to a noise multiplier of 4,000, at a rate of
    1e-3 up to 100, at 1.5e-4 up to 1. Beyond that they are fewer than it takes, and the check is less sharp.
    """
    target = as_run.target(1)
    coins, releases = _coins(claimed)
    # Subjects have two records each: a run that drew records, or bounded them one by one, would count twice as many.
    each = 1 if claimed.records_per_subject is None else 2
    one = _canaries(torch.zeros(1, dtype=torch.int64), 1, claimed)
    crowd = Examples(
        one.features.expand(each * coins, 1), one.labels.expand(each * coins), torch.arange(each * coins) // each
    )
    drawn = sum(float(_release(crowd, 1, as_run, device)[0]) for _ in range(releases)) / target
    rate, canaries = claimed.sampling_rate, coins * releases
    variance = canaries * rate * (1 - rate) + releases * (claimed.stddev / target) ** 2
    allowed = math.sqrt(2 * variance * _LOG_LEVEL) + _LOG_LEVEL / 3
    if not abs(drawn - canaries * rate) <= allowed:
        raise UnsoundMechanism(
            "sampling rate",
            f"{drawn / canaries:.3g} of {canaries} canaries were drawn, and {rate:.3g} give or take "
            f"{allowed / canaries:.1g} was claimed",
        )


def _coins(claimed: Mechanism) -> tuple[int, int]:
    """How many canaries take part in a release, and in how many releases.

    So many are drawn, N, that N / 3 is beyond the deviations of both rates together: a quadratic in sqrt(N).
    """
    releases = math.ceil(min(_MOST_COINS, _MOST_DRAWN / claimed.sampling_rate) / _MOST_AT_ONCE)
    noise = claimed.noise_multiplier * math.sqrt(releases)
    slope, level = 2 * math.sqrt(3 * _LOG_LEVEL), 2 * math.sqrt(2 * _LOG_LEVEL) * noise + 2 * _LOG_LEVEL / 3
    root = 1.5 * (slope + math.sqrt(slope**2 + 4 / 3 * level))
    drawn = min(math.ceil(root**2), _MOST_DRAWN)
    coins = min(math.ceil(drawn / claimed.sampling_rate), _MOST_COINS)
    releases = math.ceil(coins / _MOST_AT_ONCE)
    return math.ceil(coins / releases), releases


def _check_one_release(claimed: Claimed, as_run: Running, device: torch.device, stream: Stream) -> None:
    """Orthogonal canaries, each in or out by a fair coin: one release must not tell more than its own epsilon.

    For faults that the other checks do not look for, wherever in a step they are. Wrong with a chance of at most 1e-9.
    """
    was_in = stream.bernoulli(_CANARIES, 0.5)
    present = torch.from_numpy(was_in).nonzero()[:, 0]
    canaries = _canaries(present, _CANARIES, claimed.mechanism)
    scores = _release(canaries, _CANARIES, as_run, device).cpu().numpy()
    found = bound_from_scores(was_in, scores.astype(np.float64), _DELTA, LEVEL)
    step = claimed.step or Segment(claimed.mechanism.noise_multiplier, claimed.mechanism.sampling_rate, 1)
    epsilon = epsilon_of_history((step,), _DELTA)
    if found > epsilon:
        raise UnsoundMechanism(
            "canaries", f"one release shows an epsilon of at least {found:.2f} where {epsilon:.2f} was claimed"
        )


def _release(examples: Examples, width: int, as_run: Running, device: torch.device) -> Tensor:
    """One noisy sum over these canaries, float64 [width], as a step of the run makes it."""
    probe = _probe(width, device)
    as_run.engine.attach(probe)
    try:
        return as_run.release(examples, probe, _PHYSICAL_BATCH)
    finally:
        as_run.engine.detach()


def _probe(width: int, device: torch.device) -> nn.Module:
    """One weight for each feature, all zero: the gradient of a record of class 0 is half its features."""
    probe = nn.Linear(width, 1, bias=False, device=device)
    nn.init.zeros_(probe.weight)
    return probe


def _canaries(coordinates: Tensor, width: int, claimed: Mechanism) -> Examples:
    """One canary for each coordinate, whose gradient points along it and is far beyond the clipping norm."""
    features = torch.zeros(len(coordinates), width)
    features[torch.arange(len(coordinates)), coordinates] = 2 * _HUGE * claimed.clipping_norm
    return Examples(features, torch.zeros(len(coordinates), dtype=torch.int64))
