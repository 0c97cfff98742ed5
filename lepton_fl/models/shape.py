"""What every model's dataclass promises, and the shapes it is built for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lepton_fl.errors import ConfigError


@dataclass(frozen=True)
class Shape:
    """`features`: of one record, say (38,) or (1, 28, 28); `outputs`: logits, 1 for two classes."""

    features: tuple[int, ...]
    outputs: int

    @property
    def inputs(self) -> int:
        """Numbers in one record."""
        count = 1
        for size in self.features:
            count *= size
        return count

    def image(self, model: str, least: int) -> tuple[int, int, int]:
        """(channels, height, width), or an error that names models which would do."""
        if len(self.features) != 3 or min(self.features[1:]) < least:
            raise ConfigError(
                f"model {model} needs images of at least {least} x {least} pixels and this task's records have "
                f"the shape {self.features}; nothing was trained; choose model=logistic or model=mlp"
            )
        return (self.features[0], self.features[1], self.features[2])


def require_positive(**sizes: int) -> None:
    """Refuse a layer without units."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"model.{name} must be at least 1, got {size}")


@dataclass
class Model:
    """A model's settings; `build` makes the model."""

    def build(self, shape: Shape) -> nn.Module:
        """A freshly initialised model, drawing from torch's generator; float32 in, logits out."""
        raise NotImplementedError
