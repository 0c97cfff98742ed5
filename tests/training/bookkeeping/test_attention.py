"""Attention under book-keeping: torch's own outputs, and every record's own gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from opacus.layers import DPMultiheadAttention
from sequence_models import (
    STEPS,
    WIDTH,
    OnSequences,
    clipped,
    clipped_by,
    gradient_of_all,
    gradients_alone,
    gradients_by_opacus,
    means_of_owners,
    sequences,
)
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.engine import BookKeeping

Call = Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
HEADS = 2
CAUSAL = torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)


def laid_out(layer: nn.Module, *sequences: Tensor) -> tuple[Tensor, ...]:
    """[n, steps, width] as the layer wants it; one and the same tensor stays so."""
    if layer.batch_first:
        return sequences
    turned = {id(each): each.transpose(0, 1) for each in sequences}
    return tuple(turned[id(each)] for each in sequences)


def padding(x: Tensor) -> Tensor:
    """Some records' last two steps are not looked at."""
    return (torch.arange(x.shape[1]) >= x.shape[1] - 2) & (x[:, :1, 0] > 0)


def attending(**options: object) -> Call:
    """A sequence to itself, with these options."""

    def call(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        given = {name: value(x) if callable(value) else value for name, value in options.items()}
        y, weights = layer(*laid_out(layer, x, x, x), **given)
        y = y if layer.batch_first else y.transpose(0, 1)
        return (y,) if weights is None else (y, weights)

    return call


def to_another(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    other = x.flip(1)[:, 1:].square()
    y, _ = layer(*laid_out(layer, x, other, other), need_weights=False)
    return (y if layer.batch_first else y.transpose(0, 1),)


def to_two_others(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    widths = layer.kdim, layer.vdim
    key, value = (x.square().repeat(1, 1, 2)[:, 1:, :width] for width in widths)
    y, _ = layer(*laid_out(layer, x, key, value), need_weights=False)
    return (y if layer.batch_first else y.transpose(0, 1),)


CASES: dict[str, tuple[dict[str, object], Call]] = {
    "to itself": ({}, attending(need_weights=False)),
    "with its weights": ({}, attending()),
    "with every head's weights": ({}, attending(average_attn_weights=False)),
    "steps first": ({"batch_first": False}, attending()),
    "steps first, to another": ({"batch_first": False}, to_another),
    "without biases": ({"bias": False}, attending(need_weights=False)),
    "to another": ({}, to_another),
    "to two others": ({}, to_two_others),
    "of other widths": ({"kdim": 3, "vdim": 5}, to_two_others),
    "causal": ({}, attending(need_weights=False, attn_mask=CAUSAL, is_causal=True)),
    "causal with its weights": ({}, attending(attn_mask=CAUSAL, is_causal=True)),
    "masked by numbers": ({}, attending(need_weights=False, attn_mask=torch.arange(STEPS**2).view(STEPS, -1) / 9.0)),
    "masked for every head": (
        {},
        attending(attn_mask=lambda x: (x @ x.transpose(1, 2)).repeat_interleave(HEADS, dim=0)),
    ),
    "padded": ({}, attending(need_weights=False, key_padding_mask=padding)),
    "padded and causal": (
        {},
        attending(need_weights=False, key_padding_mask=padding, attn_mask=CAUSAL, is_causal=True),
    ),
    "with biases as keys": ({"add_bias_kv": True}, attending(need_weights=False, key_padding_mask=padding)),
    "with a zero as key": ({"add_zero_attn": True}, attending(attn_mask=CAUSAL)),
}


def model_of(options: dict[str, object], call: Call, heads: int = HEADS) -> OnSequences:
    torch.manual_seed(3)
    layer = nn.MultiheadAttention(WIDTH, heads, **{"batch_first": True, **options})  # type: ignore[arg-type]
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.2)
    size = sum(each[0].numel() for each in call(layer, sequences(1).features))
    return OnSequences(layer, call, size)


def agree(found: Tensor, truth: Tensor) -> bool:
    return float((found - truth).norm()) <= 1e-5 * float(truth.norm())


@pytest.mark.parametrize("options, call", CASES.values(), ids=CASES)
def test_the_taught_layer_computes_what_torchs_does(options: dict[str, object], call: Call) -> None:
    model, x = model_of(options, call), sequences(5).features
    expected = call(model.layer, x)
    engine = BookKeeping()
    engine.attach(model)
    found = call(model.layer, x)
    engine.detach()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options, call", CASES.values(), ids=CASES)
@pytest.mark.parametrize("clipping_norm", [1e-3, 1e3])
def test_the_sum_is_that_of_gradients_taken_one_record_at_a_time(
    options: dict[str, object], call: Call, clipping_norm: float
) -> None:
    model, batch = model_of(options, call), sequences(6)
    truth = clipped(gradients_alone(model, batch), clipping_norm)
    assert agree(clipped_by(BookKeeping(), model, batch, clipping_norm), truth)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("owners", [None, torch.tensor([0, 1, 1, 2, 0, 1, 3, 3])], ids=["records", "patients"])
@pytest.mark.parametrize("kind", ["to itself", "of other widths"])
def test_opacus_own_attention_adds_up_to_the_same(kind: str, owners: Tensor | None) -> None:
    options, call = CASES[kind]
    # Opacus 1.6 mixes the heads of attention up where it is batch_first, so there is one.
    model, theirs, batch = model_of(options, call, 1), model_of(options, call, 1), sequences(8)
    oracle = DPMultiheadAttention(WIDTH, 1, batch_first=True, **options)
    oracle.load_state_dict(model.layer.state_dict())
    theirs.layer = oracle
    oracle.kdim, oracle.vdim = model.layer.kdim, model.layer.vdim
    names = [f"layer.{part}linear.{what}" for what in ("weight", "bias") for part in "qkv"]
    names += [name for name, _ in model.named_parameters() if "out_proj" in name or "last" in name]
    gradients = gradients_by_opacus(theirs, names, batch)
    truth = clipped(gradients if owners is None else means_of_owners(gradients, owners), 0.5)
    assert agree(clipped_by(BookKeeping(), model, batch, 0.5, owners), truth)


def test_an_encoder_and_a_decoder_of_torch_train_as_they_are() -> None:
    torch.manual_seed(3)
    layer = nn.Transformer(WIDTH, HEADS, 2, 1, dim_feedforward=7, dropout=0.0, batch_first=True)

    def call(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return (layer(x, x.flip(1), tgt_mask=CAUSAL, tgt_is_causal=True, src_key_padding_mask=padding(x)),)

    model, batch = OnSequences(layer, call, WIDTH * STEPS), sequences(5)
    for clipping_norm in (1e-3, 1e3):
        truth = clipped(gradients_alone(model, batch), clipping_norm)
        assert agree(clipped_by(BookKeeping(), model, batch, clipping_norm), truth)


def test_an_encoder_that_is_large_enough_for_the_fast_product_agrees_too() -> None:
    torch.manual_seed(3)
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True), 2)
    batch = sequences(300)

    def call(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return (layer(x.repeat(1, 1, 64 // WIDTH)).mean(dim=1),)

    model = OnSequences(layer, call, 64)
    whole = clipped_by(BookKeeping(), model, batch, 1e6)  # no record is clipped: the gradient of the whole batch
    assert agree(whole, gradient_of_all(model, batch))


@pytest.mark.parametrize("name", ["to itself", "with its weights"])
def test_dropout_is_drawn_as_torch_draws_it(name: str) -> None:
    _, call = CASES[name]
    model, x = model_of({"dropout": 0.5}, call), sequences(5).features
    torch.manual_seed(5)
    expected = call(model.layer, x)
    engine = BookKeeping()
    engine.attach(model)
    torch.manual_seed(5)
    found = call(model.layer, x)
    silent = call(model.eval().layer, x)
    engine.detach()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(silent, call(model.eval().layer, x), rtol=1e-5, atol=1e-6)


def test_frozen_projections_are_left_out() -> None:
    for frozen in (["in_proj_weight", "out_proj.bias"], ["in_proj_bias", "out_proj.weight"], ["bias_k", "bias_v"]):
        options, call = CASES["with biases as keys"]
        model, batch = model_of(options, call), sequences(5)
        for name in frozen:
            model.layer.get_parameter(name).requires_grad_(False)
        assert agree(clipped_by(BookKeeping(), model, batch, 0.1), clipped(gradients_alone(model, batch), 0.1))


def test_a_record_that_is_not_finite_adds_nothing_nor_does_one_that_may_look_nowhere() -> None:
    def call(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        nowhere = (x[:, 0, :1] == 7.0).expand(-1, STEPS)
        return (layer(x, x, x, key_padding_mask=nowhere, need_weights=True)[0],)

    model, batch = model_of({}, call), sequences(6)
    without = clipped_by(BookKeeping(), model, batch.at(torch.tensor([0, 1, 3, 5])), 0.1)
    batch.features[2, 4, 1] = float("nan")
    batch.features[4, 0, 0] = 7.0
    assert agree(clipped_by(BookKeeping(), model, batch, 0.1), without)


def test_a_layer_called_twice_in_one_way_has_the_sum_of_both_gradients() -> None:
    def call(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        y = layer(x, x, x, need_weights=False)[0]
        return (layer(y, y, y)[0],)

    model, batch = model_of({"add_bias_kv": True}, call), sequences(5)
    assert agree(clipped_by(BookKeeping(), model, batch, 0.1), clipped(gradients_alone(model, batch), 0.1))


def test_a_layer_called_in_two_ways_is_refused() -> None:
    model = model_of({}, lambda layer, x: (layer(x, x, x)[0], layer(x, x + 1, x)[0]))
    with pytest.raises(UnsupportedModel, match="in two ways"):
        clipped_by(BookKeeping(), model, sequences(2), 1.0)


def test_a_sequence_without_a_batch_is_refused() -> None:
    model = OnSequences(nn.MultiheadAttention(WIDTH, HEADS), lambda layer, x: layer(x[0], x[0], x[0]), WIDTH)
    with pytest.raises(UnsupportedModel, match="without a batch"):
        clipped_by(BookKeeping(), model, sequences(2), 1.0)
