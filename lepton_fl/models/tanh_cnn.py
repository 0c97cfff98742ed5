"""A small convolutional network with tanh, for private training of images.

Papernot et al. 2021, "Tempered Sigmoid Activations for Deep Learning with Differential Privacy", table 1:
bounded activations keep gradients small, so clipping removes less; 26,010 parameters at 28 x 28.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lepton_fl.models.shape import Model, Shape, require_positive


@dataclass
class TanhCnn(Model):
    """`model=tanh_cnn`."""

    channels: int  # of the first layer; the second has twice as many
    hidden: int  # units of the dense layer

    def __post_init__(self) -> None:
        require_positive(channels=self.channels, hidden=self.hidden)

    def build(self, shape: Shape) -> nn.Module:
        """See `Model.build`."""
        depth, height, width = shape.image("tanh_cnn", least=16)
        return nn.Sequential(
            nn.Conv2d(depth, self.channels, 8, stride=2, padding=3),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(self.channels, 2 * self.channels, 4, stride=2),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(2 * self.channels * _after(height) * _after(width), self.hidden),
            nn.Tanh(),
            nn.Linear(self.hidden, shape.outputs),
        )


def _after(size: int) -> int:
    """Pixels left of `size` after both convolutions and both poolings."""
    size = (size + 6 - 8) // 2 + 1 - 1
    return (size - 4) // 2 + 1 - 1
