"""Logistic regression: one weight per feature, readable, and hard to beat on small tables."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lepton_fl.models.shape import Model, Shape


@dataclass
class Logistic(Model):
    """`model=logistic`: starts at zero, so that a run depends on no initial draw."""

    def build(self, shape: Shape) -> nn.Module:
        """See `Model.build`."""
        linear = nn.Linear(shape.inputs, shape.outputs)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.Flatten(), linear)
