"""The convolutional network of McMahan et al. for MNIST: two 5 x 5 layers and a dense one.

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
section 3: 32 and 64 channels, each followed by 2 x 2 max pooling, then 512 units with ReLU;
1,663,370 parameters at 28 x 28.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lepton_fl.models.shape import Model, Shape, require_positive


@dataclass
class Cnn(Model):
    """`model=cnn`."""

    channels: int  # of the first layer; the second has twice as many
    hidden: int  # units of the dense layer

    def __post_init__(self) -> None:
        require_positive(channels=self.channels, hidden=self.hidden)

    def build(self, shape: Shape) -> nn.Module:
        """See `Model.build`."""
        depth, height, width = shape.image("cnn", least=8)
        return nn.Sequential(
            nn.Conv2d(depth, self.channels, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(self.channels, 2 * self.channels, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * self.channels * (height // 4) * (width // 4), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, shape.outputs),
        )
