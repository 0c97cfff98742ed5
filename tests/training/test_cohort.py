"""Every executor gives the update that each institution would make by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from second_device import second_device
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.clipped_sum import ClippedSum, OpacusClippedSum
from lepton_fl.training.cohort.chunks import Batch
from lepton_fl.training.cohort.executor import Executor, Failed, Member, Outcome, Summed, Trained, Work, flat_state
from lepton_fl.training.cohort.lowered import Lowered
from lepton_fl.training.cohort.sequential import Sequential
from lepton_fl.training.cohort.stacked_sum import StackedClippedSum
from lepton_fl.training.cohort.together import Gradients, Together
from lepton_fl.training.cohort.vmapped import Vmapped
from lepton_fl.training.examples import Examples
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import Draws, Mechanism
from lepton_fl.training.self_test import AsRun, Claimed, UnsoundMechanism, check_mechanism
from lepton_fl.training.settings import Training

FEATURES, CLASSES = 7, 3
MECHANISM = Mechanism(noise_multiplier=0.5, clipping_norm=0.3, sampling_rate=0.4, expected_batch=5.0)


def opacus(model: nn.Module) -> ClippedSum:
    return OpacusClippedSum()


def mlp(outputs: int = CLASSES, bias: bool = True, bend: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Flatten(), nn.Linear(FEATURES, 6, bias=bias), bend(), nn.Linear(6, 5), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(5, outputs))


def wide(outputs: int, bias: bool) -> nn.Module:
    """Wider than an institution has records, so that a sum is worth it."""
    torch.manual_seed(4)
    # Smooth: where a unit has a kink, float32's rounding may put a record on its other side.
    layers = [nn.Flatten(), nn.Linear(FEATURES, 150, bias=bias), nn.Tanh(), nn.Linear(150, 120), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(120, outputs, bias=bias))


def training(**changed: float | str) -> Training:
    made = {
        "local_steps": 4,
        "sampling_rate": 0.4,
        "learning_rate": 0.2,
        "learning_rate_decay": 0.9,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "physical_batch": 64,
        "optimizer": "sgd",
    }
    return Training(**{**made, **changed})  # type: ignore[arg-type]


def members(
    sizes: Sequence[int], proximal_mu: float = 0.0, weights: bool = False, outputs: int = CLASSES
) -> list[Member]:
    found = []
    for number, size in enumerate(sizes):
        generator = np.random.default_rng(number)
        features = torch.from_numpy(generator.standard_normal((size, FEATURES), dtype=np.float32))
        labels = torch.from_numpy(generator.integers(0, max(2, outputs), size))
        groups = torch.from_numpy(generator.integers(0, 2, size))
        table = np.linspace(0.5, 2.0, 2 * max(2, outputs)).reshape(2, -1) if weights else None
        source = Randomness(5).within(f"institution {number}", 2)
        found.append(Member(Examples(features, labels, groups=groups), LocalTask(2, proximal_mu, source, table)))
    return found


def trained(
    executor: Executor, model: nn.Module, asked: Sequence[Member], chunk: int
) -> list[tuple[Tensor, float | None]]:
    found = []
    for first in range(0, len(asked), chunk):
        for one in executor.train(model, asked[first : first + chunk]):
            assert isinstance(one, Trained), one
            found.append((one.values.clone(), one.loss))
    return found


def assert_alike(
    model: nn.Module, found: Sequence[tuple[Tensor, float | None]], expected: Sequence[tuple[Tensor, float | None]]
) -> None:
    """Each tensor of each member, relative to its norm before or after, to 1e-6; losses as well."""
    assert len(found) == len(expected)
    before = [value.flatten() for value in model.state_dict().values()]
    sizes = [len(value) for value in before]
    for (values, loss), (right, right_loss) in zip(found, expected, strict=True):
        for one, other, start in zip(values.split(sizes), right.split(sizes), before, strict=True):
            assert float((one - other).norm()) <= 1e-6 * max(float(other.norm()), float(start.norm()))
        assert loss == (None if right_loss is None else pytest.approx(right_loss, rel=1e-6))


class Never:
    """No chunk of these tests is trained one by one."""

    def train(self, start: nn.Module, members: Sequence[Member]) -> Iterator[Outcome]:
        raise AssertionError("a chunk was trained one by one")


def lowered(work: Work) -> Executor:
    return Together(work, Lowered, Never())


def both(
    model: nn.Module, work: Work, asked: Sequence[Member], chunk: int
) -> tuple[list[tuple[Tensor, float | None]], list[tuple[Tensor, float | None]]]:
    return trained(lowered(work), model, asked, chunk), trained(Sequential(work), model, asked, 1)


@pytest.mark.parametrize("mechanism", [None, MECHANISM])
@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.1},
        {"optimizer": "adam", "learning_rate": 0.01},
        {"optimizer": "adam", "weight_decay": 0.1},
    ],
)
def test_a_lowered_chunk_trains_each_member_as_if_alone(
    changed: dict[str, float | str], chunk: int, mechanism: Mechanism | None
) -> None:
    model, work = mlp(), Work(training(**changed), mechanism, opacus)
    assert_alike(model, *both(model, work, members([20, 3, 11, 1, 26]), chunk))


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    chunk=st.integers(1, 6),
    settings=st.fixed_dictionaries(
        {
            "momentum": st.sampled_from([0.0, 0.9]),
            "weight_decay": st.sampled_from([0.0, 0.05]),
            "sampling_rate": st.sampled_from([0.1, 0.3, 1.0]),
            "local_steps": st.integers(1, 5),
        }
    ),
    task=st.tuples(st.sampled_from([0.0, 0.4]), st.booleans(), st.sampled_from([1, CLASSES])),
    mechanism=st.sampled_from([None, MECHANISM]),
)
@settings(max_examples=25, deadline=None)
def test_ragged_members_of_any_chunk_are_trained_as_if_alone(
    sizes: list[int],
    chunk: int,
    settings: dict[str, float | str],
    task: tuple[float, bool, int],
    mechanism: Mechanism | None,
) -> None:
    model, work = mlp(task[2], bend=nn.Sigmoid), Work(training(**settings), mechanism, opacus)
    assert_alike(model, *both(model, work, members(sizes, *task), chunk))


def test_a_draw_of_several_physical_batches_is_the_same_sum() -> None:
    model, work = mlp(), Work(training(physical_batch=3), MECHANISM, opacus)
    assert_alike(model, *both(model, work, members([40, 2, 17]), 3))


def test_what_is_added_up_in_float32_is_what_an_engine_adds_up_so() -> None:
    work = Work(
        training(sampling_rate=1.0, local_steps=1, physical_batch=4096), replace(MECHANISM, sampling_rate=1.0), opacus
    )
    counted: list[int] = []

    class Counting(Lowered):
        def clipped(self, values: Tensor, batch: Batch, target: float, rows: Sequence[Tensor]) -> Iterator[int]:
            counted.append(batch.labels.shape[1])
            return super().clipped(values, batch, target, rows)

    model, asked = mlp(), members([1100, 30])
    found = trained(Together(work, Counting, Never()), model, asked, 2)
    assert counted == [512, 512, 76]
    assert_alike(model, found, trained(Sequential(work), model, asked, 1))


def test_a_step_in_which_nobody_is_drawn_is_noise_alone() -> None:
    rare = Mechanism(0.5, 0.3, 1e-9, 5.0)
    model, work = mlp(), Work(training(), rare, opacus)
    assert_alike(model, *both(model, work, members([4, 5]), 2))


def test_layers_without_a_bias_are_lowered_too() -> None:
    model, work = mlp(bias=False), Work(training(momentum=0.9), MECHANISM, opacus)
    assert_alike(model, *both(model, work, members([9, 12]), 2))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
def test_a_record_that_is_not_finite_adds_nothing(broken: float) -> None:
    asked = members([10, 8])
    asked[0].examples.features[2, 0] = broken
    model, work = mlp(), Work(training(sampling_rate=1.0), Mechanism(1e-3, 0.3, 1.0, 5.0), opacus)
    found, expected = both(model, work, asked, 2)
    assert all(bool(one.isfinite().all()) for one, _ in found)
    assert_alike(model, found, expected)


def test_a_broken_record_spoils_its_own_institution_alone() -> None:
    asked, work = members([10, 8]), Work(training(), None, opacus)
    asked[0].examples.features[:] = float("nan")
    spoilt, fine = trained(lowered(work), mlp(), asked, 2)
    assert not bool(spoilt[0].isfinite().all())
    assert bool(fine[0].isfinite().all())


def test_whoever_is_at_fault_fails_alone() -> None:
    asked, work = members([10, 8, 6]), Work(training(), None, opacus)
    asked[1].examples.labels[:] = CLASSES + 4
    outcomes = list(Together(work, Lowered, Sequential(work)).train(mlp(), asked))
    assert [type(one) for one in outcomes] == [Trained, Failed, Trained]


def test_an_institution_without_records_fails_alone() -> None:
    work = Work(training(), None, opacus)
    outcomes = list(Together(work, Lowered, Sequential(work)).train(mlp(), members([10, 0])))
    assert [type(one) for one in outcomes] == [Trained, Failed]


def test_the_start_stays_as_it_is() -> None:
    model = mlp()
    before = [value.clone() for value in model.state_dict().values()]
    for executor in (lowered(Work(training(), None, opacus)), Sequential(Work(training(), MECHANISM, opacus))):
        list(executor.train(model, members([10, 8])))
    assert all(torch.equal(one, other) for one, other in zip(before, model.state_dict().values(), strict=True))


def test_one_executor_gives_the_same_bits_twice() -> None:
    work, asked = Work(training(), MECHANISM, opacus), members([10, 8, 6])
    executor = lowered(work)
    first, second = (trained(executor, mlp(), asked, 3) for _ in range(2))
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(first, second, strict=True))


class Twice(nn.Linear):
    """A layer of one's own."""


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(FEATURES, 3), nn.Dropout(0.5)),
        nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(FEATURES, 3)),
        Twice(FEATURES, 3),
        nn.Sequential(*[nn.Linear(3, 3)] * 2),
        nn.Sequential(nn.Linear(FEATURES, 3).requires_grad_(False)),
    ],
)
def test_a_layer_without_a_rule_is_named(model: nn.Module) -> None:
    with pytest.raises(UnsupportedModel, match="no rule for"):
        Lowered(model)


