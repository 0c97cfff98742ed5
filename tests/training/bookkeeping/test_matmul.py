"""Fast products are the products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lepton_fl.training.bookkeeping import matmul
from lepton_fl.training.bookkeeping.matmul import add_product, times_transposed

LARGE = (37, 130, 300)  # rows, columns and the sum between them: enough to be handed to oneDNN


def matrices(m: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return tuple(torch.randn(*shape, generator=draw) for shape in ((m, k), (n, k), (n,), (m, n)))  # type: ignore[return-value]


@pytest.mark.parametrize("size", [(3, 2, 4), (0, 3, 2), LARGE])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_sum", [False, True])
def test_a_product_agrees_with_float64(size: tuple[int, int, int], with_bias: bool, with_sum: bool) -> None:
    x, w, bias, added = matrices(*size)
    found = times_transposed(x, w, bias if with_bias else None, added if with_sum else None)
    truth = x.double() @ w.double().t() + with_bias * bias.double() + with_sum * added.double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-4)


def test_matrices_lie_in_memory_as_they_like_and_stay_as_they_are() -> None:
    x, w, _, added = matrices(*LARGE)
    before = added.clone()
    turned = times_transposed(x.t().contiguous().t(), w.t().contiguous().t(), added=added)
    torch.testing.assert_close(turned, times_transposed(x, w, added=added))
    assert torch.equal(added, before)


def test_a_row_that_is_not_finite_spoils_itself_alone() -> None:
    x, w, bias, _ = matrices(*LARGE)
    x[7] = float("nan")
    finite = torch.isfinite(times_transposed(x, w, bias)).all(dim=1)
    assert finite.sum() == len(x) - 1
    assert not finite[7]


def test_numbers_of_another_type_are_multiplied_by_torch() -> None:
    x, w, _, _ = (each.double() for each in matrices(*LARGE))
    assert torch.equal(times_transposed(x, w), x @ w.t())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")
def test_this_torch_has_the_kernel_that_is_known() -> None:
    assert matmul._KERNELS is not None


def test_the_size_of_the_batch_does_not_choose_the_kernel() -> None:
    # A record's gradient that rounds otherwise because of a neighbour would let one record move the sum by more.
    _, w, bias, _ = matrices(*LARGE)
    x, _, _, _ = matrices(600, LARGE[1], LARGE[2])
    whole = times_transposed(x, w, bias)
    for records in (4, 7, 86, 599):
        assert torch.equal(times_transposed(x[:records], w, bias), whole[:records])


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 5), (5, 3), (130, 300), (300, 130), (512, 512)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_scaled_product_is_added_and_its_factors_stay_as_they_are(outputs: int, inputs: int, turned: bool) -> None:
    draw = torch.Generator().manual_seed(2)
    g, a, factors = (torch.randn(*shape, generator=draw) for shape in ((37, outputs), (37, inputs), (37,)))
    if turned:
        g, a = g.t().contiguous().t(), a.t().contiguous().t()
    before, out = [each.clone() for each in (g, a, factors)], torch.ones(outputs, inputs)
    add_product(out, g, a, factors)
    truth = 1.0 + (g.double() * factors.double()[:, None]).t() @ a.double()
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip((g, a, factors), before, strict=True))
