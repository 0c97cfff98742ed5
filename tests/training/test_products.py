"""Each member's own products, in C and by torch: the same numbers, and nothing written beside them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lepton_fl.compiled import library_of
from lepton_fl.training.cohort import clipped, products, walk

ROOT = Path(__file__).resolve().parents[2]
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 23), st.integers(1, 150), st.integers(1, 70))
needs_a_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler (cc)")
needs_products = pytest.mark.skipif(products.library() is None, reason="no C compiler, or no wide registers")


@pytest.fixture(params=["C", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, each in a run of its own."""
    if request.param == "torch":
        monkeypatch.setattr(products, "library", lambda: None)
    elif products.library() is None:
        pytest.skip("no C compiler, or no wide registers")


def drawn(*shape: int, seed: int = 0, pad: int = 3) -> Tensor:
    """Numbers whose rows are further apart than they are long."""
    whole = torch.randn(
        *shape[:-1], shape[-1] + pad, generator=torch.Generator().manual_seed(10_000 * seed + sum(shape))
    )
    return whole[..., : shape[-1]]


def near(found: Tensor, expected: Tensor, sizes: Tensor, terms: int) -> bool:
    """Within what float32 may lose of so many terms, whatever their order, of which the sizes are added up.

    Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    return bool(((found.double() - expected).abs() <= 2.0**-24 * (terms + 4) * sizes).all())


@pytest.mark.usefixtures("way")
@given(sizes=SIZES, has_bias=st.booleans(), more=st.sampled_from([0.0, 1.0]), across=st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_times_rows_are_those_of_float64(
    sizes: tuple[int, int, int, int], has_bias: bool, more: float, across: bool
) -> None:
    members, rows, depth, columns = sizes
    x, w, bias = drawn(members, rows, depth), drawn(members, columns, depth, seed=1), drawn(members, columns, seed=2)
    out = torch.full((members, columns, rows), torch.nan).mT if across else None
    found = products.times_transposed(x, w, bias if has_bias else None, more, out)
    expected = x.double() @ w.double().mT + more + (bias.double()[:, None] if has_bias else 0.0)
    assert found.shape == expected.shape
    assert out is None or found is out
    sizes_of_terms = x.double().abs() @ w.double().abs().mT + more + bias.double().abs()[:, None]
    assert near(found, expected, sizes_of_terms, depth)


@pytest.mark.usefixtures("way")
@given(
    sizes=SIZES,
    scales=st.tuples(st.sampled_from([0.0, 1.0, 0.5]), st.sampled_from([1.0, -0.3])),
    across=st.booleans(),
    elsewhere=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_product_is_added_where_it_is_wanted_and_nowhere_else(
    sizes: tuple[int, int, int, int], scales: tuple[float, float], across: bool, elsewhere: bool
) -> None:
    members, rows, depth, columns = sizes
    a = drawn(members, depth, rows).mT if across else drawn(members, rows, depth)
    b, (keep, scale) = drawn(members, depth, columns, seed=1), scales
    around = torch.full((members, rows + 2, columns + 40), 7.0)
    out = around[:, 1:-1, 20:-20]
    out.copy_(drawn(members, rows, columns, seed=2))
    before = drawn(members, rows, columns, seed=3) if elsewhere else None
    kept = (out if before is None else before).double() * keep
    expected = kept + scale * (a.double() @ b.double())
    assert products.add_product(out, a, b, keep, scale, before) is out
    assert near(out, expected, kept.abs() + a.double().abs() @ b.double().abs(), depth)
    out.fill_(7.0)
    assert bool((around == 7.0).all())


@pytest.mark.usefixtures("way")
def test_what_is_not_kept_is_not_read() -> None:
    out = torch.full((2, 7, 21), torch.nan)
    products.add_product(out, torch.ones(2, 7, 3), torch.ones(2, 3, 21), keep=0.0)
    assert out.unique().tolist() == [3.0]


@pytest.mark.usefixtures("way")
def test_members_may_share_a_matrix() -> None:
    x, w = drawn(3, 4, 20), drawn(5, 20, seed=1)
    bias = drawn(5, seed=2)
    found = products.times_transposed(x, w.expand(3, -1, -1), bias.expand(3, -1))
    assert torch.allclose(found, x @ w.T + bias, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_no_records_are_nothing() -> None:
    assert products.times_transposed(torch.empty(2, 0, 9), torch.ones(2, 4, 9)).shape == (2, 0, 4)
    assert not products.times(torch.empty(2, 3, 0), torch.empty(2, 0, 33)).any()


@pytest.mark.usefixtures("way")
def test_one_broken_record_breaks_its_own_row_alone() -> None:
    x, w = drawn(1, 12, 40), drawn(1, 9, 40, seed=1)
    x[0, 5, 39] = torch.nan
    broken = products.times_transposed(x, w)[0].isnan()
    assert broken[5].all()
    assert int(broken.sum()) == 9
    x[0, 5, 39] = torch.inf
    broken = products.times_transposed(x, w)[0].isinf()
    assert broken[5].all()
    assert int(broken.sum()) == 9


@needs_products  # torch chooses its order by the size of a batch
def test_a_row_has_the_same_bits_whoever_stands_beside_it() -> None:
    x, w = drawn(1, 23, 45), drawn(1, 11, 45, seed=1)
    together = products.times_transposed(x, w)
    alone = [products.times_transposed(x[:, i : i + 1], w) for i in range(23)]
    assert torch.equal(together, torch.cat(alone, 1))
    a = drawn(1, 23, 9)
    b = drawn(1, 9, 77, seed=1)
    together = products.times(a, b)
    assert torch.equal(together, torch.cat([products.times(a[:, i : i + 1], b) for i in range(23)], 1))


@needs_a_compiler
@pytest.mark.parametrize("source", [products.SOURCE, walk.SOURCE, clipped.SOURCE], ids=lambda path: path.name)
def test_a_source_compiles_without_a_warning(source: Path, tmp_path: Path) -> None:
    command = [os.environ.get("CC", "cc"), "-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [str(source), "-o", str(tmp_path / "made.so"), "-lm"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_a_compiler
def test_where_registers_are_narrow_or_a_header_is_another_one_torch_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    folder = tmp_path / "cohort"
    shutil.copytree(products.SOURCE.parent, folder, ignore=shutil.ignore_patterns("*.so", "*.py", "__pycache__"))
    monkeypatch.setattr(hook, "VARIANTS", hook.VARIANTS[-1:])
    monkeypatch.setattr(products, "SOURCE", folder / "products.c")
    assert hook.build(products.SOURCE) is not None
    assert library_of(products.SOURCE) is not None
    assert products.library.__wrapped__() is None
    with (folder / "tiles.h").open("a") as header:
        header.write("/* changed */")
    assert library_of(products.SOURCE) is None