@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    settings=st.fixed_dictionaries(
        {
            "weight_decay": st.sampled_from([0.0, 0.05]),
            "sampling_rate": st.sampled_from([0.3, 1.0]),
            "local_steps": st.integers(1, 3),
        }
    ),
    task=st.tuples(st.sampled_from([0.0, 0.4]), st.booleans(), st.sampled_from([1, CLASSES])),
    bias=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_a_sum_of_updates_is_the_sum_of_single_ones(
    sizes: list[int], settings: dict[str, float | str], task: tuple[float, bool, int], bias: bool
) -> None:
    model, work = wide(task[2], bias), Work(training(**settings), None, opacus)
    asked = [replace(one, weight=3 + number) for number, one in enumerate(members(sizes, *task))]
    (found,) = lowered(work).train(model, asked)
    assert isinstance(found, Summed)
    assert found.weight == sum(3 + number for number in range(len(sizes)))
    assert not found.total.is_inference()
    start = flat_state(model).double()
    single = trained(Sequential(work), model, asked, 1)
    right = sum((3 + number) * (values.double() - start) for number, (values, _) in enumerate(single))
    # A single model is rounded to float32's grid around it; a sum of updates is not.
    grid = float(start.norm()) * 2**-24 * found.weight
    assert float((found.total.double() - right).norm()) <= 2e-6 * float(torch.as_tensor(right).norm()) + grid


