"""What Flower's strategies carry from round to round, as named arrays: for a checkpoint.

`tests/strategies` runs every strategy straight through and through a checkpoint, and compares bit by bit; a new
attribute in a new release of Flower fails there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lepton_fl.flower import Array, ArrayRecord
from lepton_fl.flower import strategies as flower

Arrays = dict[str, npt.NDArray[np.generic]]

# FedAdagrad, FedAdam, FedYogi: first and second moment, by parameter.
_MOMENTS = ("m_t", "v_t")
# FedAvgM: the momentum, in the order of the parameters; and its model, which is not rounded to float32.
_MOMENTUM, _MODEL = "momentum_vector", "current_arrays"


def state_of(strategy: flower.Strategy) -> Arrays:
    """Everything that decides the next round beside the model; names are paths, `restore` is the inverse."""
    state: Arrays = {}
    for moment in _MOMENTS:
        state |= {f"{moment}/{name}": value for name, value in (getattr(strategy, moment, None) or {}).items()}
    for index, value in enumerate(getattr(strategy, _MOMENTUM, None) or ()):
        state[f"{_MOMENTUM}/{index:06}"] = value
    model = getattr(strategy, _MODEL, None)
    if isinstance(model, ArrayRecord):
        # A record's order matters to Flower, and a file of named arrays has none.
        state |= {f"{_MODEL}/{index:06}/{name}": one.numpy() for index, (name, one) in enumerate(model.items())}
    # numpy makes bare numbers of arrays without dimensions.
    return {path: np.asarray(value) for path, value in state.items()}


def restore(strategy: flower.Strategy, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Put a state into a freshly built strategy of the same kind and settings."""
    for moment in _MOMENTS:
        if values := _below(moment, state):
            setattr(strategy, moment, values)
    if values := _below(_MOMENTUM, state):
        setattr(strategy, _MOMENTUM, [values[index] for index in sorted(values)])
    if values := _below(_MODEL, state):
        arrays = {path.split("/", 1)[1]: Array(values[path]) for path in sorted(values)}
        setattr(strategy, _MODEL, ArrayRecord(arrays))


def _below(prefix: str, state: Mapping[str, npt.NDArray[np.generic]]) -> Arrays:
    return {path.removeprefix(f"{prefix}/"): value for path, value in state.items() if path.startswith(f"{prefix}/")}
