"""A model that every instruction overwrites, with its values as one vector beside it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from lepton_fl.federation.arrays import form_checked, refuse_broken, split, template_of
from lepton_fl.flower import ArrayRecord


class Loading:
    """See the module; for who loads many times: what the model looks like is asked once."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: stays on its device, and its tensors the same ones.
        """
        self.template = template_of(model)
        self._tensors = list(model.state_dict().values())
        self.values = torch.empty(sum(map(math.prod, self.template.values())))  # float32 [d] on the CPU
        parts = split(self.values, self.template)
        self._parts = [part.view(shape) for part, shape in zip(parts, self.template.values(), strict=True)]
        self._as_numpy = [part.numpy() for part in self._parts]

    def load(self, arrays: ArrayRecord) -> None:
        """Set `values`, and the model's, from arrays that were checked; the model is as it was where they are refused.

        Raises:
            BadArrays: as `arrays.load_arrays`.
        """
        for own, values in zip(self._as_numpy, form_checked(arrays, self.template).values(), strict=True):
            np.copyto(own, values)
        refuse_broken(self.values, self.template)
        with torch.no_grad():
            for tensor, part in zip(self._tensors, self._parts, strict=True):
                tensor.copy_(part)
