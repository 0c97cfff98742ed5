"""LSTM and GRU: matrices that every step of a sequence is multiplied with, so that steps are positions of a product.

Every step's share of the input is one product before the recurrence starts, and the gradients of all steps' gates are
noted together after it: the recurrence itself is left with one small product a step. Gates, their activations and
then their gradients take turns in one piece of memory, the largest there is here.

Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Cho et al. 2014, "Learning Phrase Representations
using RNN Encoder-Decoder". The order of the gates, and where a GRU resets its state, are torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lepton_fl.errors import UnsupportedModel
from lepton_fl.training.bookkeeping.matmul import times_transposed
from lepton_fl.training.bookkeeping.pieces import of_positions
from lepton_fl.training.bookkeeping.tape import Forward, Slots, Tape

_INPUT, _STATE = 0, 1  # which matrix, and which bias


@dataclass(frozen=True)
class _Way:
    """One layer's way through a sequence in one direction."""

    layer: nn.RNNBase
    number: int
    is_backwards: bool
    slots: Slots
    tape: Tape

    def name(self, kind: str, matrix: int) -> str:
        """The parameter's in its layer."""
        return f"{kind}_{('ih', 'hh')[matrix]}_l{self.number}{'_reverse' if self.is_backwards else ''}"

    def parameters(self) -> list[Tensor]:
        """Both matrices [gates * hidden, ...], and both biases if there are any."""
        kinds = ("weight", "bias") if self.layer.bias else ("weight",)
        return [getattr(self.layer, self.name(kind, matrix)) for kind in kinds for matrix in (_INPUT, _STATE)]

    def order(self, steps: int) -> list[tuple[int, int, int]]:
        """Each step in its turn, and which of the steps + 1 states come before and after it."""
        if self.is_backwards:
            return [(step, step + 1, step) for step in range(steps - 1, -1, -1)]
        return [(step, step, step + 1) for step in range(steps)]

    def before(self, states: Tensor) -> Tensor:
        """The state before each step, of all [steps + 1, n, hidden]."""
        return states[1:] if self.is_backwards else states[:-1]

    def after(self, states: Tensor) -> Tensor:
        """The state after each step."""
        return states[:-1] if self.is_backwards else states[1:]

    def last(self, by_step: Tensor) -> Tensor:
        """What belongs to the step that is taken last."""
        return by_step[0 if self.is_backwards else -1]

    def starting(self, state: Tensor, steps: int) -> Tensor:
        """Memory for all states [steps + 1, n, hidden], the first of them filled in."""
        states = state.new_empty(steps + 1, *state.shape)
        states[-1 if self.is_backwards else 0] = state
        return states

    def note(self, inputs: dict[int, Tensor], g: Tensor) -> None:
        """Note the piece of the matrices that multiply these inputs [steps, n, d] with the outputs' gradient g."""
        weights = tuple(
            (slot, a.transpose(0, 1))
            for matrix, a in inputs.items()
            if (slot := self.slots[self.name("weight", matrix)]) is not None
        )
        names = [self.name("bias", matrix) for matrix in inputs]
        biases = tuple(slot for name in names if (slot := self.slots.get(name)) is not None)
        if weights or biases:
            key = (self.layer, self.number, self.is_backwards, *inputs)
            self.tape.note(key, of_positions(weights, biases, g.transpose(0, 1)))