def test_a_sum_that_one_institution_could_spoil_is_not_made() -> None:
    asked, work = [replace(one, weight=1) for one in members([10, 8])], Work(training(), None, opacus)
    asked[0].examples.features[3] = float("nan")
    outcomes = list(lowered(work).train(wide(CLASSES, bias=True), asked))
    assert [type(one) for one in outcomes] == [Trained, Trained]


@pytest.mark.parametrize("layer", ["1", "5"])
def test_a_sum_with_a_value_that_a_reply_must_not_have_is_not_made(layer: str) -> None:
    asked, work = [replace(one, weight=1) for one in members([10, 8])], Work(training(), None, opacus)
    model = wide(CLASSES, bias=True)
    with torch.no_grad():
        model.get_parameter(f"{layer}.bias")[1] = 2e5
    assert [type(one) for one in lowered(work).train(model, asked)] == [Trained, Trained]


def test_a_label_that_the_model_does_not_know_fails_alone_where_a_sum_is_wanted() -> None:
    asked, work = [replace(one, weight=1) for one in members([10, 8, 6])], Work(training(), None, opacus)
    asked[1].examples.labels[:] = CLASSES
    outcomes = list(Together(work, Lowered, Sequential(work)).train(wide(CLASSES, bias=True), asked))
    assert [type(one) for one in outcomes] == [Trained, Failed, Trained]


