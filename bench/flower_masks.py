"""Flower's own SecAgg+ functions, called on a vector as its client mod and its server workflow call them."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

import numpy as np
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy.typing import NDArray

# The defaults of SecAggPlusWorkflow.
_CLIPPING_RANGE, _QUANTISATION_RANGE, _MODULUS = 8.0, 1 << 22, 1 << 32

Vectors = list[NDArray[np.int64]]


def pair_seed() -> bytes:
    """44 characters, as `generate_shared_key` gives."""
    return base64.urlsafe_b64encode(os.urandom(32))


def masked(values: NDArray[np.float32], pair_seeds: Sequence[bytes], own_seed: bytes) -> list[bytes]:
    """What a client uploads, as `_collect_masked_vectors` makes it; every second peer's mask is taken away."""
    parameters = parameters_multiply([values], 1.0)
    parameters = factor_combine(_QUANTISATION_RANGE, quantize(parameters, _CLIPPING_RANGE, _QUANTISATION_RANGE))
    shapes = [array.shape for array in parameters]
    parameters = parameters_addition(parameters, pseudo_rand_gen(own_seed, _MODULUS, shapes))
    for number, seed in enumerate(pair_seeds):
        mask = pseudo_rand_gen(seed, _MODULUS, shapes)
        combined = parameters_addition if number % 2 else parameters_subtraction
        parameters = combined(parameters, mask)
    return [ndarray_to_bytes(array) for array in parameters_mod(parameters, _MODULUS)]


def summed(upload: list[bytes], times: int) -> Vectors:
    """The sum of so many uploads."""
    total = [bytes_to_ndarray(data) for data in upload]
    for _ in range(times - 1):
        total = parameters_addition(total, [bytes_to_ndarray(data) for data in upload])
    return parameters_mod(total, _MODULUS)


def unmasked(total: Vectors, seeds: Sequence[bytes]) -> list[NDArray[np.float64]]:
    """The sum without these masks, as reals."""
    shapes = get_parameters_shape(total)
    for seed in seeds:
        total = parameters_subtraction(total, pseudo_rand_gen(seed, _MODULUS, shapes))
    _, integers = factor_extract(parameters_mod(total, _MODULUS))
    return dequantize(integers, _CLIPPING_RANGE, _QUANTISATION_RANGE)
