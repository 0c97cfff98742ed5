"""How long the self-test of a private run takes: `.venv/bin/python bench/self_test.py`.

The first line includes what is loaded once in a process; the run itself would load it too.
"""

from __future__ import annotations

import sys
import time
from itertools import product

import torch

from lepton_fl.models.mlp import Mlp
from lepton_fl.models.shape import Shape
from lepton_fl.privacy.randomness import Randomness
from lepton_fl.training.choose import engine_for
from lepton_fl.training.private import Draws, Mechanism
from lepton_fl.training.self_test import AsRun, Claimed, check_mechanism

SHAPE = Shape((100,), 1)


def main() -> None:
    """Print one line for each mechanism."""
    torch.manual_seed(0)
    model = Mlp(hidden=[64], activation="tanh").build(SHAPE)
    for rate, noise_multiplier, most in product((1.0, 0.1, 0.01, 0.001), (1.0, 20.0), (None, 16)):
        mechanism = Mechanism(noise_multiplier, 1.0, rate, 100.0, most)
        source = Randomness(None)
        draws = Draws(source.stream("sampling"), source.stream("noise"))
        began = time.perf_counter()
        check_mechanism(
            model, Claimed(mechanism, SHAPE), AsRun(mechanism, engine_for(model), draws), source.stream("canaries")
        )
        unit = "records" if most is None else "subjects"
        took = 1000 * (time.perf_counter() - began)
        sys.stdout.write(f"{unit:<8} rate {rate:<5g}  noise {noise_multiplier:4g}  {took:6.0f} ms\n")


if __name__ == "__main__":
    main()
