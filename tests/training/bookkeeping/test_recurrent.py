"""LSTM and GRU under book-keeping: torch's own outputs, and every record's own gradient."""

from __future__ import annotations

import pytest
import torch
from opacus.layers import DPGRU, DPLSTM
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
    of_records,
    sequences,
)
from torch import Tensor, nn

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.engine import BookKeeping

HIDDEN = 5
SHAPES = {
    "plain": {},
    "without biases": {"bias": False},
    "deep and both ways": {"num_layers": 2, "bidirectional": True},
    "steps first": {"batch_first": False, "num_layers": 2},
}


def recurrent(kind: type[nn.RNNBase], **options: object) -> OnSequences:
    torch.manual_seed(3)
    layer = kind(WIDTH, HIDDEN, **{"batch_first": True, **options})
    ways, states = (2 if layer.bidirectional else 1), (2 if kind is nn.LSTM else 1)
    return OnSequences(layer, of_records, HIDDEN * ways * (STEPS + states * layer.num_layers))


def agree(found: Tensor, truth: Tensor) -> bool:
    return float((found - truth).norm()) <= 1e-5 * float(truth.norm())


@pytest.fixture(params=[nn.LSTM, nn.GRU])
def kind(request: pytest.FixtureRequest) -> type[nn.RNNBase]:
    made: type[nn.RNNBase] = request.param
    return made


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_taught_layer_computes_what_torchs_does(kind: type[nn.RNNBase], shape: dict[str, object]) -> None:
    model, x = recurrent(kind, **shape), sequences(7).features
    x = x if model.layer.batch_first else x.transpose(0, 1)
    outputs, states = model.layer(x)
    engine = BookKeeping()
    engine.attach(model)
    taught_outputs, taught_states = model.layer(x)
    engine.detach()
    torch.testing.assert_close(taught_outputs, outputs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(taught_states, states, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("clipping_norm", [1e-3, 1e3])
def test_the_sum_is_that_of_gradients_taken_one_record_at_a_time(
    kind: type[nn.RNNBase], shape: dict[str, object], clipping_norm: float
) -> None:
    model, batch = recurrent(kind, **shape), sequences(9)
    truth = clipped(gradients_alone(model, batch), clipping_norm)
    assert agree(clipped_by(BookKeeping(), model, batch, clipping_norm), truth)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("owners", [None, torch.tensor([0, 1, 1, 2, 0, 1, 3, 3])], ids=["records", "patients"])
def test_opacus_own_recurrent_layers_add_up_to_the_same(kind: type[nn.RNNBase], owners: Tensor | None) -> None:
    model, batch = recurrent(kind, num_layers=2, bidirectional=True), sequences(8)
    theirs = recurrent(kind, num_layers=2, bidirectional=True)
    oracle = (DPLSTM if kind is nn.LSTM else DPGRU)(WIDTH, HIDDEN, 2, batch_first=True, bidirectional=True)
    oracle.load_state_dict(model.layer.state_dict())
    theirs.layer = oracle
    gradients = gradients_by_opacus(theirs, [name for name, _ in model.named_parameters()], batch)
    truth = clipped(gradients if owners is None else means_of_owners(gradients, owners), 0.5)
    assert agree(clipped_by(BookKeeping(), model, batch, 0.5, owners), truth)


def test_steps_that_are_large_enough_for_the_fast_product_agree_too(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(4)
    model, batch = OnSequences(kind(64, 160, batch_first=True), lambda layer, x: (wide(layer, x),), 160), sequences(80)
    whole = clipped_by(BookKeeping(), model, batch, 1e6)  # no record is clipped: the gradient of the whole batch
    assert agree(whole, gradient_of_all(model, batch))


def wide(layer: nn.Module, x: Tensor) -> Tensor:
    outputs: Tensor = layer(x.repeat(1, 1, 64 // WIDTH))[0]
    return outputs.mean(dim=1)


def test_every_record_alone_is_clipped_to_the_norm_itself(kind: type[nn.RNNBase]) -> None:
    model, batch = recurrent(kind, num_layers=2), sequences(4)
    for row in range(4):
        norm = float(clipped_by(BookKeeping(), model, batch.at(torch.tensor([row])), 1e-3).norm())
        assert norm == pytest.approx(1e-3, rel=1e-5)


def test_a_state_computed_from_the_record_gets_its_gradient(kind: type[nn.RNNBase]) -> None:
    def from_the_first_step(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        state = torch.nn.functional.pad(x[None, :, 0], (0, HIDDEN - WIDTH))
        y, _ = layer(start(x), (state, state * 2) if kind is nn.LSTM else state)
        return (y,)

    torch.manual_seed(3)
    start = nn.Linear(WIDTH, WIDTH)
    model = OnSequences(kind(WIDTH, HIDDEN, batch_first=True), from_the_first_step, HIDDEN * STEPS)
    model.start = start
    batch = sequences(5)
    assert agree(clipped_by(BookKeeping(), model, batch, 0.1), clipped(gradients_alone(model, batch), 0.1))


def test_a_layer_called_twice_has_the_sum_of_both_gradients(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(3)
    model = OnSequences(
        kind(WIDTH, WIDTH, batch_first=True), lambda layer, x: (layer(layer(x)[0][:, 1:])[0],), WIDTH * (STEPS - 1)
    )
    batch = sequences(5)
    assert agree(clipped_by(BookKeeping(), model, batch, 0.1), clipped(gradients_alone(model, batch), 0.1))


def test_frozen_parameters_are_left_out(kind: type[nn.RNNBase]) -> None:
    model, batch = recurrent(kind, num_layers=2), sequences(5)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hh_l1", "bias_ih_l1"):
        model.layer.get_parameter(name).requires_grad_(False)
    assert agree(clipped_by(BookKeeping(), model, batch, 0.1), clipped(gradients_alone(model, batch), 0.1))


def test_a_record_that_is_not_finite_adds_nothing(kind: type[nn.RNNBase]) -> None:
    model, batch = recurrent(kind), sequences(6)
    without = clipped_by(BookKeeping(), model, batch.at(torch.tensor([0, 1, 3, 4, 5])), 0.1)
    batch.features[2, 4, 1] = float("nan")
    assert agree(clipped_by(BookKeeping(), model, batch, 0.1), without)


def test_dropout_between_layers_is_drawn_as_torch_draws_it(kind: type[nn.RNNBase]) -> None:
    model, x = recurrent(kind, num_layers=3, dropout=0.5), sequences(7).features
    torch.manual_seed(5)
    outputs, _ = model.layer(x)
    engine = BookKeeping()
    engine.attach(model)
    torch.manual_seed(5)
    taught, _ = model.layer(x)
    model.eval()
    silent, _ = model.layer(x)
    engine.detach()
    torch.testing.assert_close(taught, outputs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(silent, model.eval().layer(x)[0], rtol=1e-5, atol=1e-6)


def test_sequences_that_are_packed_or_without_a_batch_are_refused(kind: type[nn.RNNBase]) -> None:
    def packed(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        short = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), STEPS), batch_first=True)
        return (layer(short)[0].data,)

    for call in (packed, lambda layer, x: layer(x[0])):
        with pytest.raises(UnsupportedModel, match="packed sequence"):
            clipped_by(BookKeeping(), OnSequences(kind(WIDTH, HIDDEN), call, HIDDEN), sequences(2), 1.0)


def test_a_state_of_another_size_is_an_error_as_in_torch(kind: type[nn.RNNBase]) -> None:
    def one_for_all(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        state = x.new_zeros(1, 1, HIDDEN)
        return (layer(x, (state, state) if kind is nn.LSTM else state)[0],)

    model = OnSequences(kind(WIDTH, HIDDEN, batch_first=True), one_for_all, HIDDEN * STEPS)
    with pytest.raises(RuntimeError, match="Expected hidden"):
        clipped_by(BookKeeping(), model, sequences(2), 1.0)


def test_a_projected_state_is_refused() -> None:
    model = OnSequences(nn.LSTM(WIDTH, HIDDEN, proj_size=2, batch_first=True), of_records, 2)
    with pytest.raises(UnsupportedModel, match="proj_size"):
        clipped_by(BookKeeping(), model, sequences(2), 1.0)


def test_records_in_the_dimension_of_steps_are_refused() -> None:
    model = OnSequences(nn.LSTM(WIDTH, HIDDEN), lambda layer, x: (layer(x)[0],), HIDDEN * STEPS)
    with pytest.raises(UnsupportedModel, match="one row for each record"):
        clipped_by(BookKeeping(), model, sequences(STEPS + 1), 1.0)
