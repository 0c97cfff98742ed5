"""Handwritten digits, 1,797 images of 8 x 8, as scikit-learn ships them (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lepton_fl.errors import ConfigError
from lepton_fl.models.shape import Shape
from lepton_fl.tasks.images import spread, to_examples
from lepton_fl.tasks.task import Loaded, Request, Task

_BRIGHTEST = 16  # declared: pixels count set bits in 4 x 4 blocks


@dataclass
class Digits(Task):
    """`task=digits`; a subject is an image, its id the place in scikit-learn's file."""

    def shape(self) -> Shape:
        """See `Task.shape`."""
        return Shape((1, 8, 8), 10)

    def load(self, request: Request) -> Loaded:
        """See `Task.load`."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ConfigError("task=digits needs scikit-learn; install lepton-fl[sim]") from error
        bunch = load_digits()
        examples = to_examples(bunch.images, bunch.target, _BRIGHTEST)
        held = torch.from_numpy(request.holdout.mask([f"digits/{row}" for row in range(len(examples))]))
        return spread(examples.at((~held).nonzero()[:, 0]), examples.at(held.nonzero()[:, 0]), self.made_up(request))