class _Lstm(torch.autograd.Function):
    """Of a way and x [steps, n, d], h, c [n, hidden] and parameters: outputs [steps, n, hidden] and the last c."""

    @staticmethod
    def forward(ctx: Any, way: _Way, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        x, h, c, w_ih, w_hh, *biases = tensors
        gates = _inputs_share(x, w_ih, biases[0] + biases[1] if biases else None)
        hs, cs = way.starting(h, len(x)), way.starting(c, len(x))
        tanh_cs = torch.empty_like(hs[1:])
        whole, h_at, c_at, tanh_c = (each.unbind() for each in (gates, hs, cs, tanh_cs))
        i, f, g, o = _by_step(gates, 4)
        minus_one = -x.new_ones(())
        for step, before, after in way.order(len(x)):
            reached = times_transposed(h_at[before], w_hh, added=whole[step])
            of_g = reached.narrow(1, 2 * h.shape[1], h.shape[1])
            of_g.add_(of_g)
            torch.sigmoid(reached, out=whole[step])
            torch.add(minus_one, g[step], alpha=2, out=g[step])  # a tanh, with what is before: see `_tanh`
            torch.mul(f[step], c_at[before], out=c_at[after]).addcmul_(i[step], g[step])
            _tanh(c_at[after], tanh_c[step], minus_one)
            torch.mul(o[step], tanh_c[step], out=h_at[after])
        ctx.way = way
        ctx.save_for_backward(x, w_ih, w_hh, gates, hs, cs, tanh_cs)
        return way.after(hs), way.last(way.after(cs)).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, w_ih, w_hh, gates, hs, cs, tanh_cs = ctx.saved_tensors
        of_output, dc = gradients[0].unbind(), gradients[1].clone()
        whole, c_at, tanh_c = gates.unbind(), cs.unbind(), tanh_cs.unbind()
        i, f, g, o = _by_step(gates, 4)
        of_i, of_g, kept, free = (torch.empty_like(dc) for _ in range(4))
        dh, w_turned = torch.zeros_like(dc), w_hh.t()
        for step, before, _ in reversed(ctx.way.order(len(x))):
            dh = dh + of_output[step]
            dc.add_(_through_tanh(torch.mul(dh, o[step], out=free), tanh_c[step], free))
            torch.mul(dc, g[step], out=of_i)
            torch.mul(dc, i[step], out=of_g)
            torch.mul(dc, f[step], out=kept)
            # From here on the step's gates are overwritten by their gradients.
            _through_sigmoid(of_i, i[step], i[step])
            _through_sigmoid(torch.mul(dc, c_at[before], out=free), f[step], f[step])
            _through_tanh(of_g, g[step], g[step])
            _through_sigmoid(torch.mul(dh, tanh_c[step], out=free), o[step], o[step])
            dc, kept = kept, dc
            dh = times_transposed(whole[step], w_turned)
        ctx.way.note({_INPUT: x, _STATE: ctx.way.before(hs)}, gates)
        return None, _of_inputs(ctx, gates, w_ih), dh, dc, *(None,) * (len(ctx.needs_input_grad) - 4)


class _Gru(torch.autograd.Function):
    """Of a way and x [steps, n, d], h [n, hidden] and parameters: outputs [steps, n, hidden]."""

    @staticmethod
    def forward(ctx: Any, way: _Way, *tensors: Tensor) -> tuple[Tensor]:
        x, h, w_ih, w_hh, *biases = tensors
        of_input, of_state = biases or (None, None)
        gates = _inputs_share(x, w_ih, of_input)
        hs = way.starting(h, len(x))
        shares = torch.empty_like(hs[1:])  # the state's in the candidate, before it is reset
        h_at, share = hs.unbind(), shares.unbind()
        r, z, candidate = _by_step(gates, 3)
        minus_one = -x.new_ones(())
        for step, before, after in way.order(len(x)):
            of_r, of_z, of_candidate = times_transposed(h_at[before], w_hh, of_state).chunk(3, dim=1)
            r[step].add_(of_r).sigmoid_()
            z[step].add_(of_z).sigmoid_()
            share[step].copy_(of_candidate)
            _tanh(candidate[step].addcmul_(r[step], share[step]), candidate[step], minus_one)
            torch.sub(h_at[before], candidate[step], out=h_at[after]).mul_(z[step]).add_(candidate[step])
        ctx.way = way
        ctx.save_for_backward(x, w_ih, w_hh, gates, hs, shares)
        return (way.after(hs),)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, w_ih, w_hh, gates, hs, shares = ctx.saved_tensors
        of_output = gradients[0].unbind()
        of_state = torch.empty_like(gates)  # as the gates' gradients, but of the state's share in the candidate
        whole, h_at, share = of_state.unbind(), hs.unbind(), shares.unbind()
        (r, z, candidate), (r_too, z_too, reset) = _by_step(gates, 3), _by_step(of_state, 3)
        of_z, free = torch.empty_like(hs[0]), torch.empty_like(hs[0])
        dh, w_turned = torch.zeros_like(hs[0]), w_hh.t()
        for step, before, _ in reversed(ctx.way.order(len(x))):
            dh = dh + of_output[step]
            kept = dh * z[step]
            torch.sub(h_at[before], candidate[step], out=of_z).mul_(dh)
            # From here on the step's gates are overwritten by their gradients.
            _through_tanh(torch.sub(dh, kept, out=free), candidate[step], candidate[step])
            _through_sigmoid(of_z, z[step], z[step])
            torch.mul(candidate[step], r[step], out=reset[step])
            _through_sigmoid(torch.mul(candidate[step], share[step], out=free), r[step], r[step])
            r_too[step].copy_(r[step])
            z_too[step].copy_(z[step])
            dh = times_transposed(whole[step], w_turned, added=kept)
        ctx.way.note({_INPUT: x}, gates)
        ctx.way.note({_STATE: ctx.way.before(hs)}, of_state)
        return None, _of_inputs(ctx, gates, w_ih), dh, *(None,) * (len(ctx.needs_input_grad) - 3)


def lstm(layer: nn.LSTM, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.LSTM`: records in the first dimension of a batch, or in the second, as `batch_first` says.

    Raises:
        UnsupportedModel: projections of the state; in the forward pass, packed sequences or one without a batch.
    """
    if layer.proj_size:
        raise UnsupportedModel("an LSTM with proj_size is not known here; nothing was trained; leave it out")

    def forward(x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        _refuse_unbatched(x)
        h, c = hx or (_zeros(layer, x), _zeros(layer, x))
        layer.check_forward_args(x, (h, c), None)
        y, last = _through_layers(_ways(layer, slots, tape), x, _Lstm.apply, (h, c))
        return y, (last[0], last[1])

    return forward


def gru(layer: nn.GRU, slots: Slots, tape: Tape) -> Forward:
    """The rule of `nn.GRU`: as that of `nn.LSTM`.

    Raises:
        UnsupportedModel: in the forward pass, packed sequences or one without a batch.
    """

    def forward(x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _refuse_unbatched(x)
        h = _zeros(layer, x) if hx is None else hx
        layer.check_forward_args(x, h, None)
        y, last = _through_layers(_ways(layer, slots, tape), x, _Gru.apply, (h,))
        return y, last[0]

    return forward


def _ways(layer: nn.RNNBase, slots: Slots, tape: Tape) -> list[list[_Way]]:
    """Of each layer, in each direction."""
    directions = (False, True) if layer.bidirectional else (False,)
    return [
        [_Way(layer, number, is_backwards, slots, tape) for is_backwards in directions]
        for number in range(layer.num_layers)
    ]


def _through_layers(
    ways: list[list[_Way]], x: Tensor, step_through: Callable[..., Sequence[Tensor]], states: tuple[Tensor, ...]
) -> tuple[Tensor, list[Tensor]]:
    """The last layer's outputs, laid out as the input is, and the last states [layers * directions, n, hidden].

    Args:
        step_through: of a way, x [steps, n, d], the states before it and its parameters: every step's output, and the
            last of each state but the first, which is the last output.
        states: each [layers * directions, n, hidden].
    """
    layer = ways[0][0].layer
    x = x.transpose(0, 1) if layer.batch_first else x
    found: list[tuple[Tensor, ...]] = []
    for number, directions in enumerate(ways):
        if number:
            x = F.dropout(x, layer.dropout, layer.training)
        outputs = []
        for way in directions:
            y, *more = step_through(way, x.contiguous(), *(s[len(found)] for s in states), *way.parameters())
            outputs.append(y)
            found.append((way.last(y), *more))
        x = torch.cat(outputs, dim=2) if len(outputs) > 1 else outputs[0]
    return (x.transpose(0, 1) if layer.batch_first else x), [torch.stack(each) for each in zip(*found, strict=True)]


def _refuse_unbatched(x: Tensor) -> None:
    if isinstance(x, PackedSequence) or x.dim() != 3:
        raise UnsupportedModel(
            "a recurrent layer was given a packed sequence, or one without a batch; nothing was released; pad "
            "sequences to one length, in a batch of three dimensions"
        )


def _zeros(layer: nn.RNNBase, x: Tensor) -> Tensor:
    directions = 2 if layer.bidirectional else 1
    return x.new_zeros(layer.num_layers * directions, x.shape[0 if layer.batch_first else 1], layer.hidden_size)


def _inputs_share(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Every step's, in its gates before they are activated, [steps, n, gates * hidden]; memory of its own."""
    return times_transposed(x, weight, bias)


def _of_inputs(ctx: Any, gates: Tensor, weight: Tensor) -> Tensor | None:
    """The inputs' gradient, if it is asked for."""
    return times_transposed(gates, weight.t()) if ctx.needs_input_grad[1] else None


def _by_step(gates: Tensor, count: int) -> list[tuple[Tensor, ...]]:
    """A view [n, hidden] of each gate at each step."""
    return [gate.unbind() for gate in gates.chunk(count, dim=2)]


def _tanh(x: Tensor, out: Tensor, minus_one: Tensor) -> Tensor:
    """2 sigmoid(2 x) - 1: torch's tanh takes a CPU ten times as long as its sigmoid, and a Python number twice as long
    as a tensor."""
    torch.add(x, x, out=out)
    return torch.add(minus_one, out.sigmoid_(), alpha=2, out=out)


def _through_sigmoid(gradient: Tensor, sigmoid: Tensor, out: Tensor) -> Tensor:
    made: Tensor = torch.ops.aten.sigmoid_backward.grad_input(gradient, sigmoid, grad_input=out)
    return made


def _through_tanh(gradient: Tensor, tanh: Tensor, out: Tensor) -> Tensor:
    made: Tensor = torch.ops.aten.tanh_backward.grad_input(gradient, tanh, grad_input=out)
    return made
