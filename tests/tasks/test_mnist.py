"""IDX files: exactly what their header says, or an error; MNIST itself where it is at hand."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lepton_fl.errors import ConfigError, DataError
from lepton_fl.federation.terms import from_document, to_document
from lepton_fl.tasks.mnist import Mnist, read_idx
from lepton_fl.tasks.split import HoldOut, Partition
from lepton_fl.tasks.strokes import likeness
from lepton_fl.tasks.task import DataSource, Request

IMAGES, LABELS = 0x803, 0x801
MNIST_DIR = os.environ.get("LEPTON_MNIST_DIR")


def idx(magic: int, sizes: list[int], body: bytes) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + body


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def mnist(institutions: int = 2, features: str = "pixels") -> Mnist:
    return Mnist("digits", 10, Partition("site", institutions, alpha=100.0, seed=0), features=features)


def request(folder: Path | str | None) -> Request:
    return Request(DataSource(None, None if folder is None else str(folder)), HoldOut("key", 0.2, 0.0), None)


def write_pair(folder: Path, part: str, labels: list[int], images: int | None = None) -> None:
    count = len(labels) if images is None else images
    pixels = bytes(255 * (place % 2) for place in range(count * 784))
    written(folder / f"{part}-images-idx3-ubyte.gz", idx(IMAGES, [count, 28, 28], pixels))
    written(folder / f"{part}-labels-idx1-ubyte", idx(LABELS, [len(labels)], bytes(labels)))


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_an_idx_file_is_read_plain_or_compressed(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, idx(IMAGES, [2, 1, 3], bytes([0, 1, 2, 3, 4, 255])))
    assert read_idx(path, IMAGES).tolist() == [[[0, 1, 2]], [[3, 4, 255]]]


def test_labels_are_read_in_one_dimension(tmp_path: Path) -> None:
    assert read_idx(written(tmp_path / "labels", idx(LABELS, [3], bytes([7, 0, 9]))), LABELS).tolist() == [7, 0, 9]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "content",
    [
        idx(LABELS, [2], bytes(2)),
        idx(0x12345678, [1, 1, 1], bytes(1)),
        idx(IMAGES, [2, 1, 3], bytes(5)),
        idx(IMAGES, [2, 1, 3], bytes(7)),
        idx(IMAGES, [0, 28, 28], b""),
        idx(IMAGES, [2, 1, 3], b"")[:10],
        b"",
    ],
    ids=["another kind", "no magic", "cut short", "bytes left over", "nothing in it", "half a header", "empty"],
)
def test_a_file_that_is_not_what_its_header_says_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = written(tmp_path / f"images{suffix}", content)
    with pytest.raises(DataError, match=rf"^images{suffix} .*fetch it again$"):
        read_idx(path, IMAGES)


@pytest.mark.parametrize("lost", [1, 8, 9, 20])
def test_a_compressed_file_that_is_cut_short_is_refused(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES, [2, 5, 5], bytes(range(50))))[:-lost])
    with pytest.raises(DataError, match="fetch it again"):
        read_idx(path, IMAGES)


def test_a_compressed_file_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(idx(IMAGES, [2, 5, 5], bytes(range(50))), compresslevel=0))
    content[40] ^= 1
    path = tmp_path / "images.gz"
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="fetch it again"):
        read_idx(path, IMAGES)


def test_a_file_that_is_only_called_gz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(idx(IMAGES, [1, 1, 1], bytes(1)))
    with pytest.raises(DataError, match="fetch it again"):
        read_idx(path, IMAGES)


@pytest.mark.parametrize("sizes", [[2**32 - 1] * 3, [2**31, 2, 1], [60_000, 2**16, 2**16], [2**20, 2**6, 2**4]])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_absurd_sizes_are_refused_without_the_memory_they_ask_for(
    tmp_path: Path, sizes: list[int], suffix: str
) -> None:
    path = written(tmp_path / f"images{suffix}", idx(IMAGES, sizes, bytes(100)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="fetch it again"):
            read_idx(path, IMAGES)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_compressed_file_that_unpacks_to_far_more_than_its_header_says_is_refused_early(tmp_path: Path) -> None:
    path = written(tmp_path / "images.gz", idx(IMAGES, [1, 1, 1], bytes(64 * 2**20)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="fetch it again"):
            read_idx(path, IMAGES)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1])
    with pytest.raises(DataError, match=r"no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz in"):
        mnist().load(request(tmp_path))


def test_without_a_folder_nothing_is_read_and_the_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nothing was read; give data\.dir=FOLDER"):
        mnist().load(request(None))


def test_the_standard_test_set_is_the_hold_out_and_pixels_lie_between_zero_and_one(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1] * 20)
    write_pair(tmp_path, "t10k", [0, 1] * 10)
    sites = mnist().load(request(tmp_path)).sites
    assert [site.institution for site in sites] == ["site-1", "site-2"]
    assert sum(len(site.train) for site in sites) == 40
    assert sum(len(site.holdout) for site in sites) == 20
    assert tuple(sites[0].train.features.shape[1:]) == mnist().shape().features == (1, 28, 28)
    assert sites[0].train.features[0, 0, 0, :4].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_what_choices_are_made_with_is_taken_from_the_training_set(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1] * 40)
    write_pair(tmp_path, "t10k", [0, 1] * 10)
    sites = mnist().load(replace(request(tmp_path), holdout=HoldOut("key", 0.2, 0.3))).sites
    tuned = HoldOut("key", 0.2, 0.3).tune_mask([f"mnist/{row}" for row in range(80)]).sum()
    assert sum(len(site.tune) for site in sites) == tuned > 10
    assert sum(len(site.train) for site in sites) == 80 - tuned
    assert sum(len(site.holdout) for site in sites) == 20


@pytest.mark.slow
def test_scattering_features_are_the_likeness_of_each_image_and_the_shape_says_so(tmp_path: Path) -> None:
    write_pair(tmp_path, "train", [0, 1] * 4)
    write_pair(tmp_path, "t10k", [0, 1] * 4)
    task = mnist(features="scattering")
    seen, pixels = (one.load(request(tmp_path)).sites for one in (task, mnist()))
    for site, plain in zip(seen, pixels, strict=True):
        for part, same in ((site.train, plain.train), (site.holdout, plain.holdout)):
            assert part.features.shape[1:] == task.shape().features
            assert torch.allclose(part.features, likeness(same.features[:, 0]), atol=1e-3)
            assert torch.equal(part.labels, same.labels)


def test_what_a_model_sees_travels_with_the_terms() -> None:
    document = to_document("task", mnist(features="scattering"))
    assert document["features"] == "scattering"
    assert from_document("task", document) == mnist(features="scattering")


def test_features_that_there_are_none_of_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.features must be one of pixels, scattering, got wavelets"):
        mnist(features="wavelets")


@pytest.mark.parametrize("change", ["fewer images", "a label of 10", "small images"])
def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path: Path, change: str) -> None:
    write_pair(tmp_path, "train", [0, 1])
    write_pair(tmp_path, "t10k", [0, 1])
    if change == "fewer images":
        write_pair(tmp_path, "train", [0, 1, 2], images=2)
    elif change == "a label of 10":
        write_pair(tmp_path, "train", [0, 10])
    else:
        written(tmp_path / "train-images-idx3-ubyte.gz", idx(IMAGES, [2, 8, 8], bytes(128)))
    with pytest.raises(DataError, match=r"train images and labels .* do not belong together"):
        mnist().load(request(tmp_path))


@pytest.mark.skipif(MNIST_DIR is None, reason="LEPTON_MNIST_DIR names no folder with MNIST's four IDX files")
def test_mnist_itself_has_60000_images_to_train_on_and_10000_held_out() -> None:
    sites = mnist(institutions=10).load(request(MNIST_DIR)).sites
    assert len(sites) == 10
    assert sum(len(site.train) for site in sites) == 60_000
    assert sum(len(site.holdout) for site in sites) == 10_000
    first = [int((site.train.labels == 5).sum()) for site in sites]
    assert sum(first) == 5_421  # the fives among the training images, as published
