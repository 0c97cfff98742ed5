"""The device is the institution's choice; training and counting follow the model there and come to the same end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from proposals import EXACTLY
from second_device import There, second_device
from torch import Tensor, nn

from lepton_fl.errors import ConfigError
from lepton_fl.evaluation.histogram import Layout, count
from lepton_fl.evaluation.loss import summed_loss
from lepton_fl.federation.arrays import load_arrays, to_arrays
from lepton_fl.federation.client_app import ClientProgram, answer_evaluation, answer_training
from lepton_fl.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict, enter_run
from lepton_fl.models.cnn import Cnn
from lepton_fl.models.logistic import Logistic
from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Model, Shape
from lepton_fl.models.tanh_cnn import TanhCnn
from lepton_fl.privacy.noise import add_noise
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.privacy.rounds_spent import InMemory
from lepton_fl.tasks.groups import Groups
from lepton_fl.training.bookkeeping.engine import BookKeeping
from lepton_fl.training.clipped_sum import refuse_coupled_records
from lepton_fl.training.device import choose, describe, device_of, devices_seen, full_precision, layers_seeded
from lepton_fl.training.examples import Examples, Site
from lepton_fl.training.local import LocalTask
from lepton_fl.training.plain import train_plainly
from lepton_fl.training.private import Mechanism, train_privately
from lepton_fl.training.settings import Training

CPU = torch.device("cpu")
TRAINING = Training(
    local_steps=3,
    sampling_rate=0.5,
    learning_rate=0.1,
    learning_rate_decay=1.0,
    momentum=0.5,
    weight_decay=0.01,
    physical_batch=4,
    optimizer="sgd",
)
MECHANISM = Mechanism(noise_multiplier=1.0, clipping_norm=0.5, sampling_rate=0.5, expected_batch=8.0)
MODELS: dict[str, tuple[Model, Shape]] = {
    "logistic": (Logistic(), Shape((5,), 1)),
    "mlp": (Mlp(hidden=[6], activation="tanh"), Shape((5,), 3)),
    "cnn": (Cnn(channels=2, hidden=8), Shape((1, 8, 8), 10)),
    "tanh_cnn": (TanhCnn(channels=2, hidden=8), Shape((1, 20, 20), 10)),
}


def built(name: str) -> nn.Module:
    chosen, shape = MODELS[name]
    with layers_seeded(1, CPU):
        return chosen.build(shape)


def records(name: str, number: int = 16) -> Examples:
    _, shape = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, max(2, shape.outputs), (number,), generator=generator)
    return Examples(torch.randn(number, *shape.features, generator=generator), labels)


def task() -> LocalTask:
    return LocalTask(1, 0.1, Randomness(3).within("A", 1))


def privately(model: nn.Module, examples: Examples) -> None:
    train_privately(model, examples, TRAINING, MECHANISM, BookKeeping(), task())


def plainly(model: nn.Module, examples: Examples) -> None:
    train_plainly(model, examples, TRAINING, task())


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().cpu() for parameter in model.parameters()]


# -- the choice


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:11", 12, "cuda:11"),
    ],
)
def test_a_name_chooses_its_device(name: str, gpus: int, device: str) -> None:
    assert choose(name, gpus) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "gpus", "seen"),
    [("cuda", 0, "no GPU"), ("cuda:1", 1, "one GPU, cuda:0;"), ("cuda:2", 2, "2 GPUs, cuda:0 to cuda:1")],
)
def test_a_gpu_that_is_not_there_is_refused_and_never_replaced(name: str, gpus: int, seen: str) -> None:
    with pytest.raises(ConfigError, match=f"device={name} and torch sees {seen}.*nothing was trained.*device=cpu"):
        choose(name, gpus)


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:01", "cuda:x", "mps", "cpu:0", "auto\n"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cpu, cuda, cuda:N or auto"):
        choose(name, 2)


def test_the_cpu_is_seen_first_and_can_be_described() -> None:
    assert devices_seen()[0].name == "cpu"
    assert describe(CPU).startswith("cpu (")


# -- a device apart: every model, trained and counted there, ends as it does here


def test_the_second_device_refuses_what_a_gpu_refuses() -> None:
    with second_device() as there:
        apart, here = torch.ones(3).to(there), torch.ones(3)
        for mixed in (lambda: apart + here, lambda: apart.index_select(0, torch.tensor([0])), lambda: here.add_(apart)):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            apart.numpy()
        assert float((apart * 2 + torch.tensor(1.0)).sum()) == 9.0
        assert apart.cpu().numpy().tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("train", [privately, plainly])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_training_follows_the_model_to_another_device(name: str, train: Callable[[nn.Module, Examples], None]) -> None:
    here, there, examples = built(name), built(name), records(name)
    train(here, examples)
    with second_device() as device:
        there.to(device)
        train(there, examples)
        assert all(isinstance(parameter, There) for parameter in there.parameters())
        trained = values(there)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(values(here), trained, strict=True))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_counting_follows_the_model_to_another_device(name: str) -> None:
    model, examples, outputs = built(name), records(name), MODELS[name][1].outputs
    layout = Layout(Groups(()), max(2, outputs), max(2, outputs))
    here, loss = count(model, examples, layout, 4, one_per_subject=False), summed_loss(model, examples, 4)
    with second_device() as device:
        there = model.to(device)
        assert (count(there, examples, layout, 4, one_per_subject=False) == here).all()
        assert summed_loss(there, examples, 4) == pytest.approx(loss)


def test_a_model_s_values_go_to_another_device_and_come_back() -> None:
    enter_run(1)
    model = built("mlp")
    sent = to_arrays(model)
    with second_device() as device:
        model.to(device)
        load_arrays(model, ArrayRecord({name: Array(2 * array.numpy()) for name, array in sent.items()}))
        back = to_arrays(model)
        assert device_of(model) == device
    assert all((back[name].numpy() == 2 * sent[name].numpy()).all() for name in sent)


def test_noise_drawn_here_is_the_noise_added_there() -> None:
    here = torch.linspace(-1, 1, 7, dtype=torch.float64)
    with second_device() as device:
        there = here.to(device)
        add_noise(there, 0.5, Randomness(1).stream("noise"))
        released = there.cpu()
    add_noise(here, 0.5, Randomness(1).stream("noise"))
    assert torch.equal(here, released)


def test_coupled_records_are_looked_for_where_the_model_is() -> None:
    with second_device() as device:
        refuse_coupled_records(built("mlp").to(device), (5,))


# -- around a round


def test_layers_draw_from_the_seed_and_torch_s_generator_is_as_before() -> None:
    before, drawn = torch.random.get_rng_state(), []
    for _ in range(2):
        with layers_seeded(7, CPU):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(before, torch.random.get_rng_state())


def flags() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


def test_a_gpu_s_convolutions_keep_their_bits_during_a_round_and_the_settings_are_as_before() -> None:
    before = flags()
    with full_precision(torch.device("cuda", 0)):
        assert flags() == (False, False, True)
    assert flags() == before


def program(name: str, mechanism: Mechanism | None) -> ClientProgram:
    outputs = MODELS[name][1].outputs
    evaluating = replace(EXACTLY, labels=max(2, outputs))
    return ClientProgram(built(name), outputs, TRAINING, mechanism, 5, Randomness(3), evaluating)


def test_a_device_that_cannot_hold_the_model_is_an_error_of_one_line() -> None:
    with pytest.raises(ConfigError, match=r"moved to xla.*nothing was trained; choose device=cpu"):
        program("mlp", None).on(torch.device("xla"))


# -- with a GPU


def asked(model: nn.Module, kind: str) -> Message:
    enter_run(1)
    content = RecordDict({"arrays": to_arrays(model), "config": ConfigRecord({"server-round": 1})})
    return Message(content, dst_node_id=2, message_type=kind)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@needs_gpu
@pytest.mark.parametrize("mechanism", [MECHANISM, None], ids=["private", "plain"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_seeded_round_on_a_gpu_is_that_of_the_cpu(name: str, mechanism: Mechanism | None) -> None:
    site, replies = Site("A", records(name), records(name), records(name)), []
    for device in (CPU, choose("cuda")):
        made = program(name, mechanism).on(device)
        reply = answer_training(made, site, asked(made.model, "train"), InMemory())
        replies.append(reply.content.array_records["arrays"])
    for parameter in replies[0]:
        here, there = (torch.from_numpy(arrays[parameter].numpy()) for arrays in replies)
        assert torch.allclose(here, there, atol=1e-4)


@needs_gpu
def test_counts_on_a_gpu_are_those_of_the_cpu() -> None:
    site, found = Site("A", records("cnn"), records("cnn"), records("cnn")), []
    for device in (CPU, choose("cuda")):
        made = program("cnn", None).on(device)
        reply = answer_evaluation(made, site, asked(made.model, "evaluate"), InMemory())
        found.append(reply.content.metric_records["metrics"])
    assert found[0]["scores"] == found[1]["scores"]
    assert found[0]["loss-sum"] == pytest.approx(found[1]["loss-sum"], abs=1e-4)


@needs_gpu
def test_layers_on_a_gpu_draw_from_the_seed_and_its_generator_is_as_before() -> None:
    gpu = choose("cuda")
    model = nn.Dropout(0.5)
    before, drawn = torch.cuda.get_rng_state(gpu), []
    for _ in range(2):
        with layers_seeded(7, gpu):
            drawn.append(model(torch.ones(64, device=gpu)).cpu())
    assert torch.equal(*drawn)
    assert torch.equal(before, torch.cuda.get_rng_state(gpu))
