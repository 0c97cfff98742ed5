"""The loops in C give the bits that numpy gives, and are not taken where they are of another source."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lepton_fl.privacy import kernels
from lepton_fl.privacy.kernels import OnGrid, Scales, box_muller

ROOT = Path(__file__).resolve().parents[2]
needs_a_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler (cc)")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What was loaded is looked for anew, in the test and after it."""
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


@pytest.fixture(scope="module")
def built(hook: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with its library beside it."""
    root = tmp_path_factory.mktemp("built")
    source = root / "lepton_fl" / "privacy" / "kernels.c"
    source.parent.mkdir(parents=True)
    shutil.copy(kernels.SOURCE, source)
    library = hook.build(source)
    assert isinstance(library, Path)
    return library


@pytest.fixture
def compiled(built: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setattr(kernels, "SOURCE", built.with_name("kernels.c"))
    assert kernels.library() is not None


_WORDS = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64, endpoint=False)
_WORDS[:8] = [0, 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1025, 2**64 - 1, 2**32]
_WORDS[10_000:10_008] = [0, 1, 2, 3, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 4]
WORDS = torch.from_numpy(_WORDS.view(np.int64))


def by_numpy(call: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "library", lambda: None)
        call()  # type: ignore[operator]


@needs_a_compiler
@pytest.mark.parametrize("count", [2, 6, 1_000, 20_000])
def test_normal_numbers_have_the_bits_of_numpys(count: int, compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.cat([WORDS[: count // 2], WORDS[10_000 : 10_000 + count // 2]])
    found, expected = (torch.full((count,), torch.nan, dtype=torch.float64) for _ in range(2))
    box_muller(words, found)
    by_numpy(lambda: box_muller(words, expected), monkeypatch)
    assert expected.isfinite().all()
    assert torch.equal(found, expected)


@needs_a_compiler
@pytest.mark.parametrize("share", [None, 1.0, 0.97])
@pytest.mark.parametrize("of", [torch.float32, torch.float64])
@pytest.mark.parametrize("to", [torch.float32, torch.float64])
def test_a_release_has_the_bits_of_numpys(
    of: torch.dtype, to: torch.dtype, share: float | None, compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, count = np.random.default_rng(1), 4_099
    noise, total = torch.from_numpy(rng.normal(size=count)), torch.from_numpy(rng.normal(size=count) * 50).to(of)
    total[:5] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, 0.0])
    values = None if share is None else torch.from_numpy(rng.normal(size=count)).to(to)
    scales, outs = Scales(2.0**20, 2.0**20 * 0.7, 2.0**-20 / 3, share or 0.0), []
    for way in (lambda call: call(), lambda call: by_numpy(call, monkeypatch)):
        for in_place in (False, True):
            added = None if values is None else values.clone()
            into = torch.empty(count, dtype=to) if not in_place or added is None else added
            grid = OnGrid(total, into, added, scales)
            for start, end in ((0, 1_000), (1_000, 1_001), (1_001, count)):
                way(lambda grid=grid, start=start, end=end: grid.part(start, noise[start:end]))
            outs.append(into.numpy().tobytes())
    assert len(set(outs)) == 1


@given(st.integers(-3, 12), st.integers(0, 12))
def test_no_part_beyond_the_end_is_written(start: int, count: int) -> None:
    out = torch.zeros(9)
    grid = OnGrid(torch.zeros(9), out, None, Scales(1.0, 1.0, 1.0))
    if start < 0 or start + count > 9:
        with pytest.raises(ValueError, match="beyond the end"):
            grid.part(start, torch.ones(max(0, count), dtype=torch.float64))
        assert not out.any()
    else:
        grid.part(start, torch.ones(max(0, count), dtype=torch.float64))
        assert out.nonzero().flatten().tolist() == list(range(start, start + count))


@pytest.mark.parametrize(
    ("total", "out", "values"),
    [
        (torch.zeros(4)[::2], torch.zeros(2), None),
        (torch.zeros(4), torch.zeros(3), None),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32), None),
        (torch.zeros(2, 2), torch.zeros(2, 2), None),
        (torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.float64)),
        (torch.zeros(4), torch.zeros(4, device="meta"), None),
    ],
)
def test_what_a_kernel_would_misread_is_refused(
    total: torch.Tensor, out: torch.Tensor, values: torch.Tensor | None
) -> None:
    with pytest.raises(ValueError, match="this is a bug"):
        OnGrid(total, out, values, Scales(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (torch.zeros(4, dtype=torch.int64), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(4, dtype=torch.float64)),
        (torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.float64)),
        (torch.zeros(4, dtype=torch.int64), torch.zeros(4)),
        (torch.zeros(4, dtype=torch.int64), torch.zeros(8, dtype=torch.float64)[::2]),
    ],
)
def test_words_and_numbers_that_are_no_pairs_are_refused(words: torch.Tensor, out: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="this is a bug"):
        box_muller(words, out)


@needs_a_compiler
def test_a_library_of_another_source_is_not_taken_and_the_log_says_what_that_costs(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, forgotten: None
) -> None:
    source = tmp_path / "kernels.c"
    source.write_text(kernels.SOURCE.read_text() + "/* changed */")
    shutil.copy(built, tmp_path / built.name)
    monkeypatch.setattr(kernels, "SOURCE", source)
    with caplog.at_level(logging.WARNING):
        assert kernels.library() is None
    assert "the same numbers, at a tenth of the speed" in caplog.text


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_without_a_library_numpy_draws_the_noise(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    if content is not None:
        (tmp_path / "libkernels.so").write_bytes(content)
    monkeypatch.setattr(kernels, "SOURCE", Path(shutil.copy(kernels.SOURCE, tmp_path)))
    out = torch.empty(4, dtype=torch.float64)
    box_muller(torch.zeros(4, dtype=torch.int64), out)
    assert out.tolist() == pytest.approx([np.sqrt(2 * 64 * np.log(2))] * 2 + [0.0] * 2)


def test_where_nothing_compiles_nothing_is_left_behind(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "lepton_fl" / "privacy" / "kernels.c"
    source.parent.mkdir(parents=True)
    source.write_text("this is no C")
    assert hook.build(source) is None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert hook.build(source) is None
    assert [path.name for path in source.parent.iterdir()] == ["kernels.c"]


@needs_a_compiler
@pytest.mark.parametrize("variant", [-1, -2, -3])
def test_every_way_to_compile_gives_the_same_bits(
    variant: int, hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    """The last one has no wide registers, as on a processor without them; others may be none here."""
    source = tmp_path / "lepton_fl" / "privacy" / "kernels.c"
    source.parent.mkdir(parents=True)
    shutil.copy(kernels.SOURCE, source)
    if len(hook.VARIANTS) < -variant:
        pytest.skip("this processor or C library has no copies of a loop to choose from")
    monkeypatch.setattr(hook, "VARIANTS", [hook.VARIANTS[variant]])
    library = hook.build(source)
    if library is None and variant != -1:
        pytest.skip("this compiler knows no such copies")
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert kernels.library() is not None
    found, expected = (torch.empty(20_000, dtype=torch.float64) for _ in range(2))
    box_muller(WORDS, found)
    by_numpy(lambda: box_muller(WORDS, expected), monkeypatch)
    assert torch.equal(found, expected)


@needs_a_compiler
def test_the_source_compiles_without_a_warning(tmp_path: Path) -> None:
    command = [os.environ.get("CC", "cc"), "-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [str(kernels.SOURCE), "-o", str(tmp_path / "made.so"), "-lm"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
