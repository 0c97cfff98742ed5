"""The self-test of shared noise: a sound share passes, and each fault is stopped by the check that looks for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.accounting import Schedule
from lepton_fl.privacy.randomness import Randomness, Stream
from lepton_fl.privacy.units import RecordPrivacy
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.examples import Examples
from lepton_fl.training.self_test import UnsoundMechanism
from lepton_fl.training.shared_noise import Cohort, SharedDraws, SharedMechanism, calibrate_shared
from lepton_fl.training.shared_self_test import SharedAsRun, check_shared_mechanism

SHAPE = Shape((5,), 3)


class Unclipped(BookKeeping):
    """An engine that was told of a bound and does not keep it."""

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        super().add(batch, 1e12 * clipping_norm, out, owners)


class NoiseForSome(Stream):
    """The last tenth of the coordinates draws the middle of the table: no noise."""

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        out = super().words(count).copy()
        out[count - count // 10 :] = 1 << 63
        return out


def model() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(hidden=[4], activation="tanh").build(SHAPE)


def mechanism(rate: float = 0.25, epsilon: float = 3.0, records_per_subject: int | None = None) -> SharedMechanism:
    privacy = RecordPrivacy(epsilon=epsilon, delta=1e-4, clipping_norm=0.5)
    size = sum(parameter.numel() for parameter in model().parameters())
    return calibrate_shared(privacy, Schedule(rate, 20), Cohort(4, 2, 100.0), size, records_per_subject)


def check(
    claimed: SharedMechanism,
    seed: int = 0,
    run: SharedMechanism | None = None,
    engine: BookKeeping | None = None,
    noise: type[Stream] = Stream,
) -> None:
    source = Randomness(seed)
    key = source.stream("key").words(4).tobytes()
    draws = SharedDraws(source.stream("sampling"), source.stream("rounding"), noise(key))
    as_run = SharedAsRun(run or claimed, engine or BookKeeping(), draws)
    check_shared_mechanism(model(), claimed, SHAPE, as_run, source.stream("canaries"))


def refused(claimed: SharedMechanism, **changed: object) -> str:
    with pytest.raises(UnsoundMechanism) as caught:
        check(claimed, **changed)  # type: ignore[arg-type]
    return caught.value.check


@pytest.mark.parametrize(("rate", "epsilon"), [(1.0, 1.0), (0.25, 3.0), (0.02, 8.0)])
@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_sound_share_passes_time_after_time(rate: float, epsilon: float, times: int) -> None:
    for seed in range(times):
        check(mechanism(rate, epsilon), seed)


def test_a_sound_share_of_patients_passes() -> None:
    check(mechanism(records_per_subject=16))


def test_noise_that_is_not_what_was_claimed_is_stopped() -> None:
    sound = mechanism()
    for factor in (0.5, 0.9, 1.1):
        quieter = replace(sound, variance=int(sound.variance * factor), noise_multiplier=0.1)
        assert refused(sound, run=quieter) == "noise"
    assert refused(sound, noise=NoiseForSome) == "noise"


def test_clipping_that_is_off_is_stopped() -> None:
    assert refused(mechanism(), engine=Unclipped()) == "clipping"
    wider = replace(mechanism(), clipping_norm=0.6, noise_multiplier=0.1)
    assert refused(mechanism(), run=wider) == "clipping"


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_another_sampling_rate_is_stopped(factor: float) -> None:
    sound = mechanism()
    assert refused(sound, run=replace(sound, sampling_rate=factor * sound.sampling_rate)) == "sampling rate"


def test_subjects_whose_records_count_one_by_one_are_stopped() -> None:
    sound = mechanism(records_per_subject=16)
    assert refused(sound, run=replace(sound, records_per_subject=None)) == "sampling rate"
