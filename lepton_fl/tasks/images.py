"""Images with labels and no institution: shared by the image tasks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lepton_fl.tasks.split import Partition
from lepton_fl.tasks.task import Loaded
from lepton_fl.training.examples import Examples, Site


def to_examples(pixels: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], brightest: float) -> Examples:
    """Pixels scaled by their declared range 0..`brightest` to [0, 1], float32 [n, 1, height, width]."""
    scaled = (pixels.astype(np.float32) / np.float32(brightest))[:, None]
    return Examples(torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64)))


def without(examples: Examples, left_out: npt.NDArray[np.bool_]) -> tuple[Examples, Examples]:
    """The examples that are not left out, and those that are."""
    out = torch.from_numpy(left_out)
    return examples.at((~out).nonzero()[:, 0]), examples.at(out.nonzero()[:, 0])


def spread(train: Examples, holdout: Examples, tune: Examples, made_up: tuple[Partition, int]) -> Loaded:
    """Made-up institutions with a part of each; all parts follow the same draw; an image is its own subject."""
    partition, institutions = made_up
    parts = [
        (part, torch.from_numpy(partition.assign(part.labels.numpy(), _subjects(kind, len(part)), institutions)))
        if len(part)
        else (part, torch.zeros(0))
        for kind, part in (("train", train), ("hold-out", holdout), ("tune", tune))
    ]
    return Loaded(
        tuple(
            Site(name, *(part.at((places == number).nonzero()[:, 0]) for part, places in parts))
            for number, name in enumerate(partition.names(institutions))
        )
    )


def _subjects(kind: str, count: int) -> list[str]:
    return [f"{kind}/{row}" for row in range(count)]
