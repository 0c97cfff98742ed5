"""The self-test: a sound mechanism passes, and each fault is stopped by the check that looks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from proposals import EXACTLY
from torch import Tensor, nn

from lepton_fl.federation.client_app import ClientProgram, client_app
from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.randomness import Randomness, Stream
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum
from lepton_fl.training.examples import Examples
from lepton_fl.training.private import Draws, Mechanism
from lepton_fl.training.self_test import (
    AsRun,
    Claimed,
    UnsoundMechanism,
    _check_one_release,
    check_mechanism,
)
from lepton_fl.training.settings import Training

SHAPE = Shape((5,), 3)
SOUND = Mechanism(noise_multiplier=1.1, clipping_norm=0.5, sampling_rate=0.25, expected_batch=8.0)
SETTINGS = [(1.0, 17.45), (1.0, 0.5), (0.25, 1.1), (0.01, 0.8), (0.01, 300.0)]


class Halved(Stream):
    """Noise of half the standard deviation."""

    def standard_normal(self, out: Tensor) -> None:
        super().standard_normal(out)
        out /= 2


class Unclipped(BookKeeping):
    """An engine that was told of a bound and does not keep it."""

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        super().add(batch, 1e12 * clipping_norm, out, owners)


class ClippedPerBatch(BookKeeping):
    """Clips the sum of a batch, not each record: the bound holds for one record and for no two."""

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        total = torch.zeros_like(out)
        super().add(batch, 1e12 * clipping_norm, total, owners)
        out += total * min(1.0, clipping_norm * len(batch) / float(total.norm()))


class NoiseForSome(Stream):
    """The last tenth of the coordinates stays without noise, the others have a little more."""

    def standard_normal(self, out: Tensor) -> None:
        super().standard_normal(out)
        out *= math.sqrt(10 / 9)
        out[len(out) - len(out) // 10 :] = 0.0


def model() -> nn.Module:
    torch.manual_seed(0)
    return Mlp(hidden=[4], activation="tanh").build(SHAPE)


def draws(source: Randomness, noise: type[Stream] = Stream) -> Draws:
    key = source.stream("key").words(4).tobytes()
    return Draws(source.stream("sampling"), noise(key))


def check(
    claimed: Mechanism,
    seed: int = 0,
    run: Mechanism | None = None,
    engine: ClippedSum | None = None,
    noise: type[Stream] = Stream,
) -> None:
    source = Randomness(seed)
    as_run = AsRun(run or claimed, engine or BookKeeping(), draws(source, noise))
    check_mechanism(model(), Claimed(claimed, SHAPE), as_run, source.stream("canaries"))


def refused(claimed: Mechanism, **changed: object) -> str:
    with pytest.raises(UnsoundMechanism) as caught:
        check(claimed, **changed)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    return caught.value.check


@pytest.mark.parametrize(("sampling_rate", "noise_multiplier"), SETTINGS)
@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_a_sound_mechanism_passes_time_after_time(sampling_rate: float, noise_multiplier: float, times: int) -> None:
    claimed = replace(SOUND, sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    for seed in range(times):
        check(claimed, seed)


def test_a_sound_mechanism_passes_with_the_reference_too() -> None:
    check(SOUND, engine=OpacusClippedSum())


@pytest.mark.parametrize(("sampling_rate", "noise_multiplier"), SETTINGS)
def test_halved_noise_is_stopped(sampling_rate: float, noise_multiplier: float) -> None:
    claimed = replace(SOUND, sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    assert [refused(claimed, seed=seed, noise=Halved) for seed in range(3)] == ["noise"] * 3


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_noise_that_is_a_tenth_off_is_stopped(factor: float) -> None:
    assert refused(SOUND, run=replace(SOUND, noise_multiplier=factor * SOUND.noise_multiplier)) == "noise"


@pytest.mark.parametrize("clipping_norm", [0.5, 1e-3, 1e3])
def test_clipping_that_is_off_is_stopped(clipping_norm: float) -> None:
    assert refused(replace(SOUND, clipping_norm=clipping_norm), engine=Unclipped()) == "clipping"


def test_clipping_a_batch_instead_of_each_record_is_stopped() -> None:
    engine: BookKeeping = ClippedPerBatch()
    assert refused(SOUND, engine=engine) in ("clipping", "sampling rate", "canaries")


def test_clipping_to_a_larger_norm_than_claimed_is_stopped() -> None:
    run = replace(SOUND, clipping_norm=1.2 * SOUND.clipping_norm, noise_multiplier=SOUND.noise_multiplier / 1.2)
    assert refused(SOUND, run=run) == "clipping"


RATES: Sequence[float] = (1.0, 0.5, 0.25, 0.01, 0.001)


@pytest.mark.parametrize(("rate", "factor"), [(r, f) for r, f in product(RATES, (1.5, 1 / 1.5)) if r * f <= 1])
@pytest.mark.parametrize("noise_multiplier", [0.6, 20.0])
def test_a_misreported_sampling_rate_is_stopped(rate: float, factor: float, noise_multiplier: float) -> None:
    claimed = replace(SOUND, sampling_rate=rate, noise_multiplier=noise_multiplier)
    assert refused(claimed, run=replace(claimed, sampling_rate=rate * factor)) == "sampling rate"


def test_half_of_the_records_drawn_where_all_were_claimed_is_stopped() -> None:
    everyone = replace(SOUND, sampling_rate=1.0)
    assert refused(everyone, run=replace(everyone, sampling_rate=0.5)) == "sampling rate"


def test_coordinates_without_noise_are_stopped_though_the_variance_is_right() -> None:
    everyone = replace(SOUND, sampling_rate=1.0, noise_multiplier=4.0)
    assert refused(everyone, noise=NoiseForSome) == "noise"


def test_one_release_of_canaries_alone_shows_that_clipping_is_off() -> None:
    everyone, source = replace(SOUND, sampling_rate=1.0, noise_multiplier=4.0), Randomness(0)
    as_run = AsRun(everyone, Unclipped(), draws(source))
    with pytest.raises(UnsoundMechanism, match=r"failed at canaries: one release shows an epsilon of at least \d"):
        _check_one_release(Claimed(everyone, SHAPE), as_run, torch.device("cpu"), source.stream("canaries"))


def test_the_model_is_left_as_it_was_found() -> None:
    own = model()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    source = Randomness(0)
    as_run = AsRun(SOUND, BookKeeping(), draws(source))
    check_mechanism(own, Claimed(SOUND, SHAPE), as_run, source.stream("canaries"))
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(parameter.grad is None for parameter in own.parameters())


# -- where subjects are protected


class EachForItself(BookKeeping):
    """Bounds records and not their owner."""

    def add(self, batch: Examples, clipping_norm: float, out: Tensor, owners: Tensor | None = None) -> None:
        super().add(batch, clipping_norm, out)


PATIENTS = replace(SOUND, records_per_subject=4)


@pytest.mark.parametrize("records_per_subject", [1, 2, 16])
def test_a_sound_mechanism_for_subjects_passes(records_per_subject: int) -> None:
    for seed in range(10):
        check(replace(PATIENTS, records_per_subject=records_per_subject), seed)


def test_an_engine_that_bounds_records_where_subjects_are_claimed_is_stopped() -> None:
    assert refused(PATIENTS, engine=EachForItself()) == "clipping"


def test_drawing_records_where_subjects_are_claimed_is_stopped() -> None:
    assert refused(PATIENTS, run=SOUND) == "sampling rate"


# -- where it runs


def program(claimed: Claimed | None, mechanism: Mechanism = SOUND) -> ClientProgram:
    training = Training(1, 0.25, 0.1, 1.0, 0.0, 0.0, 8, "sgd")
    return ClientProgram(model(), SHAPE.outputs, training, mechanism, 5, Randomness(3), EXACTLY, claimed)


def test_a_private_program_answers_nothing_before_its_self_test() -> None:
    client_app(program(Claimed(SOUND, SHAPE)), {}, InMemory())
    wrong = {
        "noise": replace(SOUND, noise_multiplier=0.55),
        "sampling rate": replace(SOUND, sampling_rate=0.375),
        # The noise is the claimed one, the bound is not.
        "clipping": replace(SOUND, clipping_norm=5.0, noise_multiplier=0.11),
    }
    for name, mechanism in wrong.items():
        told = r"failed at [a-z ]+: .*; nothing was trained and nothing was released"
        with pytest.raises(UnsoundMechanism, match=told) as caught:
            client_app(program(Claimed(SOUND, SHAPE), mechanism), {}, InMemory())
        assert caught.value.check == name


def test_a_private_program_of_which_nothing_was_claimed_is_refused() -> None:
    with pytest.raises(UnsoundMechanism, match="failed at the claim"):
        client_app(program(None), {}, InMemory())
