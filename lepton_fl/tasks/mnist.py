"""MNIST from the standard IDX files, plain or gzip, in `data.dir`; never part of this package.

The hold-out is the standard test set, so that an accuracy can be compared with published ones; what choices during
training are made with is taken from the training set. Layout:
LeCun et al., "The MNIST database of handwritten digits": big-endian magic, sizes, then bytes.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lepton_fl.errors import ConfigError, DataError
from lepton_fl.models.shape import Shape
from lepton_fl.tasks.images import spread, to_examples, without
from lepton_fl.tasks.strokes import FIGURES, likeness
from lepton_fl.tasks.task import Loaded, Request, Task
from lepton_fl.training.examples import Examples

_IMAGES, _LABELS = 0x803, 0x801  # unsigned bytes in three, and in one dimension
_PIXELS = (28, 28)
_LARGEST_BYTES = 1 << 26  # MNIST has 47 million; a header may claim anything

PIXELS, SCATTERING = FEATURES = ("pixels", "scattering")


@dataclass
class Mnist(Task):
    """`task=mnist data.dir=FOLDER`."""

    # What a model sees of an image: its pixels, or its likeness to drawn strokes, from public constants alone.
    features: str = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features not in FEATURES:
            raise ConfigError(f"task.features must be one of {', '.join(FEATURES)}, got {self.features[:40]}")

    def shape(self) -> Shape:
        """See `Task.shape`."""
        return Shape((1, *_PIXELS) if self.features == PIXELS else (FIGURES,), 10)

    def load(self, request: Request) -> Loaded:
        """See `Task.load`."""
        if request.source.dir is None:
            raise ConfigError(
                "task=mnist needs the four IDX files; nothing was read; give data.dir=FOLDER (see docs/data.md)"
            )
        folder = Path(request.source.dir).expanduser()
        learned, held_out = (self._seen(_read_pair(folder, part)) for part in ("train", "t10k"))
        tunes = request.holdout.tune_mask([f"mnist/{row}" for row in range(len(learned))])
        train, tune = without(learned, tunes)
        return spread(train, held_out, tune, self.made_up(request))

    def _seen(self, examples: Examples) -> Examples:
        """The examples with the features that a model sees."""
        if self.features == PIXELS:
            return examples
        return replace(examples, features=likeness(examples.features[:, 0]))


def _read_pair(folder: Path, part: str) -> Examples:
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), _IMAGES)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), _LABELS)
    if images.shape[1:] != _PIXELS or len(images) != len(labels) or labels.max(initial=0) > 9:
        raise DataError(f"the {part} images and labels in {folder} do not belong together; fetch the files again")
    return to_examples(images, labels, 255)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"there is no {name} or {name}.gz in {folder}; nothing was read; see docs/data.md")


def read_idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    """The array of an IDX file, after its magic, sizes and exact length were checked.

    Raises:
        DataError: another kind of file, sizes out of reason, or a length that does not match them.
    """
    dimensions = magic & 0xFF
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 * (1 + dimensions))
            found, *sizes = struct.unpack(f">{1 + dimensions}I", header)
            count = int(np.prod(sizes, dtype=object))
            if found != magic or not 0 < count <= _LARGEST_BYTES:
                raise DataError(f"{path.name} is not an IDX file of the expected kind; fetch it again")
            body = file.read(count + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path.name} is cut short or damaged; fetch it again") from error
    if len(body) != count:
        raise DataError(f"{path.name} holds {len(body)} bytes where its header says {count}; fetch it again")
    return np.frombuffer(body, dtype=np.uint8).reshape(sizes)
