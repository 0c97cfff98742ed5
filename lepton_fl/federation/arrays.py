"""Models as named float32 arrays, and the checks on arrays that someone else sent."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_fl.federation.codec import LARGEST_HEADER, BadMessage, array_of, read_header
from lepton_fl.flower import ArrayRecord, array_record

Template = Mapping[str, tuple[int, ...]]
"""Every parameter's name and shape; all are float32."""


# A trained weight is far below this, and squares and sums of such values stay finite in float32, so that one
# institution's number cannot freeze an adaptive strategy's second moment for good.
LARGEST_VALUE = 1e6
_FLOAT32 = np.dtype("<f4")


class BadArrays(ValueError):
    """Arrays that are not this model's; the message names the array, never a value."""


def template_of(model: nn.Module) -> Template:
    """What a reply's arrays must look like."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def to_arrays(model: nn.Module) -> ArrayRecord:
    """The model's values, as Flower carries them."""
    return array_record((name, array_of(value.detach().cpu().numpy())) for name, value in model.state_dict().items())


def load_arrays(model: nn.Module, arrays: ArrayRecord) -> None:
    """Set the model's values from checked arrays, in place.

    Raises:
        BadArrays: names, shapes or types differ from the model's, or a value is not finite; nothing was set.
    """
    state = model.state_dict()
    values = checked(arrays, {name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.no_grad():
        for name, tensor in state.items():  # which share their memory with the model
            tensor.copy_(torch.from_numpy(values[name]))


def checked(arrays: ArrayRecord, template: Template) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays' values in the template's order, after every property was checked before use.

    Raises:
        BadArrays: what differs, and in which array.
    """
    found = form_checked(arrays, template)
    for name, values in found.items():
        if not is_in_range(values):
            raise BadArrays(f"{name} has values that are not finite or beyond {LARGEST_VALUE:g}")
    return {name: values.copy(order="C") for name, values in found.items()}


def form_checked(arrays: ArrayRecord, template: Template) -> dict[str, npt.NDArray[np.float32]]:
    """As `checked`, but for the size of the values, which are read where they are: nothing can be written to them."""
    if set(arrays) != set(template):
        odd = sorted(set(arrays) ^ set(template))
        raise BadArrays(f"the parameters are not this model's: {_short(odd[0])} is missing or unknown")
    return {name: _values(name, arrays[name].data, shape) for name, shape in template.items()}


def sha256_of(values: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """SHA-256 of a model: names, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(f"{len(name)}:{name}{values[name].shape}".encode())
        digest.update(np.ascontiguousarray(values[name], "<f4").data)
    return digest.digest()


def _values(name: str, data: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The values of one .npy blob; the header is compared before anything is made of it."""
    expected_bytes = 4 * math.prod(shape)
    if len(data) > expected_bytes + LARGEST_HEADER:
        raise BadArrays(f"{name} has {len(data)} bytes where {expected_bytes} are due")
    try:
        form = read_header(data)
    except BadMessage as error:
        raise BadArrays(f"{name}: {error}") from error
    if form.dtype != _FLOAT32:
        raise BadArrays(f"{name} has the type {form.dtype}, not float32")
    if form.shape != shape:
        raise BadArrays(f"{name} has the shape {_short(str(form.shape))}, not {shape}")
    if len(data) - form.start != expected_bytes:
        raise BadArrays(f"{name} has {len(data) - form.start} bytes of values where {expected_bytes} are due")
    flat = np.frombuffer(data, dtype=_FLOAT32, offset=form.start)
    return flat.reshape(shape, order="F" if form.is_fortran else "C")


def is_in_range(values: npt.NDArray[np.float32]) -> bool:
    """Whether every value is finite and of a size that a trained one has."""
    if values.size == 0:
        return True
    if values.dtype == np.float32 and values.flags.c_contiguous:
        # The squares' sum is the cheapest look at every value; NaN compares false, and so does what is too much for it.
        flat = values.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if np.dot(flat, flat) <= LARGEST_VALUE**2:
                return True
    # NaN is the least and the largest of what it is among, and compares false.
    least, most = np.minimum.reduce(values, axis=None), np.maximum.reduce(values, axis=None)
    return bool(least >= -LARGEST_VALUE and most <= LARGEST_VALUE)


def split(values: Tensor, template: Template) -> tuple[Tensor, ...]:
    """The parts of a flat state, one after another."""
    parts: tuple[Tensor, ...] = values.split([math.prod(shape) for shape in template.values()])
    return parts


def refuse_broken(values: Tensor, template: Template) -> None:
    """Return if every value is one that `checked` takes; raises `BadArrays` naming the tensor."""
    # The squares' sum is the cheapest look at every value; NaN compares false.
    if float(torch.dot(values, values)) <= LARGEST_VALUE**2:
        return
    for name, part in zip(template, split(values, template), strict=True):
        if not bool((part.abs() <= LARGEST_VALUE).all()):
            raise BadArrays(f"{name} has values that are not finite or beyond {LARGEST_VALUE:g}")


def _short(text: str) -> str:
    """A peer's text, bounded and printable, before it reaches a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:60])
