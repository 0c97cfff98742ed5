"""Every model in the table fits its records, or says which would."""

from __future__ import annotations

import pytest
import torch
from compositions import sim_config

from lepton_fl.config import config_dir
from lepton_fl.errors import ConfigError
from lepton_fl.models import TABLE
from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Model, Shape

TABULAR = Shape((38,), 1)
SMALL_IMAGE = Shape((1, 8, 8), 10)
MNIST = Shape((1, 28, 28), 10)
COLOUR = Shape((3, 32, 32), 5)

FITS = {
    "cnn": [SMALL_IMAGE, MNIST, COLOUR],
    "logistic": [TABULAR, SMALL_IMAGE, MNIST, COLOUR],
    "mlp": [TABULAR, SMALL_IMAGE, MNIST, COLOUR],
    "tanh_cnn": [MNIST, COLOUR],
}


def model(name: str, *overrides: str) -> Model:
    """The model's settings as its YAML gives them."""
    return sim_config(f"model={name}", *overrides).model


def test_the_table_and_the_yaml_files_name_the_same_models() -> None:
    assert {path.stem for path in (config_dir() / "model").glob("*.yaml")} == set(TABLE) == set(FITS)


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in sorted(TABLE) for shape in FITS[name]])
def test_a_model_gives_one_row_of_finite_logits_for_each_record(name: str, shape: Shape) -> None:
    built = model(name).build(shape)
    logits = built(torch.rand(3, *shape.features))
    assert logits.shape == (3, shape.outputs)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert built(torch.rand(0, *shape.features)).shape == (0, shape.outputs)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_value_of_a_model_is_a_trained_float32(name: str) -> None:
    built = model(name).build(MNIST)
    assert set(built.state_dict()) == {key for key, parameter in built.named_parameters() if parameter.requires_grad}
    assert {value.dtype for value in built.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("cnn", 1_663_370), ("tanh_cnn", 26_010), ("logistic", 7_850), ("mlp", 784 * 64 + 64 + 640 + 10)],
)
def test_a_model_has_its_papers_number_of_parameters_at_28_by_28(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in model(name).build(MNIST).parameters()) == parameters


def test_logistic_regression_starts_at_zero() -> None:
    built = model("logistic").build(TABULAR)
    assert all(not parameter.any() for parameter in built.parameters())
    assert sum(parameter.numel() for parameter in built.parameters()) == 39


@pytest.mark.parametrize("name", ["cnn", "mlp", "tanh_cnn"])
def test_a_models_start_follows_torchs_generator(name: str) -> None:
    def start(seed: int) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.cat([p.flatten() for p in model(name).build(MNIST).parameters()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize("name", ["cnn", "tanh_cnn"])
@pytest.mark.parametrize("shape", [TABULAR, Shape((1, 4, 4), 10), Shape((28, 28), 10)])
def test_an_image_model_refuses_other_records_and_names_models_that_would_do(name: str, shape: Shape) -> None:
    with pytest.raises(ConfigError, match=rf"model {name} needs images.*model=logistic or model=mlp"):
        model(name).build(shape)


@pytest.mark.parametrize("side", range(8, 30))
@pytest.mark.parametrize(("name", "least"), [("cnn", 8), ("tanh_cnn", 16)])
def test_an_image_model_fits_every_size_it_does_not_refuse(name: str, least: int, side: int) -> None:
    from lepton_fl.models.cnn import Cnn
    from lepton_fl.models.tanh_cnn import TanhCnn

    settings = Cnn(channels=2, hidden=3) if name == "cnn" else TanhCnn(channels=2, hidden=3)
    shape = Shape((1, side, side + 1), 2)
    if side < least:
        with pytest.raises(ConfigError, match=f"at least {least} x {least}"):
            settings.build(shape)
    else:
        assert settings.build(shape)(torch.rand(2, 1, side, side + 1)).shape == (2, 2)


@pytest.mark.parametrize(
    ("hidden", "activation", "field"),
    [([], "tanh", "hidden"), ([0], "tanh", "hidden"), ([8, -1], "relu", "hidden"), ([8], "gelu", "activation")],
)
def test_a_perceptron_refuses_settings_out_of_range_by_name(hidden: list[int], activation: str, field: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{field}"):
        Mlp(hidden, activation)


@pytest.mark.parametrize("name", ["cnn", "tanh_cnn"])
@pytest.mark.parametrize("field", ["channels", "hidden"])
@pytest.mark.parametrize("value", [0, -1])
def test_an_image_model_refuses_widths_below_one_by_name(name: str, field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{field}"):
        model(name, f"model.{field}={value}").build(MNIST)