@pytest.mark.parametrize("changed", [{}, {"weight_decay": 0.1}])
def test_what_a_chunk_leaves_in_memory_is_nothing_to_the_next_one(changed: dict[str, float | str]) -> None:
    model, work = wide(CLASSES, bias=True), Work(training(**changed), None, opacus)
    asked = [replace(one, weight=2) for one in members([9, 7, 3, 8, 8, 8, 1])]
    chunks = [asked[:3], asked[3:6], asked[2:4], asked[6:], asked[:3], asked[4:6], asked[3:5]]
    used = lowered(work)
    found = [one for chunk in chunks for one in used.train(model, chunk)]
    alone = [one for chunk in chunks for one in lowered(work).train(model, chunk)]
    for one, other in zip(found, alone, strict=True):
        assert isinstance(one, Summed)
        assert isinstance(other, Summed)
        assert torch.equal(one.total, other.total)


def test_a_sum_is_the_same_on_another_device() -> None:
    model, work = wide(CLASSES, bias=True), Work(training(weight_decay=0.1), None, opacus)
    asked = [replace(one, weight=3) for one in members([9, 7, 3], 0.2, weights=True)]
    (here,) = lowered(work).train(model, asked)
    with second_device() as device:
        (found,) = lowered(work).train(copy.deepcopy(model).to(device), asked)
    assert isinstance(here, Summed)
    assert isinstance(found, Summed)
    assert float((found.total - here.total).norm()) <= 1e-5 * float(here.total.norm())


@pytest.mark.parametrize("changed", [{"momentum": 0.9}, {"optimizer": "adam"}])
def test_an_optimizer_that_remembers_makes_single_updates(changed: dict[str, float | str]) -> None:
    asked, work = [replace(one, weight=1) for one in members([10, 8])], Work(training(**changed), None, opacus)
    assert [type(one) for one in lowered(work).train(wide(CLASSES, bias=True), asked)] == [Trained, Trained]


@pytest.mark.parametrize("bias", [True, False])
def test_a_large_layer_is_trained_alike_by_the_faster_product(bias: bool) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(FEATURES, 700), nn.Tanh(), nn.Linear(700, 300, bias=bias), nn.Linear(300, 3))
    work, asked = Work(training(), None, opacus), members([20, 12])
    expected = []
    for member in asked:
        alone = copy.deepcopy(model)
        loss = train_plainly(alone, member.examples, work.training, member.task)
        expected.append((flat_state(alone), loss))
    assert_alike(model, trained(Sequential(work), model, asked, 1), expected)


def test_convolutions_are_trained_alike_in_the_faster_order() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Unflatten(1, (1, FEATURES)), nn.Unflatten(2, (1, FEATURES)), nn.Conv2d(1, 4, 1))
    model = nn.Sequential(*model, nn.Tanh(), nn.Flatten(), nn.Linear(4 * FEATURES, 3))
    work, asked = Work(training(momentum=0.9), None, opacus), members([20, 12])
    expected = []
    for member in asked:
        alone = copy.deepcopy(model)
        loss = train_plainly(alone, member.examples, work.training, member.task)
        expected.append((flat_state(alone), loss))
    assert_alike(model, trained(Sequential(work), model, asked, 1), expected)


@pytest.mark.parametrize("mechanism", [None, MECHANISM])
def test_a_batched_model_of_convolutions_trains_each_member_as_if_alone(mechanism: Mechanism | None) -> None:
    torch.manual_seed(1)
    layers = [nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)]
    model, work = nn.Sequential(*layers), Work(training(momentum=0.5), mechanism, opacus)
    asked = members([20, 3, 11], 0.3, weights=True)
    found = trained(Together(work, Vmapped, Never()), model, asked, 2)
    assert_alike(model, found, trained(Sequential(work), model, asked, 1))


class Unclipped(Lowered):
    """Gradients that were told of a bound and do not keep it."""

    def clipped(self, values: Tensor, batch: Batch, target: float, rows: Sequence[Tensor]) -> Iterator[int]:
        return super().clipped(values, batch, 1e9 * target, rows)


@pytest.mark.parametrize("gradients", [Lowered, Vmapped])
def test_the_self_test_passes_through_what_clips_in_a_cohort(gradients: type[Gradients]) -> None:
    self_tested(gradients)


def test_the_self_test_stops_a_cohort_that_does_not_clip() -> None:
    with pytest.raises(UnsoundMechanism, match="clip"):
        self_tested(Unclipped)


def self_tested(gradients: Callable[[nn.Module], Gradients]) -> None:
    source = Randomness(3)
    draws = Draws(source.stream("sampling"), source.stream("noise"))
    as_run = AsRun(MECHANISM, StackedClippedSum(gradients), draws)
    check_mechanism(mlp(), Claimed(MECHANISM, Shape((FEATURES,), CLASSES)), as_run, source.stream("canaries"))
