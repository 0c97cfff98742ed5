"""Handwritten digits, 1,797 images of 8 x 8, as scikit-learn ships them (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_fl.errors import ConfigError
from lepton_fl.models.shape import Shape
from lepton_fl.tasks.images import spread, to_examples, without
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
        subjects = [f"digits/{row}" for row in range(len(examples))]
        held, tunes = request.holdout.mask(subjects), request.holdout.tune_mask(subjects)
        rest, holdout = without(examples, held)
        train, tune = without(rest, tunes[~held])
        return spread(train, holdout, tune, self.made_up(request))
